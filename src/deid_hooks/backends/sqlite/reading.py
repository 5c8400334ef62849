"""What reads the log: by pages, each in a transaction of its own."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Collection, Sequence
from typing import Any

from deid_hooks.backends.contract import Page
from deid_hooks.backends.sqlite.connection import Opened
from deid_hooks.backends.sqlite.rows import decode_cell, encode_cell, read_entry
from deid_hooks.backends.sqlite.trail import access_of
from deid_hooks.backends.sqlite.transactions import reading
from deid_hooks.records.model import (
    AccessRow,
    Block,
    Entry,
    Erasure,
    Record,
    Tombstone,
    UploadEvent,
)

_RECORDS_A_PAGE = 200
_CHARACTERS_A_PAGE = 4_000_000
_EVENTS_A_PAGE = 1_000
_KINDS = ("", "_upload", "_access", "_tombstone", "_block")

# The next places in the order of the log, and the kind of record that each one is.
_PLACES = " UNION ALL ".join(
    f"SELECT * FROM (SELECT seq, {kind} FROM deid_log{name} WHERE seq > ?1 ORDER BY seq LIMIT ?2)"  # noqa: S608
    for kind, name in enumerate(_KINDS)
)


def page_after(opened: Opened, after: int) -> Page:
    """Some records after the cursor, all kinds in one order; at least one if there is one."""
    records: list[Record] = []
    size = 0
    with reading(opened) as connection:
        for seq, kind in connection.execute(
            f"{_PLACES} ORDER BY 1 LIMIT ?2", (after, _RECORDS_A_PAGE)
        ).fetchall():
            record = _READERS[kind](connection, seq)
            if record is None:
                continue
            records.append(record)
            after = seq
            size += size_of(record) if isinstance(record, Entry) else 0
            if size > _CHARACTERS_A_PAGE:
                break
    return Page(tuple(records), after)


def resolve(opened: Opened, log_id: str) -> Entry | Tombstone | None:
    """The entry or tombstone under this id."""
    with reading(opened) as connection:
        seq = _seq_of(connection, "deid_log", log_id)
        if seq is not None:
            return read_entry(connection, seq)
        seq = _seq_of(connection, "deid_log_tombstone", log_id)
        return None if seq is None else _tombstone_at(connection, seq)


def entries_of(opened: Opened, log_ids: Sequence[str]) -> tuple[list[Entry], int]:
    """The entries of some of these ids in that order, and how many of the ids were looked at."""
    with reading(opened) as connection:
        return _some(connection, [_seq_of(connection, "deid_log", log_id) for log_id in log_ids])


def entries_at(opened: Opened, seqs: Sequence[int]) -> tuple[list[Entry], int]:
    """The entries at some of these places, and how many of the places were looked at."""
    with reading(opened) as connection:
        return _some(connection, seqs)


def id_with_digest(opened: Opened, digest: str) -> str | None:
    """The id of the oldest entry with this digest."""
    with reading(opened) as connection:
        row = connection.execute(
            "SELECT id FROM deid_log WHERE digest = ? ORDER BY seq LIMIT 1", (encode_cell(digest),)
        ).fetchone()
        return None if row is None else decode_cell(row[0])


def events_after(
    opened: Opened, after: int, log_ids: Sequence[str] | None
) -> tuple[list[UploadEvent], int]:
    """Some upload events after the cursor, of these entries or of all, and the next cursor."""
    some = "" if log_ids is None else f" AND log_id IN ({', '.join('?' * len(log_ids))})"
    with reading(opened) as connection:
        rows = connection.execute(
            f"SELECT * FROM deid_log_upload WHERE seq > ?{some} ORDER BY seq LIMIT ?",  # noqa: S608
            (after, *map(encode_cell, log_ids or ()), _EVENTS_A_PAGE),
        ).fetchall()
    return [_event(row) for row in rows], rows[-1][0] if rows else after


def blocks_of(opened: Opened, patients: Collection[str]) -> list[Block]:
    """The blocks of these patients, oldest first."""
    marks = ", ".join("?" * len(patients))
    with reading(opened) as connection:
        rows = connection.execute(
            f"SELECT * FROM deid_log_block WHERE patient IN ({marks}) ORDER BY seq",  # noqa: S608
            tuple(map(encode_cell, patients)),
        ).fetchall()
    return [_block(row) for row in rows]


def label_of(opened: Opened, project: str, patient: str) -> str | None:
    """The de-identified PatientID of the oldest entry of this patient in this project."""
    with reading(opened) as connection:
        row = connection.execute(
            "SELECT deid_PatientID FROM deid_log WHERE patients = ? AND project = ?"
            " AND deid_PatientID != '' ORDER BY seq LIMIT 1",
            (encode_cell(patient), encode_cell(project)),
        ).fetchone()
    return None if row is None else decode_cell(row[0])


def size_of(entry: Entry) -> int:
    """About how much memory an entry takes."""
    return (
        len(entry.originals)
        + sum(len(instance.originals) + 200 for instance in entry.instances)
        + sum(map(len, entry.large.values()))
    )


def _some(connection: sqlite3.Connection, seqs: Sequence[int | None]) -> tuple[list[Entry], int]:
    found: list[Entry] = []
    size = 0
    for looked_at, seq in enumerate(seqs, 1):
        entry = None if seq is None else read_entry(connection, seq)
        if entry is not None:
            found.append(entry)
            size += size_of(entry)
        if size > _CHARACTERS_A_PAGE:
            return found, looked_at
    return found, len(seqs)


def _seq_of(connection: sqlite3.Connection, table: str, log_id: str) -> int | None:
    row = connection.execute(
        f"SELECT seq FROM {table} WHERE id = ?",  # noqa: S608
        (encode_cell(log_id),),
    ).fetchone()
    return None if row is None else int(row[0])


def _row_at(connection: sqlite3.Connection, table: str, seq: int) -> tuple[str, ...]:
    row = connection.execute(f"SELECT * FROM {table} WHERE seq = ?", (seq,)).fetchone()  # noqa: S608
    return tuple(map(decode_cell, row[1:]))


def _event(row: tuple[int, *tuple[str, ...]]) -> UploadEvent:
    return UploadEvent(*map(decode_cell, row[1:]))


def _event_at(connection: sqlite3.Connection, seq: int) -> UploadEvent:
    return UploadEvent(*_row_at(connection, "deid_log_upload", seq))


def _access_at(connection: sqlite3.Connection, seq: int) -> AccessRow:
    row = connection.execute("SELECT * FROM deid_log_access WHERE seq = ?", (seq,)).fetchone()
    return access_of(row)


def _block_at(connection: sqlite3.Connection, seq: int) -> Block:
    row = connection.execute("SELECT * FROM deid_log_block WHERE seq = ?", (seq,)).fetchone()
    return _block(row)


def _block(row: tuple[Any, ...]) -> Block:
    id_, at, patient, project, who, reason = map(decode_cell, row[1:-1])
    return Block(id_, at, patient, project, who, reason, bool(row[-1]))


def _tombstone_at(connection: sqlite3.Connection, seq: int) -> Tombstone:
    log_id, created, destinations, *erasure = _row_at(connection, "deid_log_tombstone", seq)
    return Tombstone(log_id, created, tuple(json.loads(destinations)), Erasure(*erasure))


_READERS: tuple[Callable[[sqlite3.Connection, int], Record | None], ...] = (
    read_entry,
    _event_at,
    _access_at,
    _tombstone_at,
    _block_at,
)


_COUNTS = {
    "entries": "SELECT count(*) FROM deid_log",
    "instances": "SELECT count(*) FROM deid_instance",
    "patients": "SELECT count(*) FROM (SELECT DISTINCT patients FROM deid_log WHERE patients > '')",
    "projects": "SELECT count(DISTINCT project) FROM deid_log",
    "forgotten": "SELECT count(*) FROM deid_log_tombstone",
    "blocked": "SELECT count(*) FROM (SELECT lifted, max(seq) FROM deid_log_block"
    " GROUP BY patient, project) WHERE NOT lifted",
    "looks": "SELECT count(*) FROM deid_log_access",
}
_COPIES = """
    SELECT destination, event, count(*) FROM (
        SELECT destination, event, max(seq) FROM deid_log_upload GROUP BY log_id, destination
    ) GROUP BY destination, event ORDER BY destination, event
"""
_ENDS = "SELECT created FROM deid_log ORDER BY seq {} LIMIT 1"


def counts(opened: Opened) -> dict[str, int]:
    """How many there are of each kind. Each is counted in a transaction of its own."""
    found = {}
    for name, sql in _COUNTS.items():
        with reading(opened) as connection:
            found[name] = int(connection.execute(sql).fetchone()[0])
    return found


def copies(opened: Opened) -> list[tuple[str, str, int]]:
    """Destination, latest event there, and of how many entries it is the latest."""
    with reading(opened) as connection:
        rows = connection.execute(_COPIES).fetchall()
    return [
        (decode_cell(destination), decode_cell(event), count) for destination, event, count in rows
    ]


def ends(opened: Opened) -> tuple[str, str]:
    """When the oldest and the latest entry were made; two empty strings if there is none."""
    with reading(opened) as connection:
        rows = [connection.execute(_ENDS.format(way)).fetchone() for way in ("", "DESC")]
    first, last = (decode_cell(row[0]) if row else "" for row in rows)
    return first, last
