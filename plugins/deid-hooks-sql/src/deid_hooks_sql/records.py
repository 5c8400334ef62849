"""From the other records to rows and back: upload events, access rows, tombstones and blocks."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from deid_hooks.records.model import AccessRow, Block, Erasure, Tombstone, UploadEvent
from deid_hooks_sql.rows import Row, kept, texts_of
from deid_hooks_sql.schema import RECORDS, limit_of

Small = UploadEvent | AccessRow | Tombstone | Block

TABLES: dict[type[Any], str] = {
    UploadEvent: "deid_log_upload",
    AccessRow: "deid_log_access",
    Tombstone: "deid_log_tombstone",
    Block: "deid_log_block",
}

_LIMITS = {table: tuple(map(limit_of, columns)) for table, columns in RECORDS.items()}


def columns_of(table: str) -> tuple[str, ...]:
    """The columns of a row as :func:`row_of` makes it and :func:`record_of` takes it."""
    lifted = ("lifted",) if table == "deid_log_block" else ()
    return ("seq", *RECORDS[table], *lifted, "exact")


def row_of(seq: int, record: Small) -> Row:
    """The row of a record at its place in the order of the log."""
    table = TABLES[type(record)]
    shown, exact = kept(_TEXTS[table](record), _LIMITS[table])
    lifted = (int(record.lifted),) if isinstance(record, Block) else ()
    return (seq, *shown, *lifted, exact)


def record_of(table: str, row: Sequence[Any]) -> Small:
    """The record that a row holds."""
    texts = texts_of(row[1 : 1 + len(RECORDS[table])], row[-1])
    if table == "deid_log_upload":
        return UploadEvent(*texts)
    if table == "deid_log_access":
        who, where, action, asked, log_ids, *rest = texts[2:]
        ids = tuple(json.loads(log_ids))
        return AccessRow(texts[0], texts[1], who, where, action, asked, ids, *rest)
    if table == "deid_log_tombstone":
        log_id, created, destinations, *erasure = texts
        return Tombstone(log_id, created, tuple(json.loads(destinations)), Erasure(*erasure))
    id_, at, patient, project, who, reason = texts
    return Block(id_, at, patient, project, who, reason, bool(row[-2]))


def _of_event(event: UploadEvent) -> list[str]:
    return [event.log_id, event.at, event.event, event.destination, event.uploader]


def _of_access(row: AccessRow) -> list[str]:
    asked = [row.who, row.where, row.action, row.asked, _list(row.log_ids), row.reason]
    return [row.id, row.at, *asked, row.salt, row.commitment]


def _of_tombstone(stone: Tombstone) -> list[str]:
    erasure = stone.erasure
    destinations = _list(stone.destinations)
    return [stone.log_id, stone.created, destinations, erasure.at, erasure.who, erasure.reason]


def _of_block(block: Block) -> list[str]:
    return [block.id, block.at, block.patient, block.project, block.who, block.reason]


def _list(texts: tuple[str, ...]) -> str:
    return json.dumps(texts, ensure_ascii=False)  # escapes would join a pair of lone surrogates


_TEXTS: dict[str, Callable[[Any], list[str]]] = {
    "deid_log_upload": _of_event,
    "deid_log_access": _of_access,
    "deid_log_tombstone": _of_tombstone,
    "deid_log_block": _of_block,
}
