"""What one database server does in another way than the next, behind one interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar

from deid_hooks.backends.tables.columns import Column, Table
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

    @abstractmethod
    def commit(self, connection: Any) -> None:
        """Commit. Raise :class:`Committed` if it isn't as durable as it should be."""

    @abstractmethod
    def changing(self, connection: Any) -> AbstractContextManager[None]:
        """Keep others from changing the tables meanwhile; wait for one that does.

        Where the server can, all is done at the end or nothing; MySQL commits every change of a
        table by itself.
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
