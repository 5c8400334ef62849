"""Exports: whole records, entries for a spreadsheet, and a list without identifiers to join by."""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from typing import Any

from deid_hooks.access import PAGE, AccessRecorder
from deid_hooks.backends.contract import group_copies
from deid_hooks.batches import split_batches
from deid_hooks.errors import LogError
from deid_hooks.log import ALTERED_REMEDY, Log
from deid_hooks.records.chain import Verification, parse_seal
from deid_hooks.records.fields import DEID_FIELDS
from deid_hooks.records.json_codec import encode_record
from deid_hooks.records.keys import RootKey
from deid_hooks.records.model import Entry, Record, read_clock

JOIN_COLUMNS = [
    *("log_id", "subject", "project"),
    *("deid_StudyInstanceUID", "deid_SeriesInstanceUID", "deid_SOPInstanceUID"),
]
ENTRY_COLUMNS = ["id", "created", "project", "uploader", "timestamp"]
_SHEET = ["id", "created", "uploader", "project", "timestamp", "instances"]


def write_whole(log: Log, access: AccessRecorder, asked: str) -> Iterator[str]:
    """Yield the lines of an export of the whole log: all records with their seals, and the head.

    Places of erased entries are among them. Raises LogError where the last record has no seal. What
    is wrong elsewhere is added to ``log.altered``.
    The last line has a digest of the file, which finds damage, and stops nobody who forges.
    """
    if parse_seal(log.read_head()) is None and next(log.chain(), None) is not None:
        raise LogError("the log was altered: its last record has no seal", ALTERED_REMEDY)
    verification, digest = Verification(log.sealer), sha256()
    records = access.record_each(log.chain(), asked, lambda pair: list_shown(pair[0]))
    for record, seal in records:
        for fault in verification.check(record, seal):
            log.altered[fault.id] = fault.what
        line = _write_line(record, seal)
        digest.update(f"{line}\n".encode())
        yield line
    for fault in verification.finish():
        log.altered[fault.id] = fault.what
    head = verification.make_head(read_clock())
    if head is not None:
        digest.update(str(head).encode())
        yield _write_json({"head": str(head), "sha256": digest.hexdigest()})


def write_part(log: Log, log_ids: Iterable[str]) -> Iterator[str]:
    """Yield the lines of an export of these entries and of what became of them, with their seals.

    The last line has a keyed digest of all lines before it: a file without it was cut off.
    """
    digest = hmac.new(derive_export_key(log.keyring.newest), digestmod="sha256")
    for page in split_batches(log_ids, PAGE):
        records: list[tuple[Record, str]] = [*log.sealed_entries(page), *log.sealed_uploads(page)]
        for record, seal in records:
            line = _write_line(record, seal)
            digest.update(f"{line}\n".encode())
            yield line
    yield _write_json({"part": digest.hexdigest()})


def derive_export_key(root: RootKey) -> bytes:
    """Return the key of the digest that closes an export of a part of the log."""
    return root.derive("export")


def list_shown(record: Record) -> Sequence[str]:
    """Return the id of the entry that a record shows, for the access trail."""
    return [record.log_id] if isinstance(record, Entry) else []


def _write_line(record: Record, seal: str) -> str:
    found = json.loads(seal) if parse_seal(seal) else None
    return _write_json({**encode_record(record), "seal": found})


def _write_json(document: dict[str, Any]) -> str:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False)


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
