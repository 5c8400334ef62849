"""Exports: whole records, entries for a spreadsheet, and a list without identifiers to join by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from deid_hooks.admin.access import PAGE
from deid_hooks.backends.contract import group_copies
from deid_hooks.batches import split_batches
from deid_hooks.log import Log
from deid_hooks.records.fields import DEID_FIELDS
from deid_hooks.records.model import AccessRow, Entry, Record

JOIN_COLUMNS = [
    *("log_id", "subject", "project"),
    *("deid_StudyInstanceUID", "deid_SeriesInstanceUID", "deid_SOPInstanceUID"),
]
ENTRY_COLUMNS = ["id", "created", "project", "uploader", "timestamp"]
_SHEET = ["id", "created", "uploader", "project", "timestamp", "instances"]


def read_records(log: Log) -> Iterator[Record]:
    """Yield all records but the access trail, which has an export of its own."""
    return (record for record in log.records() if not isinstance(record, AccessRow))


def read_entries(log: Log, log_ids: Iterable[str]) -> Iterator[Record]:
    """Yield these entries, and what became of them."""
    for page in split_batches(log_ids, PAGE):
        yield from log.entries(page)
        yield from log.uploads(page)


def list_shown_ids(record: Record) -> Sequence[str]:
    """Return the id of the entry that a record shows, for the access trail."""
    return [record.log_id] if isinstance(record, Entry) else []


def list_columns(fields: Sequence[str]) -> list[str]:
    """Return the columns of a spreadsheet of entries, for these indexed fields."""
    deid = (f"deid_{keyword}" for keyword in DEID_FIELDS)
    return [*_SHEET, *fields, *deid, "uploads"]


def make_sheet(log: Log, log_ids: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Yield a row for each entry."""
    for page in split_batches(log_ids, PAGE):
        copies = group_copies(log.uploads(page))
        for entry in log.entries(page):
            sides = (("", entry.fields), ("deid_", entry.deid))
            yield {
                **describe_entry(entry),
                "instances": len(entry.instances),
                **{f"{side}{k}": list(v) for side, values in sides for k, v in values.items()},
                "uploads": [
                    f"{copy.destination} {'withdrawn' if copy.withdrawn else copy.outcome}"
                    for copy in copies.get(entry.log_id, ())
                ],
            }


def describe_entry(entry: Entry) -> dict[str, Any]:
    """Return the values of ENTRY_COLUMNS."""
    return {"id": entry.log_id, **{name: getattr(entry, name) for name in ENTRY_COLUMNS[1:]}}


def make_join_list(
    entries: Iterable[Entry], left_out: Callable[[], None]
) -> Iterator[dict[str, Any]]:
    """Yield a row for each instance that holds nothing but the log id and what left.

    A value that left as it was identifies the patient: it stays blank, and ``left_out`` is called.
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

        common = [
            entry.log_id,
            unless_original(first("PatientID")),
            entry.project,
            unless_original(first("StudyInstanceUID")),
            unless_original(first("SeriesInstanceUID")),
        ]
        for instance in entry.instances:
            values = [*common, unless_original(instance.deid_uid)]
            yield dict(zip(JOIN_COLUMNS, values, strict=True))
