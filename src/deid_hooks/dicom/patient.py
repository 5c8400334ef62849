"""Whose images these are: what must agree between the instances of one acquisition."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from deid_hooks.query.names import fold

if TYPE_CHECKING:  # whoever only asks the log needs no pydicom
    from deid_hooks.dicom.capture import Snapshot

_PATIENT_ID = 0x00100020
_ISSUER = 0x00100021
_BIRTH_DATE = 0x00100030
_NAME = 0x00100010

KEYWORDS = ("PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientName")


class Patient(NamedTuple):
    """PatientID, its issuer, birth date, and the name in one spelling: see ``KEYWORDS``."""

    patient_id: str
    issuer: str
    birth_date: str
    name: str

    def __repr__(self) -> str:
        return "Patient(...)"


def patient_of(original: Snapshot) -> Patient:
    """Whose instance this is. Case, spaces and empty components of the name make no difference."""
    return Patient(
        original.text(_PATIENT_ID) or "",
        original.text(_ISSUER) or "",
        original.text(_BIRTH_DATE) or "",
        fold(original.text(_NAME) or ""),
    )
