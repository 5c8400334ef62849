"""What one database server does in another way than the next, behind one interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from sqlalchemy import Dialect

from deid_hooks.deadline import Deadline
from deid_hooks_sql.failures import Failure

Statement = tuple[str, Sequence[Any]]
"""SQL that every server here understands, with ``%s`` for each of the values."""

Rows = list[tuple[Any, ...]]


class Committed(Exception):
    """A commit that the server acknowledged without having done all that was asked of it."""


class Database(ABC):
    """A server, as its URL names it. Connects, and says what its errors mean.

    A connection is one of the driver's, in autocommit mode: transactions begin and end by
    statements. Used by one thread at a time.
    """

    dialect: Dialect
    begin_reading: ClassVar[str]
    begin_writing: ClassVar[str]
    any_of: ClassVar[str]
    """Follows a column and compares it with one value, a list."""
    may_read: ClassVar[str]
    """Whether the user may read what identifies a patient, as an expression."""
    position: ClassVar[str]
    """The function that finds the place of a text, its second argument, in its first."""

    where: str
    """The log, in words that quote no password."""

    @abstractmethod
    def __init__(self, url: str) -> None:
        """Raises LogUnavailable for a URL that names no such database."""

    @abstractmethod
    def connect(self, deadline: Deadline, watch: Callable[[int], None]) -> Any:
        """A connection that commits durably.

        ``watch`` is told the file descriptor of its socket as early as it is known. Raises
        LogUnavailable where the server can't keep a log, Failed if there is none that lets us in,
        or what :meth:`failure` translates.
        """

    @abstractmethod
    def bound(self, connection: Any, seconds: float) -> None:
        """Have the server give up on statements, and on pauses between them, after this time."""

    @abstractmethod
    def fetch(self, connection: Any, statements: Sequence[Statement]) -> list[Rows]:
        """The rows that each statement gives, in as few round trips as the driver can."""

    @abstractmethod
    def inserts(
        self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]
    ) -> list[Statement]:
        """Statements that insert these rows, in their order."""

    @abstractmethod
    def commit(self, connection: Any) -> None:
        """Commit. Raises :class:`Committed` if it isn't as durable as it should be."""

    @abstractmethod
    def make(self, connection: Any, statements: Sequence[Statement]) -> None:
        """Create the tables where they are missing, then run ``statements``, the last of which
        makes a log of them: what is half made is not taken for one, and made again."""

    @abstractmethod
    def scrub(self, connection: Any, tables: Sequence[str]) -> str:
        """Leave no deleted row in the files of these tables; what stands in the way, or ``""``."""

    @abstractmethod
    def failure(self, error: BaseException) -> Failure:
        """What an error of the driver means."""
