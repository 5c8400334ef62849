"""Exports: whole records, entries for a spreadsheet, and a list without identifiers to join by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from deid_hooks.admin.access import PAGE
from deid_hooks.log import Log
from deid_hooks.records.fields import DEID_FIELDS
from deid_hooks.records.model import AccessRow, Entry, Record
from deid_hooks.records.outcomes import group_copies

JOIN_COLUMNS = [
    *("log_id", "subject", "project"),
    *("deid_StudyInstanceUID", "deid_SeriesInstanceUID", "deid_SOPInstanceUID"),
]
_OWN = ["id", "created", "uploader", "project", "timestamp", "instances"]


def everything(recorder: Log) -> Iterator[Record]:
    """All records but the access trail, which has an export of its own and can't be moved."""
    return (record for record in recorder.records() if not isinstance(record, AccessRow))


def with_events(recorder: Log, log_ids: Iterable[str]) -> Iterator[Record]:
    """These entries, and what became of them."""
    ids = iter(log_ids)
    while page := list(islice(ids, PAGE)):
        yield from recorder.entries(page)
        yield from recorder.uploads(page)


def ids_of(record: Record) -> Sequence[str]:
    """The entry that a record shows, for the access trail."""
    return [record.log_id] if isinstance(record, Entry) else []


def sheet_columns(fields: Sequence[str]) -> list[str]:
    """The columns of a spreadsheet of entries, for these indexed fields."""
    return [*_OWN, *fields, *(f"deid_{keyword}" for keyword in DEID_FIELDS), "uploads"]


def sheet(recorder: Log, log_ids: Iterable[str]) -> Iterator[dict[str, Any]]:
    """A row for each entry."""
    ids = iter(log_ids)
    while page := list(islice(ids, PAGE)):
        copies = group_copies(recorder.uploads(page))
        for entry in recorder.entries(page):
            sides = (("", entry.fields), ("deid_", entry.deid))
            uploads = [
                f"{copy.destination} {'withdrawn' if copy.withdrawn else copy.outcome}"
                for copy in copies.get(entry.log_id, ())
            ]
            yield {
                "id": entry.log_id,
                "created": entry.created,
                "uploader": entry.uploader,
                "project": entry.project,
                "timestamp": entry.timestamp,
                "instances": len(entry.instances),
                **{f"{side}{k}": list(v) for side, values in sides for k, v in values.items()},
                "uploads": uploads,
            }


def join_list(entries: Iterable[Entry], left_out: Callable[[], None]) -> Iterator[dict[str, Any]]:
    """A row for each instance that holds nothing but the log id and what left.

    A value that left as it was identifies the patient: it stays blank, and ``left_out`` hears it.
    """
    for entry in entries:
        known = {value for values in entry.fields.values() for value in values}
        known |= {instance.uid for instance in entry.instances}

        def unless_original(value: str, known: set[str] = known) -> str:
            if value and value in known:
                left_out()
                return ""
            return value

        def first(keyword: str, deid: Any = entry.deid) -> str:
            return str(next(iter(deid.get(keyword, ())), ""))

        common = {
            "log_id": entry.log_id,
            "subject": unless_original(first("PatientID")),
            "project": entry.project,
            "deid_StudyInstanceUID": unless_original(first("StudyInstanceUID")),
            "deid_SeriesInstanceUID": unless_original(first("SeriesInstanceUID")),
        }
        for instance in entry.instances:
            yield {**common, "deid_SOPInstanceUID": unless_original(instance.deid_uid)}
