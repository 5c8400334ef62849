"""What changes the log: appending records, and erasing entries."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from deid_hooks.backends.sqlite import schema
from deid_hooks.backends.sqlite.connection import Opened
from deid_hooks.backends.sqlite.failures import make_unavailable
from deid_hooks.backends.sqlite.rows import decode_cell, encode_cell, insert_entry, read_entry
from deid_hooks.backends.sqlite.trail import append_row, erase_terms
from deid_hooks.backends.sqlite.transactions import truncate_wal, wait_patiently, writing
from deid_hooks.deadline import Deadline
from deid_hooks.errors import Forgotten, IdConflict, LogError, LogUnavailable
from deid_hooks.records.model import (
    AccessRow,
    Block,
    Entry,
    Erasure,
    Record,
    Tombstone,
    UploadEvent,
)

_PARTS = ("deid_instance", "deid_uid", "deid_value", "deid_word", "deid_large")

_ROOM = 65_536  # without half of it SQLite can't even open the log

# One order for all kinds of records. Writers come one after the other, so the next number is one
# more than the highest: no reader's cursor passes a record that becomes visible later. An erased
# entry leaves a tombstone with a higher number, so the highest never falls.
_NEXT = """
    SELECT version, 1 + max(
        coalesce((SELECT max(seq) FROM deid_log), 0),
        coalesce((SELECT max(seq) FROM deid_log_upload), 0),
        coalesce((SELECT max(seq) FROM deid_log_access), 0),
        coalesce((SELECT max(seq) FROM deid_log_tombstone), 0),
        coalesce((SELECT max(seq) FROM deid_log_block), 0)
    ) FROM deid_log_store
"""


def append(records: Sequence[Record], opened: Opened, may_begin: Callable[[], bool]) -> None:
    """Write all records or none, as ``LogBackend.append`` says."""
    with writing(opened, may_begin) as connection:
        seq = _next(opened)
        for record in records:
            if isinstance(record, Entry):
                written = _append_entry(connection, seq, record)
            elif isinstance(record, UploadEvent):
                written = _append_event(connection, seq, record)
            elif isinstance(record, AccessRow):
                written = append_row(connection, seq, record)
            elif isinstance(record, Block):
                written = _append_block(connection, seq, record)
            else:
                written = _append_tombstone(connection, seq, record)
            seq += written


def erase(
    log_ids: Sequence[str], erasure: Erasure, opened: Opened, may_begin: Callable[[], bool]
) -> None:
    """Delete what these entries hold, leave tombstones, and overwrite the file's unused space."""
    refuse_without_room(opened)
    with writing(opened, may_begin) as connection:
        seq = _next(opened)
        for log_id in log_ids:
            found = connection.execute(
                "SELECT seq, created FROM deid_log WHERE id = ?", (encode_cell(log_id),)
            ).fetchone()
            if found:
                _delete(connection, found[0])
                grave = Tombstone(
                    log_id, decode_cell(found[1]), _destinations(connection, log_id), erasure
                )
                seq += _append_tombstone(connection, seq, grave)
        erase_terms(connection, log_ids)
    scrub(opened)


def prove_writable(opened: Opened, may_begin: Callable[[], bool]) -> None:
    """Write to the log what makes no difference, durably."""
    if shutil.disk_usage(opened.path.parent).free < _ROOM:
        # The write below may find room in the write-ahead log where an entry would not.
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with writing(opened, may_begin) as connection:
        connection.execute(f"PRAGMA user_version = {schema.VERSION}")


def _next(opened: Opened) -> int:
    version, seq = opened.connection.execute(_NEXT).fetchone()
    schema.refuse_newer(version, opened.path)  # a newer process may have brought it up to date
    return int(seq)


def _append_entry(connection: sqlite3.Connection, seq: int, entry: Entry) -> bool:
    known, forgotten = connection.execute(
        "SELECT (SELECT seq FROM deid_log WHERE id = ?1),"
        " (SELECT seq FROM deid_log_tombstone WHERE id = ?1)",
        (encode_cell(entry.log_id),),
    ).fetchone()
    if forgotten:
        raise Forgotten(entry.log_id)
    if known:
        stored = read_entry(connection, known)
        # When and by whom it was written is a stamp, not content.
        if stored is None or stored != replace(
            entry, created=stored.created, uploader=stored.uploader
        ):
            raise IdConflict(entry.log_id)
        return False
    insert_entry(connection, seq, entry)
    return True


def _append_event(connection: sqlite3.Connection, seq: int, event: UploadEvent) -> bool:
    row = tuple(
        map(encode_cell, (event.log_id, event.at, event.event, event.destination, event.uploader))
    )
    repeated = connection.execute(
        "SELECT 1 FROM deid_log_upload WHERE log_id = ? AND at = ? AND event = ?"
        " AND destination = ? AND uploader = ?",
        row,
    ).fetchone()
    if repeated:
        return False
    connection.execute("INSERT INTO deid_log_upload VALUES (?, ?, ?, ?, ?, ?)", (seq, *row))
    return True


def _append_block(connection: sqlite3.Connection, seq: int, block: Block) -> bool:
    texts = (block.id, block.at, block.patient, block.project, block.who, block.reason)
    row = (*map(encode_cell, texts), int(block.lifted))
    return _insert_once(connection, "deid_log_block", seq, row, block.id)


def _append_tombstone(connection: sqlite3.Connection, seq: int, stone: Tombstone) -> bool:
    known = connection.execute("SELECT 1 FROM deid_log WHERE id = ?", (encode_cell(stone.log_id),))
    if known.fetchone():
        raise IdConflict(stone.log_id)  # appending never takes an entry away
    erasure = stone.erasure
    texts = (_list(stone.destinations), erasure.at, erasure.who, erasure.reason)
    row = tuple(map(encode_cell, (stone.log_id, stone.created, *texts)))
    return _insert_once(connection, "deid_log_tombstone", seq, row, stone.log_id)


def _insert_once(
    connection: sqlite3.Connection,
    table: str,
    seq: int,
    row: tuple[str | bytes | int, ...],
    id_: str,
) -> bool:
    """Insert a row that begins with its id; False if it is there, IdConflict if another is."""
    found = connection.execute(f"SELECT * FROM {table} WHERE id = ?", row[:1]).fetchone()  # noqa: S608
    if found:
        if found[1:] != row:
            raise IdConflict(id_)
        return False
    _insert(connection, table, seq, row)
    return True


def _insert(
    connection: sqlite3.Connection, table: str, seq: int, row: tuple[str | bytes | int, ...]
) -> None:
    marks = ", ".join("?" * (1 + len(row)))
    connection.execute(f"INSERT INTO {table} VALUES ({marks})", (seq, *row))  # noqa: S608


def _list(texts: tuple[str, ...]) -> str:
    return json.dumps(texts, ensure_ascii=False)  # escapes would join a pair of lone surrogates


def _destinations(connection: sqlite3.Connection, log_id: str) -> tuple[str, ...]:
    rows = connection.execute(
        "SELECT destination FROM deid_log_upload WHERE log_id = ? ORDER BY seq",
        (encode_cell(log_id),),
    )
    return tuple(dict.fromkeys(decode_cell(destination) for (destination,) in rows))


def _delete(connection: sqlite3.Connection, seq: int) -> None:
    connection.execute(
        "DELETE FROM deid_log_large WHERE key IN (SELECT large FROM deid_large WHERE entry = ?1)"
        " AND NOT EXISTS (SELECT 1 FROM deid_large AS other"
        " WHERE other.large = deid_log_large.key AND other.entry != ?1)",
        (seq,),
    )
    for table in _PARTS:
        connection.execute(f"DELETE FROM {table} WHERE entry = ?", (seq,))  # noqa: S608
    connection.execute("DELETE FROM deid_log WHERE seq = ?", (seq,))


SECONDS_FOR_READERS = 10.0
_MARGIN = 65_536


def refuse_without_room(opened: Opened) -> None:
    """Raise LogUnavailable if the disks have no room for :func:`scrub`.

    A VACUUM writes the database twice: into a temporary file, and from there into the write-ahead
    log (the SQLite documentation, "How VACUUM works").
    """
    pages, size = (
        opened.connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_count", "page_size")
    )
    needed: Counter[int] = Counter()
    for folder in (opened.path.parent, _temporary_folder()):
        needed[folder.stat().st_dev] += pages * size + _MARGIN
    for folder in (opened.path.parent, _temporary_folder()):
        wanted, free = needed[folder.stat().st_dev], shutil.disk_usage(folder).free
        if free < wanted:
            raise LogUnavailable(
                f"to forget, {folder} must have room for {_megabytes(wanted)} and has"
                f" {_megabytes(free)}; nothing was erased",
                "make room, or let TMPDIR name a folder on another disk",
            )


def scrub(opened: Opened) -> None:
    """Overwrite what the files still hold of erased entries; LogError if that isn't finished.

    ``secure_delete`` overwrites what is deleted, but not the copies that SQLite leaves behind in
    unused parts of a page when it moves rows and index entries to another (about one in 1,500 in
    a measurement): only a VACUUM gets rid of those.
    """
    try:
        wait_patiently(opened.deadline, lambda: opened.connection.execute("VACUUM"))
        patience = Deadline(min(SECONDS_FOR_READERS, opened.deadline.left()))
        held = not truncate_wal(opened.connection, patience)
        cause, remedy = "a reader held the log", "repeat it when nobody reads the log"
    except sqlite3.Error as error:
        failure = make_unavailable(error, opened.path)
        held, cause, remedy = True, failure.cause, f"repeat it: {failure.remedy}"
    if held:
        raise LogError(
            "the entries are erased from the log, but traces may be left in unused parts of"
            f" {opened.path}: {cause}",
            remedy,
        )


def _temporary_folder() -> Path:
    """Where SQLite puts temporary files (its documentation, "Temporary File Storage Locations")."""
    variables = (os.environ.get(name) for name in ("SQLITE_TMPDIR", "TMPDIR"))
    for name in (*variables, "/var/tmp", "/usr/tmp", "/tmp"):  # noqa: S108
        if name and Path(name).is_dir() and os.access(name, os.W_OK | os.X_OK):
            return Path(name)
    return Path()


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
