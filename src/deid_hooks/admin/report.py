"""All that left about a subject: a row for each acquisition at each destination."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from deid_hooks.admin.access import PAGE
from deid_hooks.admin.lookup import identify_person
from deid_hooks.backends.rules import Copy, group_copies
from deid_hooks.batches import split_batches
from deid_hooks.log import Log
from deid_hooks.records.model import Entry

PATIENT = ("PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate")
COLUMNS = [
    *("id", "project", *PATIENT),
    *("subject", "blocked", "timestamp", "StudyDate", "Modality", "instances"),
    *("destination", "outcome", "at", "withdrawn"),
    *("deid_StudyInstanceUID", "deid_SeriesInstanceUID", "deid_SOPInstanceUID"),
]


@dataclass(frozen=True, slots=True)
class Line:
    """One acquisition at one destination. ``person`` is equal for one (PatientID, issuer)."""

    log_id: str
    person: Hashable
    row: dict[str, Any]


def report(log: Log, log_ids: Iterable[str]) -> Iterator[Line]:
    """Yield the lines of these entries, in their order, some entries at a time."""
    blocked: dict[tuple[tuple[str, ...], str], bool] = {}
    for page in split_batches(log_ids, PAGE):
        copies = group_copies(log.uploads(page))
        for entry in log.entries(page):
            key = entry.patients, entry.project
            if key not in blocked:
                if len(blocked) > PAGE:
                    blocked.clear()
                blocked[key] = log.blocked(*key)
            person = (identify_person(entry), entry.project)
            for copy in copies.get(entry.log_id) or [Copy(entry.log_id, "", "", "")]:
                yield Line(entry.log_id, person, _make_row(entry, copy, blocked[key]))


def _make_row(entry: Entry, copy: Copy, blocked: bool) -> dict[str, Any]:
    return {
        "id": entry.log_id,
        "project": entry.project,
        **{keyword: unwrap(entry.fields.get(keyword)) for keyword in PATIENT},
        "subject": unwrap(entry.deid.get("PatientID")),
        "blocked": blocked,
        "timestamp": entry.timestamp,
        "StudyDate": unwrap(entry.fields.get("StudyDate")),
        "Modality": unwrap(entry.fields.get("Modality")),
        "instances": len(entry.instances),
        "destination": copy.destination or None,
        "outcome": copy.outcome or None,
        "at": copy.at or None,
        "withdrawn": copy.withdrawn or None,
        "deid_StudyInstanceUID": unwrap(entry.deid.get("StudyInstanceUID")),
        "deid_SeriesInstanceUID": unwrap(entry.deid.get("SeriesInstanceUID")),
        "deid_SOPInstanceUID": list(entry.deid_uids),
    }


def unwrap(values: Sequence[str] | None) -> str | list[str] | None:
    """Return a single value itself, several as a list, and None for none."""
    return None if not values else values[0] if len(values) == 1 else list(values)
