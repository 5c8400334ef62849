"""Opening and closing the log."""

from __future__ import annotations

import os
import sqlite3
import stat
from contextlib import suppress
from pathlib import Path

from deid_hooks.deadline import Deadline
from deid_hooks.errors import LogUnavailable
from deid_hooks.sqlite import schema
from deid_hooks.sqlite.identity import (
    Names,
    Replaced,
    files_at,
    hold,
    keep_open,
    names_of,
    real_path,
    release,
)
from deid_hooks.sqlite.transactions import patiently, writing

_STEPS_BETWEEN_LOOKS = 20_000
_HALF_MADE = "check the URL of the log; if init was interrupted, run: deid-hooks init"


class Opened:
    """A connection, the files that it has open, and the random id of the store in them.

    ``deadline`` is that of the call at work: a statement that runs past it is interrupted.
    """

    def __init__(self, path: Path, deadline: Deadline) -> None:
        """Open the log. Raises LogUnavailable or what ``failures`` translates."""
        self.path, self.deadline = path, deadline
        real = real_path(path)
        self._names = names_of(path, real)
        before = files_at(self._names)
        if before.main is None:
            raise LogUnavailable(
                f"there is no log at {path}", "restore it from a backup, or run: deid-hooks init"
            )
        _make_private(self._names)
        if path.stat().st_size == 0:  # SQLite would take it for a new database
            raise LogUnavailable(f"{path} is empty", _HALF_MADE)
        self.connection = connect(real, deadline)
        try:
            self.connection.set_progress_handler(self._is_late, _STEPS_BETWEEN_LOOKS)
            self.store = self._recognise()
            self.files = files_at(self._names)
            if self.files.main != before.main or None in (self.files.wal, self.files.shm):
                raise Replaced(path)
            hold(self.connection, self.files, path)
        except BaseException:
            self.connection.close()
            raise

    def verify(self) -> None:
        """Raise Replaced unless the files at the path are the ones that are open here."""
        if files_at(self._names) != self.files:
            raise Replaced(self.path)

    def close(self) -> None:
        """Close the connection; the last one moves what was logged into the database file."""
        there = files_at(self._names)
        if there.main != self.files.main and there.wal not in (None, self.files.wal):
            # Closing deletes the -wal at the path, by its name. This one belongs to another log.
            keep_open(self.connection)
            return
        with suppress(sqlite3.Error):
            self.connection.close()
        release(self.connection)

    def _recognise(self) -> str:
        try:
            found = patiently(self.deadline, lambda: schema.store_of(self.connection))
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_ERROR:  # as for a table that isn't there
                raise
            found = None
        if found is None:
            raise LogUnavailable(f"{self.path} is a database, but not a de-id log", _HALF_MADE)
        store, version = found
        schema.refuse_newer(version, self.path)
        use_wal(self.connection, self.path, self.deadline)
        # A log that was in another journal mode has its -wal from the next reading on.
        patiently(self.deadline, lambda: schema.store_of(self.connection))
        if version < schema.VERSION:
            with writing(self) as connection:
                schema.migrate(connection)
        return store

    def _is_late(self) -> bool:
        return self.deadline.passed


def connect(path: Path, deadline: Deadline) -> sqlite3.Connection:
    """A bare connection to an existing file, that commits durably and overwrites what it deletes.

    It does not wait for locks itself: SQLite's way of waiting lets some writers starve.
    """
    uri = f"{path.as_uri()}?mode=rw"
    connection = sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None)
    try:
        patiently(deadline, lambda: connection.execute("PRAGMA synchronous = FULL"))
        overwrites = "PRAGMA secure_delete = ON"
        if patiently(deadline, lambda: connection.execute(overwrites).fetchone()) != (1,):
            raise LogUnavailable(
                "this build of SQLite can't overwrite what it deletes", "use another build"
            )
    except BaseException:
        connection.close()
        raise
    return connection


def use_wal(connection: sqlite3.Connection, path: Path, deadline: Deadline) -> None:
    """Keep a write-ahead log; the database remembers. LogUnavailable if it can't."""
    mode = patiently(deadline, lambda: connection.execute("PRAGMA journal_mode = WAL").fetchone())
    if mode != ("wal",):
        raise LogUnavailable(f"the disk of {path} can't hold a SQLite log", "use a local disk")


def _make_private(names: Names) -> None:
    """Take away what others may do with the files. SQLite gives new ones the database's mode."""
    for name in names:
        try:
            found = name.stat()
            if not stat.S_ISREG(found.st_mode):
                raise LogUnavailable(f"{name} is not a file", "check the URL of the log")
            if stat.S_IMODE(found.st_mode) & 0o077 and found.st_uid == os.geteuid():
                name.chmod(0o600)
        except OSError:
            continue  # not there, or a disk without modes; if it can't be used, that shows soon
