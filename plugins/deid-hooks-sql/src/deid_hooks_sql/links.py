"""Connections, each with the thread that it lives in, so that no caller waits longer than it wants.

A process has its own: in a child that is forked, what it inherited leads nowhere.
"""

from __future__ import annotations

import os
import socket
import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from deid_hooks.deadline import Deadline, NoAnswer, Worker
from deid_hooks.errors import Forgotten, IdConflict, LogError
from deid_hooks_sql.database import Database, Rows, Statement
from deid_hooks_sql.failures import Failed

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
        """What ``job`` returns. Raises the LogError that it raises, Failed, or NoAnswer."""
        return self._worker.run(deadline, lambda: self._translated(job, deadline))

    def fetch(self, statements: Sequence[Statement]) -> list[Rows]:
        """The rows that each of the statements gives."""
        return self.database.fetch(self._connection, statements)

    def rows(self, sql: str, *values: Any) -> Rows:
        """The rows that one statement gives."""
        return self.fetch([(sql, values)])[0]

    @property
    def connection(self) -> Any:
        return self._connection

    def bound(self, seconds: float) -> None:
        """What the server itself may take for a statement from now on."""
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
        """In a forked child: nothing of this process may reach the parent's server."""
        nowhere = os.open(os.devnull, os.O_RDWR)
        if self._socket is not None:
            ours = os.fstat(self._socket.fileno())
            for descriptor in (self._watched, self._socket.fileno()):
                with suppress(OSError):
                    if os.path.samestat(os.fstat(descriptor), ours):  # and not another file by now
                        os.dup2(nowhere, descriptor, inheritable=False)
        os.close(nowhere)

    def _translated(self, job: Callable[[Link], T], deadline: Deadline) -> T:
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
        """The link that was used last, or a new one."""
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
