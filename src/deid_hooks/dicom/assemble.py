"""From the changes of many instances to one entry: what they have in common stands once."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from deid_hooks.dicom.capture import read_items
from deid_hooks.dicom.dictionary import (
    ISSUER_OF_PATIENT_ID,
    PATIENT_BIRTH_DATE,
    PATIENT_ID,
    PATIENT_NAME,
    lookup_tag,
)
from deid_hooks.dicom.difference import FINGERPRINT, Changes
from deid_hooks.dicom.names import fold
from deid_hooks.errors import UnableToLog
from deid_hooks.records.keys import (
    SiteSecret,
    compute_content_digest,
    compute_patient_digest,
    write_canonical_json,
)
from deid_hooks.records.model import Entry, Instance, make_readable, read_clock

if TYPE_CHECKING:
    from deid_hooks.dicom.capture import Snapshot

Policy = Literal["all", "identifying"]

_CHARACTER_SET = "00080005"


def assemble(
    gathered: Sequence[Changes],
    log_id: str,
    project: str,
    uploader: str,
    secret: SiteSecret,
    fields: Sequence[str],
    policy: Policy = "all",
) -> Entry:
    """Return the entry of an acquisition. The order in which instances came makes no difference."""
    large = {plain: secret.digest(plain.encode()) for each in gathered for plain in each.large}
    originals = [_kept(each, large, fields, policy) for each in gathered]
    common = _common(originals)
    uid_counts = Counter(each.deid_uid for each in gathered)
    instances = [
        Instance(each.uid, each.deid_uid, _rest(each, own, common, uid_counts[each.deid_uid] > 1))
        for each, own in zip(gathered, originals, strict=True)
    ]
    entry = Entry(
        log_id=log_id,
        created=read_clock(),
        uploader=uploader,
        project=project,
        timestamp=min((t for each in gathered if (t := each.timestamp)), default=None),
        fields=_distinct(each.fields for each in gathered),
        deid=_distinct(each.deid for each in gathered),
        originals=_object(common),
        instances=tuple(sorted(instances, key=lambda i: (i.uid, i.deid_uid, i.originals))),
        uids=tuple(sorted(set(chain.from_iterable(each.uids for each in gathered)))),
        large={
            large[plain]: value
            for each in gathered
            for plain, value in each.large.items()
            if value is not None and policy == "all"
        },
        digest="",
        key=secret.name,
        patients=_patients(gathered, secret),
    )
    return _with_digest(entry, secret)


def refuse_mixed_patients(gathered: Iterable[Changes]) -> None:
    """Raise UnableToLog if the instances disagree about the patient, naming files and keywords."""
    first: Changes | None = None
    for each in gathered:
        if first is None:
            first = each
        elif each.patient != first.patient:
            differing = [
                keyword
                for keyword, a, b in zip(KEYWORDS, first.patient, each.patient, strict=True)
                if a != b
            ]
            raise UnableToLog(
                f"the instances disagree on {', '.join(differing)}: {first.source or 'the first'}"
                f" and {each.source or 'a later one'} are not of one patient",
                "send them as acquisitions of their own, or correct the files",
            )


def _with_digest(entry: Entry, secret: SiteSecret) -> Entry:
    return replace(entry, digest=compute_content_digest(entry, secret))


def _patients(gathered: Iterable[Changes], secret: SiteSecret) -> tuple[str, ...]:
    identities = {(each.patient.patient_id, each.patient.issuer) for each in gathered}
    known = ((number, issuer) for number, issuer in identities if number)
    return tuple(
        sorted({compute_patient_digest(number, issuer, secret) for number, issuer in known})
    )


def _common(originals: Sequence[dict[str, str]]) -> dict[str, str]:
    """Return what all of them say alike."""
    common = originals[0]
    for other in originals[1:]:
        common = {path: text for path, text in common.items() if other.get(path) == text}
    return common


def _kept(
    each: Changes, large: Mapping[str, str], fields: Sequence[str], policy: Policy
) -> dict[str, str]:
    """Return what the policy keeps of its originals, with keyed digests in place of plain ones."""
    originals = each.originals
    for plain in each.large:
        originals = {path: text.replace(plain, large[plain]) for path, text in originals.items()}
    if policy == "all":
        return originals
    wanted = {f"{tag:08X}" for keyword in fields if (tag := lookup_tag(keyword)) is not None}
    return {
        path: text if path in wanted or text == "null" else _identifying(path, text)
        for path, text in originals.items()
    }


def _identifying(path: str, text: str) -> str:
    tag = path.rpartition(".")[2]
    return write_canonical_json(_without_value(tag, json.loads(text)))


def _without_value(tag: str, element: dict[str, Any]) -> dict[str, Any]:
    """Return an element whose value is not kept, which restore names. UIDs stay, in sequences too.

    So do character sets, without which the indexed fields can't be read.
    """
    if element["vr"] == "UI" or tag == _CHARACTER_SET or set(element) <= {"vr", "creator"}:
        return element
    if element["vr"] != "SQ":
        return {"vr": element["vr"], "length": 0}
    items = [
        {inner: _without_value(inner, value) for inner, value in item.items()}
        for item in element["Value"]
    ]
    return {**element, "Value": items}


def _rest(each: Changes, own: dict[str, str], common: dict[str, str], shared_uid: bool) -> str:
    rest = {path: text for path, text in own.items() if path not in common}
    if shared_uid:
        rest[FINGERPRINT] = write_canonical_json({"vr": "UL", "Value": [each.fingerprint]})
    return _object(rest)


def _object(members: Mapping[str, str]) -> str:
    """Return a JSON object of members that are JSON text already."""
    return "{" + ",".join(f'"{path}":{text}' for path, text in sorted(members.items())) + "}"


def _distinct(rows: Iterable[Mapping[str, str]]) -> dict[str, tuple[str, ...]]:
    """Keyword to its distinct values, sorted: the first is the one in the column.

    An empty value comes last, so that it hides no other.
    """
    values: dict[str, set[str]] = {}
    for row in {id(row): row for row in rows}.values():  # most instances share one
        for keyword, value in row.items():
            values.setdefault(keyword, set()).add(make_readable(value))
    return {
        keyword: tuple(sorted(found, key=lambda value: (not value, value)))
        for keyword, found in sorted(values.items())
    }


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
