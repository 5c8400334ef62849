"""Transactions on the log, and waiting for one's turn."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

from deid_hooks.backends.sqlite import schema
from deid_hooks.backends.sqlite.failures import is_busy, make_unknown
from deid_hooks.backends.tables.migrations import refuse_newer
from deid_hooks.deadline import Deadline, Turn
from deid_hooks.errors import LogUnavailable

if TYPE_CHECKING:
    from deid_hooks.backends.sqlite.connection import Opened

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
            refuse_newer(opened.version, f"the log {opened.path}")
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
