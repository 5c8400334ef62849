"""A connection and the thread that it lives in, so that no caller waits longer than it wants."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from deid_hooks.deadline import Deadline, NoAnswer, Worker
from deid_hooks.errors import Forgotten, IdConflict
from deid_hooks.sqlite.connection import Opened
from deid_hooks.sqlite.failures import DRIVER_ERRORS, unavailable

T = TypeVar("T")


class Session:
    """Runs jobs on a connection that is opened when the first one needs it.

    A connection on which anything failed is closed, and the next job gets a fresh one.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.opened: Opened | None = None
        self._path = path
        self._worker = Worker(f"deid-hooks log {name}")

    def run(self, deadline: Deadline, job: Callable[[Opened], T]) -> T:
        """What ``job`` returns. Raises what it raises, in the log's words, or NoAnswer."""
        return self._worker.run(deadline, lambda: self._translated(lambda: self._do(job, deadline)))

    def run_apart(self, deadline: Deadline, function: Callable[[], T]) -> T:
        """As :meth:`run`, without the connection."""
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
            raise unavailable(error, self._path) from None

    def _close(self) -> None:
        opened, self.opened = self.opened, None
        if opened is not None:
            opened.close()
