"""Make the tables of the log in SQLite, and recognise them."""

from __future__ import annotations

import secrets
import sqlite3
from pathlib import Path

from deid_hooks.backends.tables.columns import (
    TABLES,
    ColumnType,
    Table,
    find_fault,
    view_statements,
)
from deid_hooks.backends.tables.migrations import STEPS, VERSION, record_step
from deid_hooks.errors import LogUnavailable

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
