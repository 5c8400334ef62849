"""Append records to SQLite, and erase entries from it."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from deid_hooks.backends.contract import Seal, make_tombstone, seal_new, select_new
from deid_hooks.backends.sqlite import schema
from deid_hooks.backends.sqlite.connection import Opened, truncate_wal, wait_patiently, writing
from deid_hooks.backends.sqlite.failures import make_unavailable
from deid_hooks.backends.sqlite.migrations import find_copies
from deid_hooks.backends.sqlite.reading import find_held
from deid_hooks.backends.sqlite.schema import decode_cell, encode_cell, encode_cells, insert_entry
from deid_hooks.backends.tables.columns import PARTS, insert_statement
from deid_hooks.backends.tables.migrations import VERSION, refuse_other
from deid_hooks.backends.tables.rows import RECORD_TABLES, list_cells
from deid_hooks.deadline import Deadline, Turn
from deid_hooks.errors import LogError, LogUnavailable
from deid_hooks.records.chain import erase_salt
from deid_hooks.records.model import Entry, Erased, Erasure, Record

_ROOM = 65_536  # without half of it SQLite can't even open the log

# One order for all kinds of records. Writers come one after the other, so the next number is one
# more than the highest: no reader's cursor passes a record that becomes visible later. The seal of
# a record stays when it is erased, so the highest never falls.
_LAST = "SELECT seq, seal FROM deid_log_chain ORDER BY seq DESC LIMIT 1"
_LAST_IN_VERSION_2 = """
    SELECT max(
        coalesce((SELECT max(seq) FROM deid_log), 0),
        coalesce((SELECT max(seq) FROM deid_log_upload), 0),
        coalesce((SELECT max(seq) FROM deid_log_access), 0),
        coalesce((SELECT max(seq) FROM deid_log_tombstone), 0),
        coalesce((SELECT max(seq) FROM deid_log_block), 0)
    ), ''
"""
_INSERT_SEAL = insert_statement("deid_log_chain")


def append(records: Sequence[Record], seal: Seal, opened: Opened, turn: Turn) -> None:
    """Write all records or none, as ``LogBackend.append`` says."""
    with writing(opened, turn) as connection:
        seq, head = _find_next(opened, records)
        new = select_new(records, partial(find_held, connection))
        _insert_sealed(connection, seq, new, seal_new(seal, head, new))


def erase(log_ids: Sequence[str], erasure: Erasure, seal: Seal, opened: Opened, turn: Turn) -> None:
    """Delete what these entries hold, leave tombstones, and overwrite the file's unused space."""
    refuse_beside_copies(opened)
    refuse_without_room(opened)
    with writing(opened, turn) as connection:
        seq, head = _find_next(opened)
        stones = []
        for log_id in log_ids:
            found = connection.execute(
                "SELECT seq, created, project FROM deid_log WHERE id = ?", (encode_cell(log_id),)
            ).fetchone()
            if found:
                _delete(connection, found[0])
                sent_to = _find_destinations(connection, log_id)
                created, project = map(decode_cell, found[1:])
                stones.append(make_tombstone(log_id, created, sent_to, erasure, project))
        _insert_sealed(connection, seq, stones, seal_new(seal, head, stones))
        _erase_terms(connection, log_ids)
    scrub(opened)


def prove_writable(opened: Opened, turn: Turn) -> None:
    """Write to the log what makes no difference, durably."""
    if shutil.disk_usage(opened.path.parent).free < _ROOM:
        # The write below may find room in the write-ahead log where an entry would not.
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with writing(opened, turn) as connection:
        _refuse_other(opened)
        schema.refuse_changed(connection, opened.path)
        connection.execute(f"PRAGMA user_version = {VERSION}")


def _find_next(opened: Opened, records: Sequence[Record] = ()) -> tuple[int, str]:
    """Return the next place in the order of the log, and the last seal."""
    _refuse_other(opened, records)
    sql = _LAST if opened.version == VERSION else _LAST_IN_VERSION_2
    seq, head = opened.connection.execute(sql).fetchone() or (0, "")
    return seq + 1, decode_cell(head)


def _refuse_other(opened: Opened, records: Sequence[Record] = ()) -> None:
    """Raise LogUnavailable if the log is not to be written; it may have been upgraded since."""
    found = schema.read_store(opened.connection)
    opened.version = found[1] if found else 0
    refuse_other(opened.version, f"the log {opened.path}", records)


def _insert_sealed(
    connection: sqlite3.Connection, seq: int, records: Sequence[Record], seals: Sequence[str]
) -> None:
    """Write records with their seals from this place in the order of the log on."""
    for number, (record, its_seal) in enumerate(zip(records, seals, strict=True), seq):
        if isinstance(record, Entry):
            insert_entry(connection, number, record)
        elif not isinstance(record, Erased):
            cells = encode_cells(list_cells(record))
            connection.execute(insert_statement(RECORD_TABLES[type(record)]), (number, *cells))
        connection.execute(_INSERT_SEAL, (number, encode_cell(its_seal)))


def _find_destinations(connection: sqlite3.Connection, log_id: str) -> Iterator[str]:
    rows = connection.execute(
        "SELECT destination FROM deid_log_upload WHERE log_id = ? ORDER BY seq",
        (encode_cell(log_id),),
    )
    return (decode_cell(destination) for (destination,) in rows)


def _erase_terms(connection: sqlite3.Connection, log_ids: Iterable[str]) -> None:
    """Erase what was asked, and why, where one of these was among the answers and is erased now."""
    connection.execute("CREATE TEMP TABLE erased (id PRIMARY KEY)")
    connection.executemany(
        "INSERT OR IGNORE INTO temp.erased"
        " SELECT json_quote(id) FROM deid_log_tombstone WHERE id = ?",
        ((id_,) for id_ in log_ids if isinstance(encode_cell(id_), str)),  # else it is no log id
    )
    connection.execute(
        "UPDATE deid_log_access SET asked = '', reason = '', salt = ''"
        " WHERE (asked != '' OR reason != '' OR salt != '') AND EXISTS"
        " (SELECT 1 FROM json_each(log_ids) WHERE json_quote(value) IN temp.erased)"
    )
    connection.execute("DROP TABLE temp.erased")


def _delete(connection: sqlite3.Connection, seq: int) -> None:
    connection.execute(
        "DELETE FROM deid_log_large WHERE key IN (SELECT large FROM deid_large WHERE entry = ?1)"
        " AND NOT EXISTS (SELECT 1 FROM deid_large AS other"
        " WHERE other.large = deid_log_large.key AND other.entry != ?1)",
        (seq,),
    )
    for table in PARTS:
        connection.execute(f"DELETE FROM {table} WHERE entry = ?", (seq,))  # noqa: S608
    connection.execute("DELETE FROM deid_log WHERE seq = ?", (seq,))
    sealed = connection.execute("SELECT seal FROM deid_log_chain WHERE seq = ?", (seq,)).fetchone()
    if sealed:
        kept = encode_cell(erase_salt(decode_cell(sealed[0])))
        connection.execute("UPDATE deid_log_chain SET seal = ? WHERE seq = ?", (kept, seq))


SECONDS_FOR_READERS = 10.0
_MARGIN = 65_536


def refuse_beside_copies(opened: Opened) -> None:
    """Raise LogUnavailable if copies that upgrades left would keep what is to be erased."""
    if copies := find_copies(opened.path):
        raise LogUnavailable(
            f"{copies[0]}, which an upgrade left, still holds what is to be forgotten; nothing was"
            " erased",
            "delete it, and other copies of the log, then try again",
        )


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
    """Return where SQLite puts temporary files ("Temporary File Storage Locations")."""
    variables = (os.environ.get(name) for name in ("SQLITE_TMPDIR", "TMPDIR"))
    for name in (*variables, "/var/tmp", "/usr/tmp", "/tmp"):  # noqa: S108
        if name and Path(name).is_dir() and os.access(name, os.W_OK | os.X_OK):
            return Path(name)
    return Path()


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
