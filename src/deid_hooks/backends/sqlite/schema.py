"""Making the tables of the log in SQLite, and recognising them."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from deid_hooks.backends.tables.columns import TABLES, ColumnType, Table, view_statements
from deid_hooks.errors import LogUnavailable

if TYPE_CHECKING:
    from sqlite_utils import Database

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


def refuse_newer(version: int, path: Path) -> None:
    """Raise LogUnavailable for a log that this version of the package would damage."""
    if version > VERSION:
        raise LogUnavailable(
            f"the log {path} was written by a newer version of deid-hooks", "update deid-hooks"
        )


def migrate(connection: sqlite3.Connection) -> None:
    """Bring an empty database, or an older log, to this version. Within a transaction."""
    from sqlite_utils import Database  # 70 ms that only this needs

    database = Database(connection, execute_plugins=False)
    made = "deid_log_store" in database.table_names()
    stored = read_store(connection) if made else None
    version = stored[1] if stored else 0
    for step in _STEPS[version:]:
        step(database)
    connection.execute("UPDATE deid_log_store SET version = ?", (VERSION,))


def _make_tables(database: Database) -> None:
    for table in TABLES.values():
        _make_table(database, table)
    for statement in view_statements():
        database.execute(statement)
    database.execute(
        "INSERT INTO deid_log_store (id, version) VALUES (?, 0)", [secrets.token_hex(16)]
    )


def _make_table(database: Database, table: Table) -> None:
    types = {column.name: column.type for column in table.columns}
    columns = {name: _TYPES.get(types.get(name, ColumnType.NUMBER), str) for name in table.names}
    # An explicit integer key: a VACUUM may renumber rows that have none, and their order counts.
    made = database.table(table.name)
    made.create(columns, pk=table.key or None)
    if table.part:
        made.create_index(["entry"])
    for index in table.indexes:
        if all(name in columns for name in index):
            made.create_index(list(index))
    if table.unique:
        made.create_index([table.unique], unique=True)


_STEPS: tuple[Callable[[Database], None], ...] = (_make_tables,)
"""Each makes the version of its place, counted from 1, out of the one before."""

VERSION = len(_STEPS)
