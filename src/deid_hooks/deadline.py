"""Calls of code that may fail or hang: an answer in time, and no error text of theirs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import TypeVar

from deid_hooks.errors import AppendUnknown, DeidHooksError, LogUnavailable

T = TypeVar("T")

DEFAULT_SECONDS = 10.0
_LITTLE = 0.25


class Deadline:
    """A moment by which an answer is due. ``Deadline(10)`` is ten seconds from now."""

    __slots__ = ("_at", "seconds")

    def __init__(self, seconds: float = DEFAULT_SECONDS) -> None:
        self.seconds = seconds
        self._at = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self._at - time.monotonic())

    @property
    def passed(self) -> bool:
        return time.monotonic() >= self._at

    def end(self) -> None:
        """Let it pass now: nobody waits any more, and each next step of what is asked fails."""
        self.seconds, self._at = 0.0, time.monotonic()


class NoAnswer(Exception):
    """The call did not return in time. It goes on, unattended, in its own thread."""


class _Call:
    """One function call, its result, and the moment it is there."""

    def __init__(self, function: Callable[[], object]) -> None:
        self._function = function
        self._under_way = threading.Lock()  # one wait, so no need of an Event, which takes longer
        self._under_way.acquire()
        self._result: object = None
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._result = self._function()
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            self._error = error
        self._under_way.release()

    def result(self, seconds: float) -> object:
        end = Deadline(seconds)
        # A little at a time: an interrupt that comes just before a wait doesn't end that wait.
        while not self._under_way.acquire(timeout=min(end.left(), _LITTLE)):
            if end.passed:
                raise NoAnswer
        if self._error is not None:
            raise self._error
        return self._result


def call_within(deadline: Deadline, function: Callable[[], T]) -> T:
    """Call ``function`` in a thread of its own and return what it returns.

    Raises what it raises, ``SystemExit`` included, or :class:`NoAnswer` at the deadline.
    The thread is a daemon: a call that hangs for ever does not keep the program alive.
    """
    call = _Call(function)
    threading.Thread(target=call.run, name="deid-hooks call", daemon=True).start()
    return call.result(deadline.left())  # type: ignore[return-value]


class Worker:
    """One daemon thread that runs calls in order: for what can't cross threads.

    After a :class:`NoAnswer` the thread may be stuck; throw the worker away and make another.
    """

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def run(self, deadline: Deadline, function: Callable[[], T]) -> T:
        """Run ``function`` in this worker's thread, otherwise as :func:`call_within` does."""
        call = _Call(function)
        self._calls.put(call)
        return call.result(deadline.left())  # type: ignore[return-value]

    def stop(self) -> None:
        """Let the thread end once it has run what was asked of it."""
        self._calls.put(None)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            call.run()
            del call  # with what it returned


class Turn:
    """Decide between a job that is about to write, and its caller who gives up: the first wins."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Return True for the first who asks, and False for every later one."""
        return self._lock.acquire(blocking=False)

    def begin(self) -> None:
        """Take the turn before the first thing that can't be undone; NoAnswer if it is taken."""
        if not self.take():
            raise NoAnswer

    def give_back(self) -> None:
        """Let the turn be taken again: for certain, nothing was written."""
        self._lock.release()


def call_store(deadline: Deadline, call: Callable[[Turn], T], store: str, remedy: str = "") -> T:
    """Return what ``call`` returns; say what it means for the log if it hangs or fails.

    ``call`` waits at most until the deadline and raises NoAnswer then, as :func:`call_within` does;
    the job behind it calls ``turn.begin()`` before the first thing that can't be undone. If it
    gives no answer, or fails with an OSError, raises LogUnavailable before it began, and
    AppendUnknown after. ``store`` names the store in the message: a path, no URL with a password.
    """
    turn = Turn()
    try:
        return call(turn)
    except NoAnswer:
        cause = f"{store} gave no answer within {deadline.seconds:g} seconds"
    except OSError as error:
        cause = f"{store} can't be used: {error.strerror or type(error).__name__}"
    if turn.take():
        raise LogUnavailable(cause, remedy)
    raise AppendUnknown(f"{cause}; whether the last write is in it is unknown", remedy)


@contextmanager
def hide_foreign_errors(make: Callable[[str], DeidHooksError]) -> Iterator[None]:
    """Replace an exception that is not ours by the one that ``make`` returns for its kind.

    The text of a driver's or of pydicom's exception may hold values of a patient.
    """
    try:
        yield
    except DeidHooksError:
        raise
    except Exception as error:  # noqa: BLE001 - see above
        raise make(type(error).__name__) from None
