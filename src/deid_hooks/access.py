"""Access to the log: who (from the kernel), from where, asked what and why, before it is shown."""

from __future__ import annotations

import os
import pwd
import re
import socket
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TypeVar

from deid_hooks.batches import split_batches
from deid_hooks.errors import LogError
from deid_hooks.log import ALTERED_REMEDY, Log
from deid_hooks.query.parser import parse_terms
from deid_hooks.records.model import AccessRow, Entry, read_clock

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
        who=identify_user(),
        where=socket.gethostname(),
        action=action,
        asked=asked,
        log_ids=tuple(log_ids),
        reason=reason,
    )


_LOGIN_UID = Path("/proc/self/loginuid")
_UNSET = 0xFFFFFFFF
"""What the kernel says where nobody has logged in: in containers, and for services."""


def identify_user() -> str:
    """Return who runs this process: ``jane``, ``uid 1234``, ``root (login jane)``.

    It is the user of the effective uid. A login uid of another user is named after it. For root
    without a login uid SUDO_UID is named as what sudo says, ``root (sudo says jane)``. No other
    variable counts. Nothing is kept between calls: a process may change its user.
    """
    uid = os.geteuid()
    user, login = _name_user(uid), _read_login_uid()
    if login is not None:
        return user if login == uid else f"{user} (login {_name_user(login)})"
    caller = _find_name(_parse_uid(os.environ.get("SUDO_UID", ""))) if uid == 0 else None
    return user if caller in (None, user) else f"{user} (sudo says {caller})"


def _read_login_uid() -> int | None:
    """Return the uid with which the session of this process began; None if there is none."""
    try:
        return _parse_uid(_LOGIN_UID.read_text(encoding="ascii", errors="replace"))
    except OSError:  # a kernel without audit, or no /proc
        return None


def _parse_uid(text: str) -> int | None:
    found = re.fullmatch(r"([0-9]{1,10})\n?", text)
    return int(found[1]) if found and int(found[1]) < _UNSET else None


def _name_user(uid: int) -> str:
    return _find_name(uid) or f"uid {uid}"


def _find_name(uid: int | None) -> str | None:
    try:
        return None if uid is None else pwd.getpwuid(uid).pw_name
    except KeyError:
        return None


class Reader:
    """Reads the log for a program. Made by :meth:`DeidHooks.reading`.

    Every answer is in the access trail before it is given: who runs the program, what was asked,
    which entries, and why. What is not what was written is not given.
    """

    def __init__(self, log: Log, reason: str) -> None:
        self._access = AccessRecorder(log, "read", reason)

    def search(self, *terms: str) -> Iterator[str]:
        """Yield the ids of the entries that match all terms, written as on the command line.

        Raises TermError for a term that is none, LogError if the log, or its trail, fails.
        """
        query = parse_terms(terms)
        return self._access.record_ids(self._access.log.search(query), "\n".join(terms))

    def entries(self, log_ids: Iterable[str]) -> Iterator[Entry]:
        """Yield the entries with these ids, in that order, without unknown ids.

        Raises LogError, also for an entry that was altered in the store.
        """
        for page in split_batches(log_ids, PAGE):
            self._access.record("", page)
            for entry in self._access.log.entries(page):
                if what := self._access.log.altered.get(entry.log_id):
                    raise LogError(f"the entry {entry.log_id} was altered: {what}", ALTERED_REMEDY)
                yield entry
