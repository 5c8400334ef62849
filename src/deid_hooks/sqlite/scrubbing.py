"""Leaving nothing of what was erased in the files, and the room that this takes."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections import Counter
from pathlib import Path

from deid_hooks.deadline import Deadline
from deid_hooks.errors import LogError, LogUnavailable
from deid_hooks.sqlite.connection import Opened
from deid_hooks.sqlite.failures import unavailable
from deid_hooks.sqlite.transactions import patiently, truncate_wal

SECONDS_FOR_READERS = 10.0
_MARGIN = 65_536


def refuse_without_room(opened: Opened) -> None:
    """Raise LogUnavailable if the disks have no room for :func:`scrub`.

    A VACUUM writes the database twice: into a temporary file, and from there into the write-ahead
    log (the SQLite documentation, "How VACUUM works").
    """
    pages, size = (
        opened.connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_count", "page_size")
    )
    needed: Counter[int] = Counter()
    for folder in (opened.path.parent, _temporary_folder()):
        needed[folder.stat().st_dev] += pages * size + _MARGIN
    for folder in (opened.path.parent, _temporary_folder()):
        wanted, free = needed[folder.stat().st_dev], shutil.disk_usage(folder).free
        if free < wanted:
            raise LogUnavailable(
                f"to forget, {folder} must have room for {_megabytes(wanted)} and has"
                f" {_megabytes(free)}; nothing was erased",
                "make room, or let TMPDIR name a folder on another disk",
            )


def scrub(opened: Opened) -> None:
    """Overwrite what the files still hold of erased entries; LogError if that isn't finished.

    ``secure_delete`` overwrites what is deleted, but not the copies that SQLite leaves behind in
    unused parts of a page when it moves rows and index entries to another (about one in 1,500 in
    a measurement): only a VACUUM gets rid of those.
    """
    try:
        patiently(opened.deadline, lambda: opened.connection.execute("VACUUM"))
        patience = Deadline(min(SECONDS_FOR_READERS, opened.deadline.left()))
        held = not truncate_wal(opened.connection, patience)
        cause, remedy = "a reader held the log", "repeat it when nobody reads the log"
    except sqlite3.Error as error:
        failure = unavailable(error, opened.path)
        held, cause, remedy = True, failure.cause, f"repeat it: {failure.remedy}"
    if held:
        raise LogError(
            "the entries are erased from the log, but traces may be left in unused parts of"
            f" {opened.path}: {cause}",
            remedy,
        )


def _temporary_folder() -> Path:
    """Where SQLite puts temporary files (its documentation, "Temporary File Storage Locations")."""
    variables = (os.environ.get(name) for name in ("SQLITE_TMPDIR", "TMPDIR"))
    for name in (*variables, "/var/tmp", "/usr/tmp", "/tmp"):  # noqa: S108
        if name and Path(name).is_dir() and os.access(name, os.W_OK | os.X_OK):
            return Path(name)
    return Path()


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
