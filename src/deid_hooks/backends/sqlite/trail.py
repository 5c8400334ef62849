"""The access trail in the store: each row follows the one that was last."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from typing import Any

from deid_hooks.backends.sqlite.connection import Opened
from deid_hooks.backends.sqlite.rows import decode_cell, encode_cell
from deid_hooks.backends.sqlite.transactions import reading
from deid_hooks.errors import IdConflict, TrailMoved
from deid_hooks.records.chain import same_row
from deid_hooks.records.model import AccessRow

_ROWS_A_PAGE = 1_000


def append_row(connection: sqlite3.Connection, seq: int, access: AccessRow) -> bool:
    """Add a row after the last one; False if it is there. IdConflict, or TrailMoved."""
    ids = json.dumps(access.log_ids, ensure_ascii=False)
    texts = (access.who, access.where, access.action, access.asked, ids, access.reason)
    chain = (access.salt, access.commitment, access.previous, access.seal)
    row = tuple(map(encode_cell, (access.id, access.at, *texts, *chain)))
    found = connection.execute("SELECT * FROM deid_log_access WHERE id = ?", row[:1]).fetchone()
    if found:
        if not same_row(access_of(found), access):
            raise IdConflict(access.id)
        return False
    if access.previous != _head(connection):
        raise TrailMoved
    marks = ", ".join("?" * (1 + len(row)))
    connection.execute(f"INSERT INTO deid_log_access VALUES ({marks})", (seq, *row))  # noqa: S608
    return True


def erase_terms(connection: sqlite3.Connection, log_ids: Iterable[str]) -> None:
    """What was asked, and why, where one of these entries was among the answers."""
    connection.execute("CREATE TEMP TABLE erased (id PRIMARY KEY)")
    connection.executemany(
        "INSERT OR IGNORE INTO temp.erased VALUES (json_quote(?))",
        ((id_,) for id_ in log_ids if isinstance(encode_cell(id_), str)),  # else it is no log id
    )
    connection.execute(
        "UPDATE deid_log_access SET asked = '', reason = '', salt = ''"
        " WHERE (asked != '' OR reason != '' OR salt != '') AND EXISTS"
        " (SELECT 1 FROM json_each(log_ids) WHERE json_quote(value) IN temp.erased)"
    )
    connection.execute("DROP TABLE temp.erased")


def rows_of_trail(opened: Opened, after: int) -> tuple[list[AccessRow], int]:
    """Some access rows after the cursor, and the next cursor."""
    with reading(opened) as connection:
        rows = connection.execute(
            "SELECT * FROM deid_log_access WHERE seq > ? ORDER BY seq LIMIT ?",
            (after, _ROWS_A_PAGE),
        ).fetchall()
    return [access_of(row) for row in rows], rows[-1][0] if rows else after


def head_of_trail(opened: Opened) -> str:
    """The seal of the last access row."""
    with reading(opened) as connection:
        return _head(connection)


def access_of(row: tuple[Any, ...]) -> AccessRow:
    """The access row that a row of the table holds."""
    id_, at, who, where, action, asked, log_ids, *rest = map(decode_cell, row[1:])
    return AccessRow(id_, at, who, where, action, asked, tuple(json.loads(log_ids)), *rest)


def _head(connection: sqlite3.Connection) -> str:
    row = connection.execute(
        "SELECT seal FROM deid_log_access ORDER BY seq DESC LIMIT 1"
    ).fetchone()
    return "" if row is None else decode_cell(row[0])
