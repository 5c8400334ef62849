"""Calling a store that may hang or fail: what to say of a write that did not return."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from deid_hooks.deadline import Deadline, NoAnswer, within
from deid_hooks.errors import AppendUnknown, LogUnavailable

T = TypeVar("T")

Begin = Callable[[], None]


def in_time(deadline: Deadline, job: Callable[[Begin], T], log: str) -> T:
    """What ``job`` returns, by the deadline.

    The job calls ``begin`` before the first thing that can't be undone. If it hangs, or fails with
    an OSError, that is LogUnavailable before it began, and AppendUnknown after. A job that is given
    up does not begin. ``log`` names the store in the message: a path, not a URL with a password.
    """
    turn = threading.Lock()  # whoever takes it: the job begins, or its caller gives up before

    def begin() -> None:
        if not turn.acquire(blocking=False):
            raise NoAnswer

    try:
        return within(deadline, lambda: job(begin))
    except NoAnswer:
        why = f"gave no answer within {deadline.seconds:g} seconds"
    except OSError as error:
        why = f"can't be used: {error.strerror or type(error).__name__}"
    if turn.acquire(blocking=False):
        raise LogUnavailable(f"the log {log} {why}")
    raise AppendUnknown(f"the log {log} {why}; whether the last write is in it is unknown")
