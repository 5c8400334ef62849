"""All that left about a subject: a row for each acquisition at each destination."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from deid_hooks.admin.access import PAGE
from deid_hooks.admin.lookup import identify_person
from deid_hooks.log import Log
from deid_hooks.records.model import Entry
from deid_hooks.records.outcomes import Copy, group_copies

COLUMNS = [
    *("id", "project", "PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate"),
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


def report(recorder: Log, log_ids: Iterable[str]) -> Iterator[Line]:
    """The lines of these entries, in their order, some entries at a time."""
    blocked: dict[tuple[tuple[str, ...], str], bool] = {}
    ids = iter(log_ids)
    while page := list(islice(ids, PAGE)):
        copies = group_copies(recorder.uploads(page))
        for entry in recorder.entries(page):
            key = entry.patients, entry.project
            if key not in blocked:
                if len(blocked) > PAGE:
                    blocked.clear()
                blocked[key] = recorder.blocked(*key)
            person = (identify_person(entry), entry.project)
            for copy in copies.get(entry.log_id) or [Copy(entry.log_id, "", "", "")]:
                yield Line(entry.log_id, person, _row(entry, copy, blocked[key]))


def _row(entry: Entry, copy: Copy, blocked: bool) -> dict[str, Any]:
    fields = ("PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate")
    return {
        "id": entry.log_id,
        "project": entry.project,
        **{keyword: _plain(entry.fields.get(keyword)) for keyword in fields},
        "subject": _plain(entry.deid.get("PatientID")),
        "blocked": blocked,
        "timestamp": entry.timestamp,
        "StudyDate": _plain(entry.fields.get("StudyDate")),
        "Modality": _plain(entry.fields.get("Modality")),
        "instances": len(entry.instances),
        "destination": copy.destination or None,
        "outcome": copy.outcome or None,
        "at": copy.at or None,
        "withdrawn": copy.withdrawn or None,
        "deid_StudyInstanceUID": _plain(entry.deid.get("StudyInstanceUID")),
        "deid_SeriesInstanceUID": _plain(entry.deid.get("SeriesInstanceUID")),
        "deid_SOPInstanceUID": list(entry.deid_uids),
    }


def _plain(values: tuple[str, ...] | None) -> str | list[str] | None:
    return None if not values else values[0] if len(values) == 1 else list(values)
