"""Making a log where there is none."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from deid_hooks.deadline import Deadline
from deid_hooks.errors import LogUnavailable
from deid_hooks.files import fsync_folder, make_folders
from deid_hooks.sqlite import schema
from deid_hooks.sqlite.connection import Opened, connect, use_wal
from deid_hooks.sqlite.identity import real_path
from deid_hooks.sqlite.transactions import patiently, truncate_wal


def create(path: Path, deadline: Deadline) -> None:
    """Make the file and the folders that it is in; leave a log that is there as it is.

    Two processes may do so at once. Raises LogUnavailable or what ``failures`` translates.
    """
    make_folders(path.parent)
    _make_file(path)
    connection = connect(real_path(path), deadline)
    try:
        if patiently(deadline, lambda: _is_empty(connection)):
            use_wal(connection, path, deadline)
            _make_tables(connection, deadline)
    finally:
        connection.close()
    Opened(path, deadline).close()


def may_exist(path: Path) -> bool:
    """False only where neither the log nor anything that it left behind is at the path."""
    return any(_size(name) is not None for name in (path, Path(f"{path}-wal")))


def _make_file(path: Path) -> None:
    # In this order: whoever makes a log makes the file first.
    if _size(Path(f"{path}-wal")) and not _size(path):
        raise LogUnavailable(
            f"the log {path} is gone, but what was logged last is still in {path}-wal",
            "put the file back beside it; SQLite would delete the -wal of a new one",
        )
    # No connection of this process can have a new file open, so closing it drops no lock.
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        return
    fsync_folder(path.parent)


def _make_tables(connection: sqlite3.Connection, deadline: Deadline) -> None:
    patiently(deadline, lambda: connection.execute("BEGIN IMMEDIATE"))
    if not _is_empty(connection):  # another process was faster
        connection.execute("ROLLBACK")
        return
    schema.migrate(connection)
    connection.execute("COMMIT")
    # The store's id must stand in the database file itself, and is never written again: so that
    # it is missed when another file is copied over this one.
    truncate_wal(connection, deadline)


def _size(path: Path) -> int | None:
    """In bytes; None where nothing is. What can't be looked at may be something."""
    try:
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        return 0


def _is_empty(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master").fetchone() is None
