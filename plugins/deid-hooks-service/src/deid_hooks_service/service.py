"""What requests share: the log, the committer, the senders, metrics; and one call.

Whoever asks the log waits for a bounded time, whatever the log does.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from itertools import islice
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from deid_hooks.deadline import Deadline
from deid_hooks.errors import DeidHooksError, LogUnavailable
from deid_hooks.log import Log
from deid_hooks.records.model import AccessRow, read_clock
from deid_hooks_service.committer import Committer
from deid_hooks_service.forms import Held, Problem, find_problem
from deid_hooks_service.tokens import Sender, Senders

T = TypeVar("T")

NDJSON = "application/x-ndjson"
_DEADLINE_HEADER = "Deid-Hooks-Deadline"
_LONGEST_DEADLINE = 300.0
_SHORTEST_DEADLINE = 1.0
"""A sender may go before; what it began is finished all the same."""
_SECONDS = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6})?")
_AT_ONCE = 40
"""Questions to the log that threads of their own wait for."""
_STREAMS_AT_ONCE = 8
"""Pages of long answers, a search above all, that are made at once: uploads don't wait for them."""
_SECONDS_BETWEEN_LOOKS = 0.5
_CHECK_SECONDS = 1.0
"""How long an answer to whether the log takes a write is good for everybody."""
_HOUR = 3600.0
_MOST_AN_HOUR = 2_000
"""Patients whose labels a token may ask for."""
_MINUTE = 60.0
_MOST_A_MINUTE = 60
"""Questions of a token that may not search by parts of values: it could walk through numbers."""
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Counters for Prometheus. Labels are routes, statuses and roles, nothing that was sent."""

    def __init__(self, count_waiting: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "deid_hooks_service_requests",
            "Requests answered",
            ["route", "status"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "deid_hooks_service_seconds",
            "Seconds from request to answer",
            ["route"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._children: dict[tuple[str, int], tuple[Counter, Histogram]] = {}
        gauge = Gauge(
            "deid_hooks_service_waiting",
            "Requests that wait for a transaction",
            registry=self.registry,
        )
        gauge.set_function(count_waiting)

    def count(self, route: str, status: int, seconds: float) -> None:
        """Count one request and the time that it took."""
        children = self._children.get((route, status))
        if children is None:  # finding them costs more than counting
            children = self._requests.labels(route, status), self._seconds.labels(route)
            self._children[route, status] = children
        children[0].inc()
        children[1].observe(seconds)


class Uses:
    """What each token asked for, so that it is recorded once a day, and bounded in an hour."""

    def __init__(self) -> None:
        self._day = ""
        self._seen: dict[str, set[str]] = {}
        self._recent: dict[str, deque[float]] = {}
        self._questions: dict[str, deque[float]] = {}
        self._lock = threading.Lock()

    def is_new(self, name: str, what: str) -> bool:
        """Return whether this token has not asked for that today. Raises Problem 429."""
        with self._lock:
            if (day := read_clock()[:10]) != self._day:
                self._day, self._seen = day, {}
            if what in self._seen.setdefault(name, set()):
                return False
            recent = self._recent.setdefault(name, deque())
            labels = f"for the labels of {_MOST_AN_HOUR} patients in an hour"
            _count(recent, _HOUR, _MOST_AN_HOUR, f"the token {name} asked {labels}")
            return True

    def count_question(self, name: str) -> None:
        """Count a question of this token. Raises Problem 429 after too many within a minute."""
        with self._lock:
            asked = self._questions.setdefault(name, deque())
            what = f"{_MOST_A_MINUTE} questions within a minute"
            _count(asked, _MINUTE, _MOST_A_MINUTE, f"the token {name} asked {what}")

    def note(self, name: str, what: str) -> None:
        """Note that it was recorded that this token asked for that."""
        with self._lock:
            self._seen.setdefault(name, set()).add(what)


def _count(moments: deque[float], seconds: float, most: int, cause: str) -> None:
    """Add now to the moments of the last seconds; raise Problem 429 where they are too many."""
    now = time.monotonic()
    while moments and moments[0] < now - seconds:
        moments.popleft()
    if len(moments) >= most:
        after = int(moments[0] + seconds - now) + 1
        remedy = f"try again in {after} seconds"
        raise Problem(HTTPStatus.TOO_MANY_REQUESTS, cause, remedy, kind="NotAllowed", after=after)
    moments.append(now)


class Service:
    """One log, served."""

    def __init__(self, log: Log, senders: Senders) -> None:
        self.log = log
        self.senders = senders
        self.uses = Uses()
        self.committer = Committer(log)
        self.held = Held()
        self.metrics = Metrics(lambda: self.committer.waiting)
        self._checking = asyncio.Lock()
        self._checked: tuple[float, DeidHooksError | None] = -_CHECK_SECONDS, None
        self._limiters: dict[int, anyio.CapacityLimiter] = {}

    def read_deadline(self, request: Request) -> Deadline:
        """Return until when a request wants its answer: by its header, else by the settings."""
        text = request.headers.get(_DEADLINE_HEADER, "")
        if not _SECONDS.fullmatch(text):
            return Deadline(self.log.seconds)
        return Deadline(min(max(float(text), _SHORTEST_DEADLINE), _LONGEST_DEADLINE))

    def limit(self, deadline: Deadline) -> Log:
        """Return the log for one who waits that long."""
        return Log(self.log.backend, self.log.keyring, deadline.seconds, self.log.secret_file)

    async def ask(
        self, deadline: Deadline, question: Callable[[], T], at_once: int = _AT_ONCE
    ) -> T:
        """Return what ``question`` returns in a thread; raise LogUnavailable at the deadline.

        Questions of one ``at_once`` wait for each other, so many at a time, and for no others.
        """
        limiter = self._limiters.setdefault(at_once, anyio.CapacityLimiter(at_once))
        try:
            with anyio.fail_after(deadline.left()):
                return await anyio.to_thread.run_sync(
                    question, abandon_on_cancel=True, limiter=limiter
                )
        except TimeoutError:
            raise LogUnavailable(
                f"the log gave no answer within {deadline.seconds:g} seconds",
                "try again, or ask for less at once",
            ) from None

    async def check_for_all(self) -> DeidHooksError | None:
        """Return why the log takes no write, None if it does. Asks it once a second at the most."""
        async with self._checking:
            at, error = self._checked
            if time.monotonic() - at >= _CHECK_SECONDS:
                error = None
                try:
                    deadline = Deadline(self.log.seconds)
                    await self.ask(deadline, self.limit(deadline).check)
                except DeidHooksError as failure:
                    error = failure
                self._checked = time.monotonic(), error
        return error

    async def close(self, seconds: float) -> None:
        """Finish what was accepted, and close the log."""
        await anyio.to_thread.run_sync(self.committer.stop, seconds)
        await anyio.to_thread.run_sync(self.log.close)
        await self.senders.close()


@dataclass(slots=True, repr=False)
class Call:
    """One request at an endpoint, once its sender is known and its body is read.

    ``body`` has the values of its members, or is the record that was sent.
    """

    service: Service
    request: Request
    sender: Sender
    deadline: Deadline
    body: Any

    def record_use(self, action: str, asked: str) -> None:
        """Write a record of the access trail, unless this token has one of it today.

        Raises Problem 429 once the token asked for too many within an hour, and LogError.
        """
        if self.service.uses.is_new(self.sender.name, f"{action} {asked}"):
            self.record_access(action, asked, [])
            self.service.uses.note(self.sender.name, f"{action} {asked}")

    def record_access(
        self,
        action: str,
        asked: str,
        log_ids: Sequence[str],
        reason: str = "",
        where: str = "",
    ) -> None:
        """Write a record of the access trail, durably, before the answer that it is about.

        Does nothing for a sender who keeps the trail itself. Raises LogError.
        """
        if self.sender.keeps_trail:
            return
        row = AccessRow(
            id=uuid.uuid4().hex,
            at=read_clock(),
            who=self.sender.name,
            where=where or self.sender.address,
            action=action,
            asked=asked,
            log_ids=tuple(log_ids),
            reason=reason,
        )
        self.service.limit(self.deadline).record_access(row)


@dataclass(frozen=True, slots=True)
class Stream:
    """An answer of any length. ``show`` makes the JSON of a page, given whether it is the first.

    It runs in a thread, before any of the page leaves.
    """

    rows: Iterator[Any]
    page: int
    show: Callable[[list[Any], bool], list[dict[str, Any]]]


async def send_stream(call: Call, stream: Stream) -> Response:
    """Return lines of JSON, made a page at a time, each page within the seconds of the deadline.

    What goes wrong in the first page is raised. Later it is the last line, ``{"problem": ...}``, in
    place of ``{"end": true}``. When nobody waits for it any more, the store is not asked further.
    """

    def make_page(first: bool) -> tuple[list[dict[str, Any]], bool]:
        found = list(islice(stream.rows, stream.page))
        return stream.show(found, first) if found or first else [], len(found) == stream.page

    async def ask(deadline: Deadline, first: bool) -> tuple[list[dict[str, Any]], bool]:
        return await call.service.ask(deadline, lambda: make_page(first), _STREAMS_AT_ONCE)

    leaving = asyncio.create_task(_end_if_sender_leaves(call))
    try:
        begin = await ask(call.deadline, first=True)
    except BaseException:
        call.deadline.end()
        raise
    finally:
        leaving.cancel()

    async def make_lines() -> AsyncIterator[bytes]:
        documents, more = begin
        try:
            while True:
                if documents:
                    yield b"".join(map(_make_line, documents))
                if not more:
                    break
                documents, more = await ask(Deadline(call.deadline.seconds), first=False)
            yield _make_line({"end": True})
        except Exception as error:  # noqa: BLE001 - is answered as the last line, without its text
            yield _make_line({"problem": find_problem(error).make_document()})
        finally:
            call.deadline.end()

    return StreamingResponse(make_lines(), media_type=NDJSON)


async def _end_if_sender_leaves(call: Call) -> None:
    """End the deadline of a call once its sender has closed the connection."""
    while not await call.request.is_disconnected():
        await asyncio.sleep(_SECONDS_BETWEEN_LOOKS)
    call.deadline.end()


def _make_line(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode("ascii") + b"\n"
