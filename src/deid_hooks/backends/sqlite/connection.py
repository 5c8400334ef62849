"""Open and close the SQLite file, notice that it was replaced; transactions, and who's next."""

from __future__ import annotations

import ctypes
import os
import random
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from deid_hooks.backends.sqlite import schema
from deid_hooks.backends.sqlite.failures import is_busy, make_unknown
from deid_hooks.backends.tables.migrations import refuse_newer, refuse_unreadable
from deid_hooks.deadline import Deadline, Turn
from deid_hooks.errors import LogUnavailable
from deid_hooks.files import find_stranger, fsync_folder, is_of_trusted_group, make_folders

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
        _refuse_exposed(self._names)
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
            found = wait_patiently(self.deadline, lambda: schema.read_store(self.connection))
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_ERROR:  # as for a table that isn't there
                raise
            found = None
        if found is None:
            raise LogUnavailable(f"{self.path} is a database, but not a de-id log", _HALF_MADE)
        store, version = found
        refuse_newer(version, f"the log {self.path}")
        self.version = version
        use_wal(self.connection, self.path, self.deadline)
        # A log that was in another journal mode has its -wal from the next reading on.
        wait_patiently(self.deadline, lambda: schema.read_store(self.connection))
        return store

    def _is_late(self) -> bool:
        return self.deadline.passed


def connect(path: Path, deadline: Deadline) -> sqlite3.Connection:
    """Connect to an existing file; commits are durable, and what is deleted is overwritten.

    It does not wait for locks itself: SQLite's way of waiting lets some writers starve.
    """
    uri = f"{path.as_uri()}?mode=rw"
    connection = sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None)
    try:
        wait_patiently(deadline, lambda: connection.execute("PRAGMA synchronous = FULL"))
        overwrites = "PRAGMA secure_delete = ON"
        if wait_patiently(deadline, lambda: connection.execute(overwrites).fetchone()) != (1,):
            raise LogUnavailable(
                "this build of SQLite can't overwrite what it deletes", "use another build"
            )
    except BaseException:
        connection.close()
        raise
    return connection


def use_wal(connection: sqlite3.Connection, path: Path, deadline: Deadline) -> None:
    """Keep a write-ahead log; the database remembers. LogUnavailable if it can't."""
    mode = wait_patiently(
        deadline, lambda: connection.execute("PRAGMA journal_mode = WAL").fetchone()
    )
    if mode != ("wal",):
        raise LogUnavailable(f"the disk of {path} can't hold a SQLite log", "use a local disk")


def _refuse_exposed(names: Names) -> None:
    """Raise LogUnavailable for files of a stranger, or that others may use.

    Of one's own, what others may do is taken away. SQLite gives new ones the database's mode.
    """
    for name in names:
        try:
            found = name.stat()
            if not stat.S_ISREG(found.st_mode):
                raise LogUnavailable(f"{name} is not a file", "check the URL of the log")
            if stranger := find_stranger(found):
                raise LogUnavailable(
                    f"{name} belongs to {stranger}, who could read and change what is logged",
                    f"run it as its owner: sudo -u {stranger} deid-hooks ..."
                    if os.geteuid() == 0
                    else "check the URL of the log; the site's settings may name its owner",
                )
            exposed = stat.S_IMODE(found.st_mode) & (0o007 if is_of_trusted_group(found) else 0o077)
            if exposed and found.st_uid == os.geteuid():
                name.chmod(stat.S_IMODE(found.st_mode) & 0o660 & ~exposed)
            elif exposed:
                raise LogUnavailable(
                    f"others may use {name}, whose owner is another user",
                    "have its owner change that: chmod o= FILE",
                )
        except OSError:
            continue  # not there, or a disk without modes; if it can't be used, that shows soon


def create_log(path: Path, deadline: Deadline) -> None:
    """Make the file and the folders that it is in; leave a log that is there as it is.

    Two processes may do so at once. Raises LogUnavailable or what ``failures`` translates.
    """
    make_folders(path.parent)
    _make_file(path)
    connection = connect(real_path(path), deadline)
    try:
        if wait_patiently(deadline, lambda: _is_empty(connection)):
            use_wal(connection, path, deadline)
            _make_tables(connection, deadline)
    finally:
        connection.close()
    Opened(path, deadline).close()


def may_exist(path: Path) -> bool:
    """Return whether the log, or anything that it left behind, may be at the path."""
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
    wait_patiently(deadline, lambda: connection.execute("BEGIN IMMEDIATE"))
    if not _is_empty(connection):  # another process was faster
        connection.execute("ROLLBACK")
        return
    schema.make_tables(connection)
    connection.execute("COMMIT")
    # The store's id must stand in the database file itself, and is never written again: so that
    # it is missed when another file is copied over this one.
    truncate_wal(connection, deadline)


def _size(path: Path) -> int | None:
    """Return the size in bytes; None where nothing is, 0 for what can't be examined."""
    try:
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        return 0


def _is_empty(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master").fetchone() is None


T = TypeVar("T")

_PAUSE = (0.0005, 0.003)
_LAST_MOMENT = 0.02


def wait_patiently(deadline: Deadline, attempt: Callable[[], T]) -> T:
    """Return what ``attempt`` returns, tried until nothing is in its way or the deadline is there.

    Many short sleeps of random length give every waiting process the same chance.
    """
    while True:
        try:
            return attempt()
        except sqlite3.Error as error:
            if not is_busy(error) or deadline.left() < _LAST_MOMENT:
                raise
        _pause()


def truncate_wal(connection: sqlite3.Connection, deadline: Deadline) -> bool:
    """Move the write-ahead log into the database; False if a reader held it until the deadline."""
    while True:
        busy = wait_patiently(
            deadline, lambda: connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        )
        if not busy or deadline.left() < _LAST_MOMENT:
            return not busy
        _pause()


@contextmanager
def writing(opened: Opened, turn: Turn | None = None) -> Iterator[sqlite3.Connection]:
    """Hold the write lock from the start of a transaction that is durable at its end.

    ``turn`` is taken once the lock is there. An error raised by the commit becomes AppendUnknown;
    after any other nothing was written.
    """
    connection = opened.connection
    wait_patiently(opened.deadline, lambda: connection.execute("BEGIN IMMEDIATE"))
    try:
        if (turn and not turn.take()) or opened.deadline.passed:
            raise LogUnavailable(f"the log {opened.path} was not free in time", "try again")
        yield connection
    except BaseException:
        _roll_back(connection)
        raise
    try:
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        raise make_unknown(error, opened.path) from None


@contextmanager
def reading(opened: Opened) -> Iterator[sqlite3.Connection]:
    """Hold a transaction that sees one state of the log. Keep it short: it delays an erasure."""
    connection = opened.connection
    connection.execute("BEGIN")
    try:
        found = wait_patiently(opened.deadline, lambda: schema.read_store(connection))
        if found:  # it may have been upgraded since it was opened
            opened.version = found[1]
            refuse_unreadable(opened.version, f"the log {opened.path}")
        yield connection
    finally:
        _roll_back(connection)


def _pause() -> None:
    time.sleep(random.uniform(*_PAUSE))  # noqa: S311 - not a secret


def _roll_back(connection: sqlite3.Connection) -> None:
    # After some errors SQLite has rolled back already. If this fails, the error that led here
    # still matters more, and a connection that failed is not used again.
    if connection.in_transaction:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")


Inode = tuple[int, int]
Names = tuple[Path, Path, Path]


@dataclass(frozen=True, slots=True)
class Files:
    """Device and inode of the database, its write-ahead log and the index of that."""

    main: Inode | None
    wal: Inode | None
    shm: Inode | None


class Replaced(LogUnavailable):
    """The log's files are not those that the connection has open."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"the log file {path} was deleted or replaced while in use",
            "put the right file back, with its -wal, or restore it from a backup; then try again",
        )
        self.path = path

    def __reduce__(self) -> tuple[type[Replaced], tuple[Path]]:
        return type(self), (self.path,)


def names_of(path: Path, real: Path) -> Names:
    """Return the names of the three files. SQLite puts two of them beside what a link leads to."""
    return path, Path(f"{real}-wal"), Path(f"{real}-shm")


def real_path(path: Path) -> Path:
    """Return where a path leads through its links; itself where they lead in a circle."""
    return Path(os.path.realpath(path))


def files_at(names: Names) -> Files:
    """Return the files that the names lead to now."""
    return Files(*map(_inode, names))


def hold(connection: sqlite3.Connection, files: Files, path: Path) -> None:
    """Remember what an open connection has open, until :func:`release`.

    SQLite keeps one index of the write-ahead log for all connections that a process has on a
    database. One that found other files beside it would read and write nonsense: it is refused.
    """
    for _, other in tuple(_held.values()):
        if other.main == files.main and other != files:
            raise Replaced(path)
    _held[id(connection)] = (connection, files)


def release(connection: sqlite3.Connection) -> None:
    """Forget a connection that is closed."""
    _held.pop(id(connection), None)


def keep_open(connection: sqlite3.Connection) -> None:
    """Never close this connection, not even when the interpreter ends.

    One reference too many does it, and nothing that Python itself offers.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))


_held: dict[int, tuple[sqlite3.Connection, Files]] = {}


def _keep_the_parents_open() -> None:
    """Keep connections of the parent open in a forked child, which must not touch or close them."""
    for connection, _ in _held.values():
        keep_open(connection)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_the_parents_open)


def _inode(path: Path) -> Inode | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
