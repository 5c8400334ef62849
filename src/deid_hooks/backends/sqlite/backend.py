"""The SQLite store as a backend: each method in a thread, with its deadline."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote_to_bytes

from deid_hooks.backends.contract import (
    BlocksPage,
    LogBackend,
    Page,
    Seal,
    Statistics,
    iterate_entries,
    iterate_pages,
    iterate_uploads,
)
from deid_hooks.backends.sqlite import connection, reading, writing
from deid_hooks.backends.sqlite.connection import Opened, Replaced
from deid_hooks.backends.sqlite.failures import DRIVER_ERRORS, make_unavailable
from deid_hooks.deadline import Deadline, NoAnswer, Turn, Worker, call_store
from deid_hooks.errors import AppendUnknown, Forgotten, ForkedProcess, IdConflict, LogUnavailable
from deid_hooks.query.conditions import Query
from deid_hooks.records.model import (
    AccessRow,
    Block,
    Entry,
    Erasure,
    Record,
    Tombstone,
    UploadEvent,
)

T = TypeVar("T")

_SECONDS_TO_CLOSE = 5.0


class SQLiteBackend(LogBackend):
    """The log in one SQLite file: ``sqlite:///relative.db`` or ``sqlite:////absolute.db``.

    Nothing is opened before the first call. Reading and writing have a thread and a connection
    each, so that a reader does not wait behind a writer.
    """

    def __init__(self, url: str) -> None:
        """Raises LogUnavailable for a URL that is not one of a SQLite file."""
        super().__init__(url)
        self._path = parse_path(url)
        self._process = os.getpid()
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()

    def create(self, deadline: Deadline) -> None:
        def make() -> None:
            connection.create_log(self._path, deadline)

        self._answer("writer", deadline, lambda session: session.run_apart(deadline, make))

    def upgrade(self, seal: Seal, deadline: Deadline) -> str:
        def upgrade() -> str:
            from deid_hooks.backends.sqlite.migrations import upgrade_log

            return upgrade_log(self._path, seal, deadline)

        try:
            return self._answer(
                "writer", deadline, lambda session: session.run_apart(deadline, upgrade)
            )
        except AppendUnknown as error:
            raise LogUnavailable(error.cause, error.remedy) from None

    def exists(self) -> bool:
        return connection.may_exist(self._path)

    def check(self, deadline: Deadline) -> None:
        try:
            self._write(deadline, writing.prove_writable)
        except AppendUnknown as error:
            raise LogUnavailable(error.cause, error.remedy) from None
        self._read_afresh(deadline, lambda opened: None)

    def append(self, records: Sequence[Record], seal: Seal, deadline: Deadline) -> None:
        self._write(deadline, partial(writing.append, records, seal))

    def read(self, after: int, deadline: Deadline) -> Page:
        return self._read(deadline, partial(reading.read_page, after=after))

    def erase(
        self, log_ids: Sequence[str], erasure: Erasure, seal: Seal, deadline: Deadline
    ) -> None:
        self._write(deadline, partial(writing.erase, log_ids, erasure, seal))

    def close(self) -> None:
        if os.getpid() != self._process:
            return  # the connections are the parent's
        with self._lock:
            sessions, self._sessions = self._sessions, {}
        for name in sorted(sessions):  # the reader first: the last to close tidies up
            sessions[name].end(Deadline(_SECONDS_TO_CLOSE))

    def resolve(self, log_id: str, deadline: Deadline) -> Entry | Tombstone | None:
        return self._read_afresh(deadline, partial(reading.resolve, log_id=log_id))

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
        return reading.search(query, partial(self._read_next, deadline))

    def explain(self, query: Query, deadline: Deadline) -> list[tuple[str, str]]:
        return self._read(deadline, partial(reading.explain, query=query))

    def statistics(self, deadline: Deadline) -> Statistics:
        return self._read(deadline, reading.count)

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

    def _read_next(self, deadline: Deadline, job: Callable[[Opened], T]) -> T:
        """Read one page of many: each may take as long as the first."""
        return self._read(Deadline(deadline.seconds), job)

    def _read(self, deadline: Deadline, job: Callable[[Opened], T]) -> T:
        return self._answer("reader", deadline, lambda session: session.run(deadline, job))

    def _read_afresh(self, deadline: Deadline, job: Callable[[Opened], T]) -> T:
        """Do a job on a connection opened now, by path: what is written must be found there."""

        def on_fresh() -> T:
            fresh = Opened(self._path, deadline)
            try:
                for session in tuple(self._sessions.values()):
                    old = session.opened
                    if old and (old.files, old.store) != (fresh.files, fresh.store):
                        raise Replaced(self._path)
                answer = job(fresh)
                fresh.verify()
                return answer
            finally:
                fresh.close()

        return self._answer(
            "reader", deadline, lambda session: session.run_apart(deadline, on_fresh)
        )

    def _write(self, deadline: Deadline, job: Callable[[Opened, Turn], None]) -> None:
        self._call(deadline, "writer", lambda s, turn: s.run(deadline, lambda o: job(o, turn)))

    def _answer(self, name: str, deadline: Deadline, ask: Callable[[Session], T]) -> T:
        return self._call(deadline, name, lambda session, _: ask(session))

    def _call(self, deadline: Deadline, name: str, ask: Callable[[Session, Turn], T]) -> T:
        return call_store(
            deadline,
            lambda turn: self._in_session(name, deadline, lambda session: ask(session, turn)),
            f"the log {self._path}",
            "look at its disk, and for another process that holds it",
        )

    def _in_session(self, name: str, deadline: Deadline, ask: Callable[[Session], T]) -> T:
        if os.getpid() != self._process:
            raise ForkedProcess
        with self._lock:
            session = self._sessions.get(name) or Session(self._path, name)
            self._sessions[name] = session
        try:
            return ask(session)
        except NoAnswer:
            # Its thread may hang for ever. If not, it closes its connection when it is done.
            with self._lock:
                if self._sessions.get(name) is session:
                    del self._sessions[name]
            session.end(Deadline(0))
            raise
        except Replaced:
            # No connection to the old files may stay: SQLite would share what it knows with it.
            for each in tuple(self._sessions.values()):
                each.release(deadline)
            raise


class Session:
    """Runs jobs on a connection that is opened when the first one needs it.

    A connection on which anything failed is closed, and the next job gets a fresh one.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.opened: Opened | None = None
        self._path = path
        self._worker = Worker(f"deid-hooks log {name}")

    def run(self, deadline: Deadline, job: Callable[[Opened], T]) -> T:
        """Return what ``job`` returns. Raises what it raises, in the log's words, or NoAnswer."""
        return self._worker.run(deadline, lambda: self._translated(lambda: self._do(job, deadline)))

    def run_apart(self, deadline: Deadline, function: Callable[[], T]) -> T:
        """Run ``function`` as :meth:`run` does, without the connection."""
        return self._worker.run(deadline, lambda: self._translated(function))

    def release(self, deadline: Deadline) -> None:
        """Close the connection, as soon as the jobs before are done. Never raises."""
        with suppress(NoAnswer, *DRIVER_ERRORS):
            self._worker.run(deadline, self._close)

    def end(self, deadline: Deadline) -> None:
        """Close the connection and let the thread end; both happen later if it hangs now."""
        self.release(deadline)
        self._worker.stop()

    def _do(self, job: Callable[[Opened], T], deadline: Deadline) -> T:
        try:
            if self.opened is None:
                self.opened = Opened(self._path, deadline)
            self.opened.deadline = deadline
            self.opened.verify()
            return job(self.opened)
        except (IdConflict, Forgotten):
            raise  # the log's answer, not a failure
        except BaseException:
            self._close()
            raise

    def _translated(self, function: Callable[[], T]) -> T:
        try:
            return function()
        except DRIVER_ERRORS as error:
            raise make_unavailable(error, self._path) from None

    def _close(self) -> None:
        opened, self.opened = self.opened, None
        if opened is not None:
            opened.close()


_PREFIX = "sqlite:///"


def parse_path(url: str) -> Path:
    """Return the absolute path in ``sqlite:///relative.db`` or ``sqlite:////absolute.db``.

    Percent-encoded bytes are decoded (RFC 3986, section 2.1). A relative path starts at the folder
    that is current now, so that a later ``chdir`` does not lead to another log. Raises
    LogUnavailable for any other URL.
    """
    path = os.fsdecode(unquote_to_bytes(url.removeprefix(_PREFIX)))
    if not url.startswith(_PREFIX) or not path or "\0" in path or "?" in url or "#" in url:
        raise LogUnavailable(
            "the URL of the log is not one of a SQLite file",
            "write sqlite:///relative.db or sqlite:////folder/absolute.db, with %3F for a ? in it",
        )
    return Path(path).absolute()
