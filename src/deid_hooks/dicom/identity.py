"""What identifies an instance: whose it is, and when it was acquired by the clock on the wall."""

from __future__ import annotations

import re
from datetime import date
from typing import TYPE_CHECKING, NamedTuple

from deid_hooks.dicom.capture import Snapshot, read_items
from deid_hooks.dicom.dictionary import (
    ISSUER_OF_PATIENT_ID,
    PATIENT_BIRTH_DATE,
    PATIENT_ID,
    PATIENT_NAME,
)
from deid_hooks.dicom.names import fold

if TYPE_CHECKING:  # whoever only asks the log needs no pydicom
    from deid_hooks.dicom.capture import Snapshot

KEYWORDS = ("PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientName")


class Patient(NamedTuple):
    """PatientID, its issuer, birth date, and the name in one spelling: see ``KEYWORDS``."""

    patient_id: str
    issuer: str
    birth_date: str
    name: str

    def __repr__(self) -> str:
        return "Patient(...)"


def read_patient(original: Snapshot) -> Patient:
    """Whose instance this is. Case, spaces and empty components of the name make no difference."""
    return Patient(
        original.text(PATIENT_ID) or "",
        original.text(ISSUER_OF_PATIENT_ID) or "",
        original.text(PATIENT_BIRTH_DATE) or "",
        fold(original.text(PATIENT_NAME) or ""),
    )


_ACQUISITION_DATE_TIME = 0x0008002A
_FRAME_ACQUISITION_DATE_TIME = 0x00189074
_FRAME_CONTENT_SEQUENCE = 0x00209111
_PER_FRAME_SEQUENCE = 0x52009230
_DATES_AND_TIMES = (
    (0x00080022, 0x00080032),  # Acquisition
    (0x00080021, 0x00080031),  # Series
    (0x00080023, 0x00080033),  # Content
    (0x30060008, 0x30060009),  # Structure Set
    (0x300A0006, 0x300A0007),  # RT Plan
    (0x00080020, 0x00080030),  # Study
)

_DATE = re.compile(r"(\d{4})[.-]?(?:(\d\d)[.-]?(?:(\d\d))?)?")
_TIME = re.compile(r"(\d\d):?(?:(\d\d):?(?:(\d\d)(\.\d{1,6})?)?)?")


def find_timestamp(original: Snapshot) -> str | None:
    """Return the first date and time that the instance has, from the most to the least exact.

    ``2004-01-19T07:27:30.250000``, shorter where the data are less precise, None without a date.
    """
    moment = _date_time(original.text(_ACQUISITION_DATE_TIME)) or _frame_moment(original)
    if moment:
        return moment
    for day, time in _DATES_AND_TIMES:
        if found := format_iso(original.text(day), original.text(time)):
            return found
    return None


def _frame_moment(original: Snapshot) -> str | None:
    """Return the earliest Frame Acquisition DateTime of a multi-frame image (C.7.6.16.2.2)."""
    frames = original.elements.get(_PER_FRAME_SEQUENCE)
    if frames is None:
        return None
    moments = []
    for frame in read_items(original, frames) or ():
        content = frame.elements.get(_FRAME_CONTENT_SEQUENCE)
        for item in (read_items(frame, content) or ()) if content is not None else ():
            if moment := _date_time(item.text(_FRAME_ACQUISITION_DATE_TIME)):
                moments.append(moment)
    return min(moments, default=None)


def _date_time(text: str | None) -> str | None:
    """Return a DT value; its offset from UTC has a column of its own."""
    plain = (text or "").split("+")[0].split("-")[0]
    return format_iso(plain[:8], plain[8:])


def format_iso(day: str | None, time: str | None) -> str | None:
    """Return a DA and a TM value as one moment, ``2004-01-19T07:27:30``; None without a date."""
    numbers = _DATE.fullmatch((day or "").strip())
    if not numbers:
        return None
    year, month, day_of_month = numbers.groups()
    try:
        date(int(year), int(month or 1), int(day_of_month or 1))
    except ValueError:  # there is no such day
        return None
    written = "-".join(part for part in (year, month, day_of_month) if part)
    clock = _TIME.fullmatch((time or "").strip())
    if not clock or not day_of_month:
        return written
    hour, minute, second, fraction = clock.groups()
    if int(hour) > 23 or int(minute or 0) > 59 or int(second or 0) > 60:
        return written
    return f"{written}T{hour}:{minute or '00'}:{second or '00'}{fraction or ''}"
