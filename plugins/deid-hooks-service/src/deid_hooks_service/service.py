"""What requests share: the log, the committer, the senders; and asking the log without hanging."""

from __future__ import annotations

import re
import threading
import uuid
from collections.abc import Callable, Sequence
from typing import TypeVar

import anyio
import anyio.to_thread
from starlette.requests import Request

from deid_hooks.deadline import Deadline
from deid_hooks.errors import LogUnavailable
from deid_hooks.log import Log
from deid_hooks.records.model import AccessRow, read_clock
from deid_hooks_service.committer import Committer
from deid_hooks_service.observing import Metrics
from deid_hooks_service.senders import Sender, Senders

T = TypeVar("T")

DEADLINE_HEADER = "Deid-Hooks-Deadline"
LONGEST_DEADLINE = 300.0
_SHORTEST_DEADLINE = 1.0
"""A sender may go before; what it began is finished all the same."""
_SECONDS = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6})?")
_AT_ONCE = 40
"""Questions to the log that threads of their own wait for."""


class Service:
    """One log, served."""

    def __init__(self, recorder: Log, senders: Senders) -> None:
        self.recorder = recorder
        self.senders = senders
        self.committer = Committer(recorder)
        self.metrics = Metrics(lambda: self.committer.waiting)
        self._limiter: anyio.CapacityLimiter | None = None
        self._trail = threading.Lock()

    async def sender(self, request: Request, do: str | None = None) -> Sender:
        """Who asks; Problem 401, or NotAllowed if its role may not do that."""
        address = request.client.host if request.client else ""
        sender = await self.senders.sender(request.headers.get("authorization"), address)
        request.scope["deid_hooks.sender"] = sender.name
        if do is not None:
            sender.must_be_allowed(do)
        return sender

    def deadline(self, request: Request) -> Deadline:
        """Until when this request wants its answer: by its header, else by the settings."""
        text = request.headers.get(DEADLINE_HEADER, "")
        if not _SECONDS.fullmatch(text):
            return Deadline(self.recorder.seconds)
        return Deadline(min(max(float(text), _SHORTEST_DEADLINE), LONGEST_DEADLINE))

    def within(self, deadline: Deadline) -> Log:
        """The log, for one who waits that long."""
        return Log(self.recorder.backend, self.recorder.secret, deadline.seconds)

    async def ask(self, deadline: Deadline, question: Callable[[], T]) -> T:
        """What ``question`` returns, asked in a thread; LogUnavailable at the deadline."""
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(_AT_ONCE)
        try:
            with anyio.fail_after(deadline.left()):
                return await anyio.to_thread.run_sync(
                    question, abandon_on_cancel=True, limiter=self._limiter
                )
        except TimeoutError:
            raise LogUnavailable(
                f"the log gave no answer within {deadline.seconds:g} seconds",
                "try again, or ask for less at once",
            ) from None

    def record_look(
        self,
        sender: Sender,
        deadline: Deadline,
        action: str,
        asked: str,
        log_ids: Sequence[str],
        reason: str = "",
        where: str = "",
    ) -> None:
        """Write a row of the access trail, durably, before the answer that it is about.

        Not for one who keeps the trail itself. Raises LogError.
        """
        if sender.keeps_trail:
            return
        row = AccessRow(
            id=uuid.uuid4().hex,
            at=read_clock(),
            who=sender.name,
            where=where or sender.address,
            action=action,
            asked=asked,
            log_ids=tuple(log_ids),
            reason=reason,
        )
        # One after the other: rows follow one another, and the loser would have to try again.
        if not self._trail.acquire(timeout=deadline.left()):
            raise LogUnavailable("the access trail was not free in time", "try again")
        try:
            self.within(deadline).look(row)
        finally:
            self._trail.release()

    async def close(self, seconds: float) -> None:
        """Finish what was accepted, and let go of the log."""
        await anyio.to_thread.run_sync(self.committer.stop, seconds)
        await anyio.to_thread.run_sync(self.recorder.close)
        await self.senders.close()
