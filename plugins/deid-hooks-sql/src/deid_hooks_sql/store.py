"""The store of the log on a database server; here is who waits for it, and what is tried again."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from typing import ClassVar, TypeVar

from deid_hooks.backends import (
    AccessRow,
    AppendUnknown,
    Block,
    BlocksPage,
    Deadline,
    Entry,
    Erasure,
    Forgotten,
    ForkedProcess,
    IdConflict,
    LogBackend,
    LogError,
    LogUnavailable,
    NoAnswer,
    Page,
    Query,
    Receipt,
    Record,
    Seal,
    Tombstone,
    Turn,
    UploadEvent,
    call_store,
    iterate_entries,
    iterate_pages,
    iterate_uploads,
)
from deid_hooks_sql import reading, schema, writing
from deid_hooks_sql.database import NO_ANSWER, Database, Failed, Kind, make_unavailable
from deid_hooks_sql.links import Link, Links
from deid_hooks_sql.mysql import MySQL
from deid_hooks_sql.postgresql import PostgreSQL

T = TypeVar("T")

_PAUSE = (0.001, 0.02)
_MENDED_BY_A_NEW_LINK = (
    Kind.LOST,
    Kind.UNREACHABLE,
    Kind.READ_ONLY,
    Kind.STANDBY,
    Kind.UPGRADED,
)


class SQLBackend(LogBackend):
    """The log in the tables of a database server.

    Nothing is opened before the first call. Every caller has a connection of its own for as long
    as its call takes; those that nobody uses wait for the next.
    """

    kind: ClassVar[type[Database]]

    def __init__(self, url: str) -> None:
        """Raises LogUnavailable for a URL that names no database."""
        super().__init__(url)
        self._database = self.kind(url)
        self._process = os.getpid()
        self._links = Links(self._database)
        self._store = ""

    def create(self, deadline: Deadline) -> None:
        self._answer(deadline, schema.create)

    def upgrade(self, seal: Seal, deadline: Deadline) -> str:
        from deid_hooks_sql.migrations import upgrade_log

        done = self._answer(deadline, partial(upgrade_log, seal=seal))
        self._links.drop()  # what they know of the tables is not so any more
        return done

    def check(self, deadline: Deadline) -> None:
        try:
            self._write(deadline, writing.prove_writable)
        except AppendUnknown as error:
            raise LogUnavailable(error.cause, error.remedy) from None

    def append(self, records: Sequence[Record], seal: Seal, deadline: Deadline) -> None:
        self._write(deadline, partial(writing.append, records, seal))

    def read(self, after: int, deadline: Deadline) -> Page:
        return self._read(deadline, partial(reading.read_page, after=after))

    def erase(
        self, log_ids: Sequence[str], erasure: Erasure, seal: Seal, deadline: Deadline
    ) -> None:
        self._write(deadline, partial(writing.erase, log_ids, erasure, seal))
        writing.scrub(partial(self._read, deadline), self._database.where)

    def close(self) -> None:
        if os.getpid() == self._process:  # else the connections are the parent's
            self._links.drop()

    def resolve(self, log_id: str, deadline: Deadline) -> Entry | Receipt | Tombstone | None:
        return self._read(deadline, partial(reading.resolve, log_id=log_id))

    def sealed_entries(
        self, log_ids: Iterable[str], deadline: Deadline
    ) -> Iterator[tuple[Entry, str]]:
        return iterate_entries(
            lambda some: self._read_next(deadline, partial(reading.read_entries, log_ids=some)),
            log_ids,
        )

    def with_digest(self, digest: str, deadline: Deadline) -> str | None:
        return self._read(deadline, partial(reading.find_digest, digest=digest))

    def search(self, query: Query, deadline: Deadline) -> Iterator[str]:
        return reading.search(query, partial(self._read_next, deadline), deadline)

    def sealed_uploads(
        self, log_ids: Iterable[str] | None, deadline: Deadline
    ) -> Iterator[tuple[UploadEvent, str]]:
        return iterate_uploads(
            lambda cursor, few: self._read_next(
                deadline, partial(reading.read_events, after=cursor, log_ids=few)
            ),
            log_ids,
        )

    def blocks(self, patients: Collection[str], deadline: Deadline) -> Iterator[Block]:
        yield from self._read(deadline, partial(reading.read_blocks, patients=patients))

    def blocks_after(self, after: int, deadline: Deadline) -> BlocksPage:
        return self._read(deadline, partial(reading.read_blocks_after, after=after))

    def subject(self, project: str, patient: str, deadline: Deadline) -> str | None:
        return self._read(deadline, partial(reading.find_label, project=project, patient=patient))

    def sealed_tombstone(self, log_id: str, deadline: Deadline) -> tuple[Tombstone, str] | None:
        return self._read(deadline, partial(reading.find_tombstone, log_id=log_id))

    def trail(self, deadline: Deadline) -> Iterator[tuple[AccessRow, str]]:
        return iterate_pages(
            lambda cursor: self._read_next(deadline, partial(reading.read_trail, after=cursor))
        )

    def _read_next(self, deadline: Deadline, job: Callable[[Link], T]) -> T:
        """Read one page of many: each may take as long as the first."""
        return self._read(Deadline(deadline.seconds), job)

    def _read(self, deadline: Deadline, job: Callable[[Link], T]) -> T:
        return self._answer(deadline, lambda link: job(self._identify(link)))

    def _answer(self, deadline: Deadline, job: Callable[[Link], T]) -> T:
        return self._call(deadline, lambda link, _: job(link))

    def _write(self, deadline: Deadline, job: Callable[[Link, Turn], None]) -> None:
        self._call(deadline, lambda link, turn: job(self._identify(link), turn))

    def _call(self, deadline: Deadline, job: Callable[[Link, Turn], T]) -> T:
        return call_store(
            deadline,
            lambda turn: self._on_link(deadline, lambda link: job(link, turn)),
            self._database.where,
            NO_ANSWER,
        )

    def _on_link(self, deadline: Deadline, job: Callable[[Link], T]) -> T:
        """Return what the job returns, tried again where that helps and nothing was written.

        A link that was of use before may lead to a server that was restarted since, or is a
        standby now, or to tables that were upgraded; others may be in the way of a transaction.
        """
        if os.getpid() != self._process:
            raise ForkedProcess
        while True:
            if deadline.passed:
                raise NoAnswer
            link = self._links.take()
            used = link.used
            try:
                answer = link.run(deadline, job)
            except (IdConflict, Forgotten):
                self._links.give_back(link)
                raise
            except Failed as failed:
                link.close(Deadline(0))
                kind = failed.failure.kind
                if kind is Kind.IN_THE_WAY and not deadline.passed:
                    time.sleep(random.uniform(*_PAUSE))  # noqa: S311 - not a secret
                elif used and kind in _MENDED_BY_A_NEW_LINK:
                    self._links.drop()
                else:
                    raise make_unavailable(failed.failure, self._database.where) from None
            except NoAnswer:
                link.cut()
                raise
            except LogError:
                link.close(Deadline(0))
                raise
            else:
                self._links.give_back(link)
                return answer

    def _identify(self, link: Link) -> Link:
        """Return the link, known to lead to this log and not to another one."""
        if not link.store:
            link.store = schema.identify(link)
            self._store = self._store or link.store
        if link.store != self._store:
            raise LogUnavailable(
                f"{self._database.where} is another log than before",
                "check the url: all its hosts must hold one database",
            )
        return link


class PostgreSQLBackend(SQLBackend):
    """``postgresql://user:password@host/database``, with all that libpq takes in a URL."""

    kind = PostgreSQL


class MySQLBackend(SQLBackend):
    """``mysql://user:password@host/database``, or ``mariadb://``."""

    kind = MySQL
