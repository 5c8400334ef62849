"""What one database server does in another way than the next, and what its errors mean.

The texts of servers and drivers never get out: many quote values, some the password.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, ClassVar

from deid_hooks.backends import AppendUnknown, Deadline, LogUnavailable, NotAllowed
from deid_hooks.backends.tables.columns import Column, Table
from deid_hooks.destinations import is_loopback

Statement = tuple[str, Sequence[Any]]
"""SQL that every server here understands, with ``%s`` for each of the values."""

Rows = list[tuple[Any, ...]]


class Committed(Exception):
    """A commit that the server acknowledged without having done all that was asked of it."""


class Kind(Enum):
    """What can go wrong, whichever the server."""

    UNREACHABLE = auto()
    LOST = auto()
    PASSWORD = auto()
    NO_DATABASE = auto()
    ENCRYPTION = auto()
    NO_TABLES = auto()
    FORBIDDEN = auto()
    READ_ONLY = auto()
    STANDBY = auto()
    FULL = auto()
    BUSY = auto()
    IN_THE_WAY = auto()
    SLOW = auto()
    TOO_BIG = auto()
    UPGRADED = auto()
    OTHER = auto()


@dataclass(frozen=True, slots=True)
class Failure:
    """A kind, and for the unforeseen a name to look up that quotes no value."""

    kind: Kind
    code: str = ""


_WORDS = {
    Kind.UNREACHABLE: (
        "{where} can't be reached",
        "check that the server runs, its name and port in the url, and the network to it",
    ),
    Kind.LOST: ("the connection to {where} was lost", "look at the server and the network to it"),
    Kind.PASSWORD: (
        "{where} refuses this user or password",
        "check the user and the password in the url, and what the server lets in",
    ),
    Kind.NO_DATABASE: (
        "the database of {where} does not exist",
        "check its name in the url, or have it created",
    ),
    Kind.ENCRYPTION: (
        "{where} and this machine do not agree on encryption",
        "check the certificates, and the ssl parameters of the url; a server beyond this machine is"
        " reached over verified TLS, unless the url says insecure=true",
    ),
    Kind.NO_TABLES: (
        "{where} is in a database without the tables of a de-id log",
        "check the url of the log; to begin a log there, run: deid-hooks init",
    ),
    Kind.FORBIDDEN: (
        "this user may not do that in {where}",
        "have the administrator of the database grant it",
    ),
    Kind.READ_ONLY: ("{where} is read-only", "use a server, and a user, that may write"),
    Kind.STANDBY: (
        "the server of {where} is a standby, not writable",
        "name the primary in the url, or all servers: postgresql://one,two/database",
    ),
    Kind.FULL: ("the disk of {where} is full", "free some space on the server"),
    Kind.BUSY: (
        "{where} takes no more connections now",
        "try again, or have the server allow more connections",
    ),
    Kind.IN_THE_WAY: ("others write to {where} at the same time", "try again"),
    Kind.SLOW: (
        "{where} took too long",
        "allow more time, and look at the load of the server and for locks that somebody holds",
    ),
    Kind.TOO_BIG: (
        "a value is too large for {where}",
        "log it by digest only, or have the server take larger ones",
    ),
    Kind.UPGRADED: ("the tables of {where} were changed while it was in use", "try again"),
    Kind.OTHER: ("{where} can't be used ({code})", "report this; the log of the server says more"),
}


NO_ANSWER = "look at the server, the network to it, and for somebody who holds its locks"
"""What to do when nobody answered in time."""


def is_local(host: str) -> bool:
    """Return whether traffic to a host stays on this machine: loopback, or a Unix socket."""
    return is_loopback(host) or not host or host[0] in "/@"


class Failed(Exception):
    """A job that failed in the driver. Holds none of the driver's words."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure
        super().__init__(failure.kind.name)


def make_not_allowed(where: str) -> NotAllowed:
    """Return the failure of a user who may not read what was asked for."""
    cause, remedy = _WORDS[Kind.FORBIDDEN]
    return NotAllowed(cause.format(where=where), remedy)


def make_unavailable(failure: Failure, where: str) -> LogUnavailable:
    """Return the failure of anything but a commit: nothing was written."""
    cause, remedy = _WORDS[failure.kind]
    return LogUnavailable(cause.format(where=where, code=failure.code), remedy)


def make_unknown(failure: Failure, where: str) -> AppendUnknown:
    """Return the failure of a commit: all of it was written, or none."""
    known = make_unavailable(failure, where)
    return AppendUnknown(
        f"{known.cause}, and whether the last write is in it is unknown", known.remedy
    )


class Database(ABC):
    """A server, as its URL names it. Connects, and says what its errors mean.

    A connection is one of the driver's, in autocommit mode: transactions begin and end by
    statements. Used by one thread at a time.
    """

    begin_reading: ClassVar[str]
    begin_writing: ClassVar[str]
    any_of: ClassVar[str]
    """Follows a column and compares it with one value, a list."""
    may_read: ClassVar[str]
    """Whether the user may read what identifies a patient, as an expression."""
    position: ClassVar[str]
    """The function that finds the place of a text, its second argument, in its first."""

    select_columns: ClassVar[str]
    """Reads table and column of all tables of the log, whoever may read these."""

    where: str
    """The log, in words that quote no password."""

    @abstractmethod
    def __init__(self, url: str) -> None:
        """Raise LogUnavailable for a URL that names no such database."""

    @abstractmethod
    def connect(self, deadline: Deadline, watch: Callable[[int], None]) -> Any:
        """Return a connection that commits durably.

        Calls ``watch`` with the file descriptor of its socket as early as it is known. Raises
        LogUnavailable where the server can't keep a log, Failed if there is none that lets us in,
        or what :meth:`failure` translates.
        """

    @abstractmethod
    def bound(self, connection: Any, seconds: float) -> None:
        """Have the server give up on statements, and on pauses between them, after this time."""

    @abstractmethod
    def fetch(self, connection: Any, statements: Sequence[Statement]) -> list[Rows]:
        """Return the rows of each statement, in as few round trips as the driver can."""

    @abstractmethod
    def inserts(
        self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]
    ) -> list[Statement]:
        """Return statements that insert these rows, in their order."""

    def join_inserts(self, statements: Sequence[Statement]) -> Sequence[Statement]:
        """Return statements that insert the same rows, fewer of them where the server can."""
        return statements

    @abstractmethod
    def commit(self, connection: Any) -> None:
        """Commit. Raise :class:`Committed` if it isn't as durable as it should be."""

    @abstractmethod
    def changing(self, connection: Any) -> AbstractContextManager[None]:
        """Keep others from changing the tables meanwhile; wait for one that does.

        Where the server can, all is done at the end or nothing; MySQL commits with every change of
        a table what was done before.
        """

    @abstractmethod
    def create_table(self, table: Table) -> list[str]:
        """Return statements that make a table with its indexes if it is not there."""

    @abstractmethod
    def add_column(self, table: str, column: Column) -> list[str]:
        """Return statements that add a column to a table."""

    @abstractmethod
    def scrub(self, connection: Any, tables: Sequence[str]) -> str:
        """Leave no deleted row in the files of these tables. Return what prevents it, or ``""``."""

    @abstractmethod
    def failure(self, error: BaseException) -> Failure:
        """Return what an error of the driver means."""
