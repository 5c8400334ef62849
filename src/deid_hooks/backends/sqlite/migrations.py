"""Upgrade a log in SQLite: a copy beside it first, then all steps in one transaction."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deid_hooks.backends.contract import Seal
from deid_hooks.backends.sqlite.connection import Opened, connect, real_path, writing
from deid_hooks.backends.sqlite.reading import read_places
from deid_hooks.backends.sqlite.schema import list_columns, make_table, read_store
from deid_hooks.backends.tables.columns import Column, Table, view_statements
from deid_hooks.backends.tables.migrations import VERSION, Changes, refuse_newer, upgrade
from deid_hooks.deadline import Deadline
from deid_hooks.errors import LogUnavailable
from deid_hooks.files import fsync_folder
from deid_hooks.records.model import AccessRow, Record

_MARGIN = 1_000_000
_PAGES_AT_ONCE = 5_000
_COPY, _PART = ".version-", ".part"


class SQLiteChanges(Changes):
    """Changes tables within the transaction of a connection."""

    mark = "?"
    not_ascii = "length(CAST(word AS BLOB)) <> length(word)"
    short_limit = None
    seq_as_text = "CAST(seq AS TEXT)"

    def __init__(self, connection: sqlite3.Connection, seal: Seal) -> None:
        self._connection = connection
        self.seal = seal

    def run(self, sql: str, *values: Any) -> list[Any]:
        return self._connection.execute(sql, values).fetchall()

    def list_columns(self, table: str) -> set[str]:
        return list_columns(self._connection, table)

    def create_table(self, table: Table) -> None:
        make_table(self._connection, table)

    def add_column(self, table: str, column: Column) -> None:
        if column.name.lower() not in self.list_columns(table):
            self.run(f"ALTER TABLE [{table}] ADD COLUMN [{column.name}] TEXT")

    def rename_column(self, table: str, old: str, new: str) -> None:
        self.run(f"ALTER TABLE [{table}] RENAME COLUMN [{old}] TO [{new}]")

    def drop_columns(self, table: str, *columns: str) -> None:
        for column in columns:
            if column in self.list_columns(table):
                self.run(f"ALTER TABLE [{table}] DROP COLUMN [{column}]")

    def insert_rows(
        self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]
    ) -> None:
        marks = ", ".join("?" * len(columns))
        insert = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})"  # noqa: S608
        self._connection.executemany(insert, rows)

    def read_records(self, after: int) -> list[tuple[int, Record]]:
        return [(seq, record) for seq, record, _ in read_places(self._connection, after)]

    def rewrite_access(self, seq: int, row: AccessRow) -> None:
        sql = "UPDATE deid_log_access SET salt = ?, commitment = ? WHERE seq = ?"
        self.run(sql, row.salt, row.commitment, seq)

    def make_views(self) -> None:
        for (name,) in self.run("SELECT name FROM sqlite_master WHERE type = 'view'"):
            self.run(f"DROP VIEW [{name}]")
        for statement in view_statements():
            self.run(statement)


def upgrade_log(path: Path, seal: Seal, deadline: Deadline) -> str:
    """Bring the log to this version; return what was done, ``""`` if nothing had to be.

    Of two at once one waits. Raises LogUnavailable or what ``failures`` translates; then nothing
    was changed.
    """
    opened = Opened(path, deadline)
    try:
        if opened.version == VERSION:
            return ""
        if sqlite3.sqlite_version_info < (3, 35):
            raise LogUnavailable(
                f"SQLite {sqlite3.sqlite_version} can't upgrade the log {path}",
                "upgrade it with a Python that has SQLite 3.35 or later",
            )
        with writing(opened) as connection:
            found = read_store(connection)
            version = found[1] if found else 0
            refuse_newer(version, f"the log {path}")
            if version == VERSION:  # another was faster
                return ""
            copy = _copy_file(opened, version)
            try:
                upgrade(SQLiteChanges(connection, seal))
            except BaseException:
                copy.unlink()  # it would be in the way of forgetting
                raise
        return f"from version {version} to {VERSION}; as it was before it is kept in {copy}"
    finally:
        opened.close()


def find_copies(path: Path) -> list[Path]:
    """Return the copies of the log that upgrades made beside it, whole or cut off, sorted."""
    return sorted(
        each for each in path.parent.iterdir() if each.name.startswith(f"{path.name}{_COPY}")
    )


def _copy_file(opened: Opened, version: int) -> Path:
    """Copy the log beside it, and return the copy, which appears once it is whole and durable."""
    path = opened.path
    pages, size = (
        opened.connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_count", "page_size")
    )
    # The copy, and what the steps write before it gets into the file.
    if shutil.disk_usage(path.parent).free < 2 * pages * size + _MARGIN:
        raise LogUnavailable(
            f"the disk of {path} has no room for a copy of the log; nothing was upgraded",
            f"make room for {(2 * pages * size + _MARGIN) / 1e6:.0f} MB there",
        )
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    for left in find_copies(path):  # of an upgrade that was killed: nobody else runs one
        if left.suffix == _PART:
            left.unlink()
    copy = path.with_name(f"{path.name}{_COPY}{version}.{moment}")
    part = copy.with_name(f"{copy.name}{_PART}")
    os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))  # no log is in it yet
    try:
        _copy_pages(opened, part)
        part.rename(copy)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise
    fsync_folder(path.parent)
    return copy


def _copy_pages(opened: Opened, part: Path) -> None:
    def stop_late(status: int, remaining: int, total: int) -> None:
        if opened.deadline.passed:
            raise LogUnavailable(f"there was no time to copy the log {opened.path}", "try again")

    # SQLite copies nothing on a connection that writes. Another one sees the same: nobody else
    # can have written since that one took the lock.
    with (
        closing(connect(real_path(opened.path), opened.deadline)) as source,
        closing(sqlite3.connect(part)) as target,
    ):
        target.execute("PRAGMA synchronous = FULL")
        source.backup(target, pages=_PAGES_AT_ONCE, progress=stop_late)
        target.execute("PRAGMA journal_mode = DELETE")  # so that it is whole in its one file
