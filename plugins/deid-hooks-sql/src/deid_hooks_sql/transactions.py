"""Transactions: what a writer holds until it has committed, and what a reader sees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from deid_hooks.backends.tables.migrations import refuse_other
from deid_hooks.deadline import Turn
from deid_hooks.errors import AppendUnknown, LogUnavailable
from deid_hooks.records.model import Record
from deid_hooks_sql.database import Committed, Rows, Statement
from deid_hooks_sql.failures import Failed, Kind, unknown
from deid_hooks_sql.links import Link


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
        """Wait for one's turn; what the statements then give. ``first`` is the next number."""
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
            raise unknown(failure, database.where) from None


@contextmanager
def reading(link: Link) -> Iterator[None]:
    """A transaction that sees one state of the log. Keep it short: it holds up an erasure."""
    link.rows(link.database.begin_reading)
    yield
    link.rows("COMMIT")


def snapshot(link: Link, statements: Sequence[Statement]) -> list[Rows]:
    """What statements give that see one state of the log."""
    begin: Statement = (link.database.begin_reading, ())
    return link.fetch([begin, *statements, ("COMMIT", ())])[1:-1]
