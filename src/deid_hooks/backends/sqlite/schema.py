"""Make the tables of the log in SQLite, recognise them, and convert cells of their rows."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from deid_hooks.backends.tables.columns import (
    TABLES,
    ColumnType,
    Table,
    find_fault,
    insert_statement,
    select_statement,
    view_statements,
)
from deid_hooks.backends.tables.migrations import STEPS, VERSION, record_step
from deid_hooks.backends.tables.rows import (
    collect_words,
    list_entry_texts,
    list_further_values,
    list_instance_texts,
    list_names,
    list_parts,
    make_entry,
    make_instance,
)
from deid_hooks.errors import LogUnavailable
from deid_hooks.records.model import Entry

_TYPES: dict[ColumnType, type] = {
    ColumnType.NUMBER: int,
    ColumnType.FLAG: int,
    ColumnType.BYTES: bytes,
}


def read_store(connection: sqlite3.Connection) -> tuple[str, int] | None:
    """Return the random id of the store and the version of its schema; None if it is half made.

    Raises sqlite3.OperationalError where there is no such table.
    """
    row: tuple[str, int] | None = connection.execute(
        "SELECT id, version FROM deid_log_store"
    ).fetchone()
    return row


def make_tables(connection: sqlite3.Connection) -> None:
    """Make a log in an empty database. Within a transaction."""
    for table in TABLES.values():
        make_table(connection, table)
    for statement in view_statements():
        connection.execute(statement)
    for name in STEPS:
        record_step(lambda sql, *values: connection.execute(sql, values), "?", name)
    connection.execute(
        "INSERT INTO deid_log_store (id, version) VALUES (?, ?)", (secrets.token_hex(16), VERSION)
    )


def refuse_changed(connection: sqlite3.Connection, path: Path) -> None:
    """Raise LogUnavailable if the tables have other columns than this program writes."""
    found = {name: list_columns(connection, name) for name in TABLES}
    if fault := find_fault(found, server=False):
        raise LogUnavailable(f"in the log {path} {fault}", "report this")


def list_columns(connection: sqlite3.Connection, table: str) -> set[str]:
    """Return the names of the columns of a table, in lower case; none if it is not there."""
    return {row[1].lower() for row in connection.execute(f"PRAGMA table_info([{table}])")}


def make_table(connection: sqlite3.Connection, table: Table) -> None:
    """Make a table with its indexes if it is not there."""
    from sqlite_utils import Database  # 70 ms that only this needs

    types = {column.name: column.type for column in table.columns}
    columns = {name: _TYPES.get(types.get(name, ColumnType.NUMBER), str) for name in table.names}
    # An explicit integer key: a VACUUM may renumber rows that have none, and their order counts.
    made = Database(connection, execute_plugins=False).table(table.name)
    made.create(columns, pk=table.key or None, if_not_exists=True)
    indexes = [list(index) for index in table.indexes if set(index) <= columns.keys()]
    for index in [["entry"], *indexes] if table.part else indexes:
        made.create_index(index, if_not_exists=True)
    if table.unique:
        made.create_index([table.unique], unique=True, if_not_exists=True)


_INSERT = {
    table: insert_statement(table)
    for table in ("deid_log", "deid_instance", "deid_uid", "deid_value", "deid_word", "deid_large")
}
_SELECT_ENTRY = f"{select_statement('deid_log')} WHERE seq = ?"
_SELECT_PARTS = (
    "SELECT keyword, value FROM deid_value WHERE entry = ? AND NOT part ORDER BY key",
    "SELECT deid_uid, uid FROM deid_uid WHERE entry = ? ORDER BY key",
    "SELECT SOPInstanceUID, deid_SOPInstanceUID, originals FROM deid_instance"
    " WHERE entry = ? ORDER BY key",
    "SELECT digest, value FROM deid_large"
    " JOIN deid_log_large ON deid_log_large.key = large WHERE entry = ?",
)


def encode_cell(text: str) -> str | bytes:
    """Return a text as SQLite can keep it: as bytes where it has NULs or lone surrogates."""
    if "\0" not in text:
        if text.isascii():
            return text
        try:
            text.encode()
        except UnicodeEncodeError:
            pass
        else:
            return text
    return text.encode("utf-8", "surrogatepass")


def decode_cell(value: str | bytes) -> str:
    """Return the text that :func:`encode_cell` was given."""
    return value.decode("utf-8", "surrogatepass") if isinstance(value, bytes) else value


def encode_cells(cells: Iterable[Any]) -> tuple[Any, ...]:
    """Return the cells of a row as SQLite can keep them; numbers and None as they are."""
    return tuple([encode_cell(cell) if cell.__class__ is str else cell for cell in cells])


def decode_cells(cells: Iterable[Any]) -> list[Any]:
    """Return the cells that :func:`encode_cells` was given."""
    return [decode_cell(cell) if isinstance(cell, bytes) else cell for cell in cells]


def insert_entry(connection: sqlite3.Connection, seq: int, entry: Entry) -> None:
    """Write an entry under this place in the order of the log."""
    connection.execute(_INSERT["deid_log"], (seq, *encode_cells(list_entry_texts(entry))))
    rows = {
        "deid_instance": map(list_instance_texts, entry.instances),
        "deid_uid": entry.uids,
        "deid_value": (
            *((keyword, value, 0) for keyword, value in list_further_values(entry)),
            *((keyword, part, 1) for keyword, part in list_parts(entry)),
        ),
        "deid_word": ((word,) for word in sorted(collect_words(list_names(entry)))),
    }
    for table, those in rows.items():
        connection.executemany(_INSERT[table], [(seq, *encode_cells(row)) for row in those])
    for digest, value in entry.large.items():
        _insert_large(connection, seq, encode_cell(digest), value)


def read_entry(connection: sqlite3.Connection, seq: int) -> Entry | None:
    """Return the entry at this place in the order of the log; None if it is no longer there."""
    row = connection.execute(_SELECT_ENTRY, (seq,)).fetchone()
    if row is None:
        return None
    values, uids, instances, large = (connection.execute(sql, (seq,)) for sql in _SELECT_PARTS)
    return make_entry(
        decode_cells(row[1:]),
        map(decode_cells, values),
        map(make_instance, map(decode_cells, instances)),
        map(decode_cells, uids),
        {decode_cell(digest): value for digest, value in large},
    )


def _insert_large(
    connection: sqlite3.Connection, seq: int, digest: str | bytes, value: bytes
) -> None:
    """Write a large value once for all entries that have it.

    One digest means one value, but that is not for the store to believe.
    """
    known = connection.execute(
        "SELECT key FROM deid_log_large WHERE digest = ? AND value = ?", (digest, value)
    ).fetchone()
    key = known[0] if known else None
    if key is None:
        key = connection.execute(insert_statement("deid_log_large"), (digest, value)).lastrowid
    connection.execute(_INSERT["deid_large"], (seq, key))
