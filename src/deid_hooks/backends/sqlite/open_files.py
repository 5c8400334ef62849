"""Find out whether the log at its path still is the files that a connection has open.

SQLite does not notice when its files are deleted or replaced: it goes on writing into what no path
leads to any more, and all of that is gone when the process ends.
"""

from __future__ import annotations

import ctypes
import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from deid_hooks.errors import LogUnavailable

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
