"""Looking into the log: what is about to be shown is in the access trail before it is."""

from __future__ import annotations

import getpass
import os
import socket
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

from deid_hooks.log import Log
from deid_hooks.records.model import AccessRow, read_clock

T = TypeVar("T")

PAGE = 500
"""Ids that one row of the access trail holds at the most."""


class AccessRecorder:
    """Somebody who looks, with one command and for one reason."""

    def __init__(self, recorder: Log, action: str, reason: str) -> None:
        self.recorder = recorder
        self._action = action
        self._reason = reason

    def record(self, asked: str, log_ids: Sequence[str]) -> None:
        """Make a row of the trail durable, or raise LogError: then nothing may be shown."""
        self.recorder.record_access(make_access_row(self._action, asked, log_ids, self._reason))

    def recorded(
        self, answers: Iterable[T], asked: str, ids_of: Callable[[T], Sequence[str]]
    ) -> Iterator[T]:
        """Pass answers on, a page at a time and each page when it is in the trail.

        That nothing was found is in the trail too.
        """
        remaining, first = iter(answers), True
        while (page := list(islice(remaining, PAGE))) or first:
            first = False
            ids = dict.fromkeys(log_id for answer in page for log_id in ids_of(answer))
            self.record(asked, list(ids))
            yield from page


def make_access_row(action: str, asked: str, log_ids: Sequence[str], reason: str) -> AccessRow:
    """The row of the access trail for what the user of this process is about to see."""
    return AccessRow(
        id=uuid.uuid4().hex,
        at=read_clock(),
        who=get_user(),
        where=socket.gethostname(),
        action=action,
        asked=asked,
        log_ids=tuple(log_ids),
        reason=reason,
    )


def get_user() -> str:
    """Who runs this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, in a container
        return f"uid {os.getuid()}"
