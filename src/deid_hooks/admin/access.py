"""Write the access trail: who, from which host, asked what and why, before it is shown."""

from __future__ import annotations

import getpass
import os
import socket
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import TypeVar

from deid_hooks.batches import split_batches
from deid_hooks.log import Log
from deid_hooks.records.model import AccessRow, read_clock

T = TypeVar("T")

PAGE = 500
"""Ids that one row of the access trail holds at the most."""


class AccessRecorder:
    """Records in the trail what is accessed with one command and for one reason."""

    def __init__(self, log: Log, action: str, reason: str) -> None:
        self.log = log
        self._action = action
        self._reason = reason

    def record(self, asked: str, log_ids: Sequence[str]) -> None:
        """Make a row of the trail durable, or raise LogError: then nothing may be shown."""
        self.log.record_access(make_access_row(self._action, asked, log_ids, self._reason))

    def record_each(
        self, answers: Iterable[T], asked: str, ids_of: Callable[[T], Sequence[str]]
    ) -> Iterator[T]:
        """Yield the answers, each page of them once the ids that it shows are in the trail.

        That nothing was found is in the trail too.
        """
        pages = split_batches(answers, PAGE)
        for page in chain([next(pages, [])], pages):
            self.record(asked, list(dict.fromkeys(i for answer in page for i in ids_of(answer))))
            yield from page

    def record_ids(self, log_ids: Iterable[str], asked: str) -> Iterator[str]:
        """Yield the log ids, each page of them once it is in the trail."""
        return self.record_each(log_ids, asked, lambda log_id: [log_id])


def make_access_row(action: str, asked: str, log_ids: Sequence[str], reason: str) -> AccessRow:
    """Return the row of the access trail for what the user of this process is about to see."""
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
    """Return who runs this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, in a container
        return f"uid {os.getuid()}"
