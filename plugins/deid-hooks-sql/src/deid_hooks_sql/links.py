"""Connections, and the transactions on them.

Each connection lives in a thread of its own, so that no caller waits longer than it wants. A
process has its own connections: in a child that is forked, what it inherited leads nowhere.
"""

from __future__ import annotations

import os
import socket
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from deid_hooks.backends import (
    AppendUnknown,
    Deadline,
    Forgotten,
    IdConflict,
    LogError,
    LogUnavailable,
    NoAnswer,
    Record,
    Turn,
    Worker,
)
from deid_hooks.backends.tables.migrations import refuse_other
from deid_hooks_sql.database import (
    Committed,
    Database,
    Failed,
    Kind,
    Rows,
    Statement,
    make_unknown,
)

T = TypeVar("T")

_MOST_IDLE = 8
_SECONDS_TO_CLOSE = 1.0


class Link:
    """A connection that is opened when the first job needs it. One job at a time."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.used = False
        """Whether a job has ended well on it: a server that went away since may be back."""
        self.store = ""
        """The random id of the store that was found there."""
        self.version = 0
        """The version of its tables."""
        self.may_read = True
        """Whether this user may read what identifies a patient."""
        self._connection: Any = None
        self._socket: socket.socket | None = None
        self._watched = -1
        self._cut = False
        self._bound = 0
        self._worker = Worker("deid-hooks log")

    def run(self, deadline: Deadline, job: Callable[[Link], T]) -> T:
        """Return what ``job`` returns. Raises the LogError that it raises, Failed, or NoAnswer."""
        return self._worker.run(deadline, lambda: self._run_translated(job, deadline))

    def fetch(self, statements: Sequence[Statement]) -> list[Rows]:
        """Return the rows of each of the statements."""
        return self.database.fetch(self._connection, statements)

    def rows(self, sql: str, *values: Any) -> Rows:
        """Return the rows of one statement."""
        return self.fetch([(sql, values)])[0]

    @property
    def connection(self) -> Any:
        return self._connection

    def bound(self, seconds: float) -> None:
        """Bound the time that the server itself may take for a statement from now on."""
        whole = max(1, int(seconds + 0.999))
        if whole != self._bound:
            self.database.bound(self._connection, whole)
            self._bound = whole

    def cut(self) -> None:
        """Break the connection from outside: whoever hangs in it gets an error, and ends."""
        self._cut = True
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
        self.close(Deadline(0))

    def close(self, deadline: Deadline) -> None:
        """Close the connection and let the thread end; both happen later if it hangs now."""
        with suppress(NoAnswer):
            self._worker.run(deadline, self._close)
        self._worker.stop()

    def sever(self) -> None:
        """Cut off a forked child: nothing of it may reach the server of its parent."""
        nowhere = os.open(os.devnull, os.O_RDWR)
        if self._socket is not None:
            ours = os.fstat(self._socket.fileno())
            for descriptor in (self._watched, self._socket.fileno()):
                with suppress(OSError):
                    if os.path.samestat(os.fstat(descriptor), ours):  # and not another file by now
                        os.dup2(nowhere, descriptor, inheritable=False)
        os.close(nowhere)

    def _run_translated(self, job: Callable[[Link], T], deadline: Deadline) -> T:
        try:
            if self._connection is None:
                self._connection = self.database.connect(deadline, self._watch)
            self.bound(deadline.seconds)
            answer = self._answer(job)
        except (IdConflict, Forgotten):
            raise  # the log's answer, not a failure
        except (LogError, Failed):
            raise
        except Exception as error:  # noqa: BLE001 - drivers raise anything on a broken answer
            failure = self.database.failure(error)
            raise Failed(failure) from None
        self.used = True
        return answer

    def _answer(self, job: Callable[[Link], T]) -> T:
        try:
            return job(self)
        except (IdConflict, Forgotten):
            self.rows("ROLLBACK")
            raise

    def _watch(self, descriptor: int) -> None:
        self._watched = descriptor
        self._socket = socket.socket(fileno=os.dup(descriptor))
        if self._cut:
            self._socket.shutdown(socket.SHUT_RDWR)

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):
                connection.close()
        watching, self._socket = self._socket, None
        if watching is not None:
            watching.close()


class Links:
    """Links that wait for the next job, and those at work."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._idle: list[Link] = []
        self._all: weakref.WeakSet[Link] = weakref.WeakSet()
        _everything.add(self)

    def take(self) -> Link:
        """Return the link that was used last, or a new one."""
        with self._lock:
            if self._idle:
                return self._idle.pop()
            link = Link(self._database)
            self._all.add(link)
            return link

    def give_back(self, link: Link) -> None:
        with self._lock:
            if len(self._idle) < _MOST_IDLE:
                self._idle.append(link)
                return
        link.close(Deadline(_SECONDS_TO_CLOSE))

    def drop(self) -> None:
        """Close those that wait."""
        with self._lock:
            idle, self._idle = self._idle, []
        for link in idle:
            link.close(Deadline(_SECONDS_TO_CLOSE))

    def sever(self) -> None:
        for link in self._all:
            link.sever()


_everything: weakref.WeakSet[Links] = weakref.WeakSet()


def _sever() -> None:
    for links in _everything:
        links.sever()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_sever)


class Writing:
    """A transaction that writes. No other does at the same time, and each writes something.

    The second matters where a server waits for its standby: an append that finds all its records
    there must wait too, until they are there as well.
    """

    def __init__(
        self, link: Link, turn: Turn, numbers: int, records: Sequence[Record] = ()
    ) -> None:
        self._link, self._turn, self._numbers, self._records = link, turn, numbers, records
        self.first = 0

    def begin(self, statements: Sequence[Statement] = ()) -> list[Rows]:
        """Wait for the turn; return the rows of the statements. ``first`` is the next number."""
        where = self._link.database.where
        refuse_other(self._link.version, where, self._records)
        found = self._link.fetch(
            [
                (self._link.database.begin_writing, ()),
                ("UPDATE deid_log_store SET last = last + %s", (self._numbers,)),
                ("SELECT version, last FROM deid_log_store", ()),
                *statements,
            ]
        )
        [[version, last]] = found[2]
        refuse_other(version, where, self._records)
        self._link.version = version  # it may have been upgraded since it was identified
        self.first = last - self._numbers + 1
        return found[3:]

    def commit(self) -> None:
        """Make it durable. Raises LogUnavailable, AppendUnknown, or Failed if it was undone."""
        database = self._link.database
        if not self._turn.take():
            raise LogUnavailable(f"{database.where} was not free in time", "try again")
        try:
            database.commit(self._link.connection)
        except Committed:
            raise AppendUnknown(
                f"{database.where} wrote it, but not to its standby",
                "look at the standby; the primary waits for it",
            ) from None
        except Exception as error:  # noqa: BLE001 - whatever it was, the reply is not there
            failure = database.failure(error)
            if failure.kind is Kind.IN_THE_WAY:
                self._turn.give_back()
                raise Failed(failure) from None
            raise make_unknown(failure, database.where) from None


@contextmanager
def reading(link: Link) -> Iterator[None]:
    """Hold a transaction that sees one state of the log. Keep it short: it delays an erasure."""
    link.rows(link.database.begin_reading)
    yield
    link.rows("COMMIT")


def snapshot(link: Link, statements: Sequence[Statement]) -> list[Rows]:
    """Return the rows of statements that see one state of the log."""
    begin: Statement = (link.database.begin_reading, ())
    return link.fetch([begin, *statements, ("COMMIT", ())])[1:-1]
