"""Upgrading a log on a database server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deid_hooks.backends import AccessRow, Entry, Record, Seal
from deid_hooks.backends.tables.columns import (
    SHORT_LIMIT,
    TABLES,
    Column,
    Table,
    view_statements,
)
from deid_hooks.backends.tables.migrations import (
    UPGRADING,
    VERSION,
    Changes,
    refuse_newer,
    upgrade,
)
from deid_hooks_sql.database import Failure, Kind, make_unavailable
from deid_hooks_sql.links import Link
from deid_hooks_sql.reading import read_places
from deid_hooks_sql.schema import find_columns, make_row


class ServerChanges(Changes):
    """Changes tables on a link, whose user owns them."""

    mark = "%s"
    not_ascii = "octet_length(word) <> char_length(word)"
    short_limit = SHORT_LIMIT
    seq_as_text = "CONCAT(seq, '')"

    def __init__(self, link: Link, seal: Seal) -> None:
        self._link = link
        self.seal = seal

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

    def insert_rows(
        self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]
    ) -> None:
        for sql, values in self._link.database.inserts(table, columns, rows):
            self.run(sql, *values)

    def read_records(self, after: int) -> list[tuple[int, Record]]:
        return [(seq, record) for seq, record, _ in read_places(self._link, after)[0]]

    def rewrite_access(self, seq: int, row: AccessRow) -> None:
        names = ("salt", "commitment", "exact")
        cells = dict(zip(TABLES["deid_log_access"].server_names, make_row(seq, row), strict=True))
        sql = "UPDATE deid_log_access SET salt = %s, commitment = %s, exact = %s WHERE seq = %s"
        self.run(sql, *(cells[name] for name in names), seq)

    def make_views(self) -> None:
        for statement in view_statements("CREATE OR REPLACE VIEW"):
            self.run(statement)


def _refuse_unsealable(link: Link, seal: Seal) -> None:
    """Raise what the log will raise when it seals its entries, before anything is changed.

    It may refuse them by the key of their digests, and MySQL can't undo changes of tables.
    """
    keys = link.rows('SELECT DISTINCT "key" FROM deid_log')
    seal("", [Entry("", "", "", "", None, {}, {}, "{}", (), (), {}, "", key) for (key,) in keys])


def upgrade_log(link: Link, seal: Seal) -> str:
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
        _refuse_unsealable(link, seal)
        upgrade(ServerChanges(link, seal))
    return f"to version {VERSION}"
