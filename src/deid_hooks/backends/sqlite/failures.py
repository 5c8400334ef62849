"""The messages for errors of SQLite and the disk: full, read-only, locked, damaged, unknown.

Their own texts never get out: some quote values.
"""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

from deid_hooks.errors import AppendUnknown, LogUnavailable

DRIVER_ERRORS = (sqlite3.Error, sqlite3.Warning, OSError, UnicodeError, OverflowError, MemoryError)
"""What the driver, the operating system and a broken file make Python raise."""

_ALMOST_FULL = ("the disk of {path} is full", "free some space there")
_DAMAGED = ("the log {path} is damaged", "restore it from a backup")
_NOT_WRITABLE = (
    "the log {path} can't be opened for writing",
    "check that the disk is not read-only and that this user may write the file and its folder",
)

# By primary result code, or by extended code where that says more (sqlite.org/rescode.html).
_CAUSES = {
    sqlite3.SQLITE_BUSY: (
        "the log {path} is locked by another process",
        "try again, and look for a process that hangs",
    ),
    sqlite3.SQLITE_FULL: _ALMOST_FULL,
    sqlite3.SQLITE_IOERR_SHMSIZE: _ALMOST_FULL,  # not even 32 KB were left to open it
    sqlite3.SQLITE_READONLY: _NOT_WRITABLE,
    sqlite3.SQLITE_CANTOPEN: _NOT_WRITABLE,
    sqlite3.SQLITE_PERM: _NOT_WRITABLE,
    sqlite3.SQLITE_IOERR: (
        "the disk of the log {path} reports errors",
        "look into the system's log, the disk may be failing or full",
    ),
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: (
        "{path} is not a database",
        "check the URL of the log, or restore it from a backup",
    ),
    sqlite3.SQLITE_INTERRUPT: (
        "the log {path} took too long",
        "allow more time, or ask for less at once",
    ),
    sqlite3.SQLITE_TOOBIG: ("a value is too large for the log {path}", "log it by digest only"),
}
_CAUSES[sqlite3.SQLITE_LOCKED] = _CAUSES[sqlite3.SQLITE_PROTOCOL] = _CAUSES[sqlite3.SQLITE_BUSY]


def is_busy(error: sqlite3.Error) -> bool:
    """Return whether another connection is in the way, so that trying again may help."""
    return _primary(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL)


def make_unavailable(error: BaseException, path: Path) -> LogUnavailable:
    """Return the failure of anything but a commit: nothing was written. ``path`` is the log's."""
    code = getattr(error, "sqlite_errorcode", None)
    for known in (code, _primary(error)):
        if known in _CAUSES:
            cause, remedy = _CAUSES[known]
            return LogUnavailable(cause.format(path=path), remedy)
    if isinstance(error, OSError):
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return LogUnavailable(_ALMOST_FULL[0].format(path=path), _ALMOST_FULL[1])
        return LogUnavailable(f"the log {path} can't be used: {error.strerror}", _NOT_WRITABLE[1])
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    return LogUnavailable(f"the log {path} can't be used: {name}", "report this")


def make_unknown(error: BaseException, path: Path) -> AppendUnknown:
    """Return the failure of a commit: all of it may be on disk, or none."""
    failure = make_unavailable(error, path)
    return AppendUnknown(
        f"{failure.cause}, and whether the last write is in it is unknown", failure.remedy
    )


def _primary(error: BaseException) -> int | None:
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF
