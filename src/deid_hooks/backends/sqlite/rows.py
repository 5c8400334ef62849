"""Cells of rows in SQLite, which keep any text as it is."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Any

from deid_hooks.backends.tables.columns import (
    insert_statement,
    select_statement,
)
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
from deid_hooks.records.model import Entry

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
