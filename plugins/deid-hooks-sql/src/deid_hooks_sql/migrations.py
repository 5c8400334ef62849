"""Upgrading a log on a database server."""

from __future__ import annotations

from typing import Any

from deid_hooks.backends.tables.columns import SHORT_LIMIT, Column, Table, view_statements
from deid_hooks.backends.tables.migrations import (
    UPGRADING,
    VERSION,
    Changes,
    refuse_newer,
    upgrade,
)
from deid_hooks_sql.database import Failure, Kind, make_unavailable
from deid_hooks_sql.links import Link
from deid_hooks_sql.schema import find_columns


class ServerChanges(Changes):
    """Changes tables on a link, whose user owns them."""

    mark = "%s"
    not_ascii = "octet_length(word) <> char_length(word)"
    short_limit = SHORT_LIMIT

    def __init__(self, link: Link) -> None:
        self._link = link

    def run(self, sql: str, *values: Any) -> list[Any]:
        return self._link.rows(sql, *values)

    def list_columns(self, table: str) -> set[str]:
        return find_columns(self._link).get(table, set())

    def create_table(self, table: Table) -> None:
        for statement in self._link.database.create_table(table):
            self.run(statement)

    def add_column(self, table: str, column: Column) -> None:
        if column.name.lower() not in self.list_columns(table):
            for statement in self._link.database.add_column(table, column):
                self.run(statement)

    def rename_column(self, table: str, old: str, new: str) -> None:
        self.run(f"ALTER TABLE {table} RENAME COLUMN {old} TO {new}")

    def drop_columns(self, table: str, *columns: str) -> None:
        drops = ", ".join(f"DROP COLUMN {column}" for column in columns)
        self.run(f"ALTER TABLE {table} {drops}")  # one statement: all of them or none

    def make_views(self) -> None:
        for statement in view_statements("CREATE OR REPLACE VIEW"):
            self.run(statement)


def upgrade_log(link: Link) -> str:
    """Bring the log to this version; return what was done, ``""`` if nothing had to be.

    Of two at once one waits. Raises LogUnavailable.
    """
    where = link.database.where
    if "deid_log_store" not in find_columns(link):
        raise make_unavailable(Failure(Kind.NO_TABLES), where)
    with link.database.changing(link.connection):
        rows = link.rows("SELECT version FROM deid_log_store")
        if not rows:
            raise make_unavailable(Failure(Kind.NO_TABLES), where)
        [(version,)] = rows
        if version == VERSION:
            return ""
        if version != UPGRADING:  # else one was interrupted, and goes on here
            refuse_newer(version, where)
        upgrade(ServerChanges(link))
    return f"to version {VERSION}"
