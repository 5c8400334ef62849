"""Whom an entry is about, and what a dataset says of its own identity."""

from __future__ import annotations

import json
from collections.abc import Hashable
from typing import TYPE_CHECKING

from deid_hooks.entry import Entry, Instance
from deid_hooks.names import fold

if TYPE_CHECKING:
    from pydicom.dataset import Dataset  # 200 ms that a report does not need


def person_of(entry: Entry) -> Hashable | None:
    """What tells the persons of two entries apart; None where nothing in the entry does.

    PatientID and issuer, by their digest; without a PatientID the name and the date of birth.
    """
    if entry.patients:
        return entry.patients
    name = fold(entry.fields.get("PatientName", ("",))[0])
    birth_date = entry.fields.get("PatientBirthDate", ("",))[0]
    return (name, birth_date) if name or birth_date else None


def mark_identity_restored(dataset: Dataset) -> None:
    """Say that the identity is back, as a re-identifier has to (PS3.15, section E.1.2)."""
    dataset.PatientIdentityRemoved = "NO"
    for keyword in ("DeidentificationMethod", "DeidentificationMethodCodeSequence"):
        if keyword in dataset:
            delattr(dataset, keyword)


def originals_of(entry: Entry, instance: Instance | None) -> dict[str, object]:
    """Path to element of what was logged of one instance, or of all instances alike."""
    own = json.loads(instance.originals) if instance else {}
    return {**json.loads(entry.originals), **own}
