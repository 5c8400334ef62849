"""A log in memory that fails on request, with which uploaders are tested: ``memory:NAME``."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Literal, get_args

from deid_hooks.backends.contract import (
    Key,
    LogBackend,
    Page,
    Seal,
    get_key,
    make_tombstone,
    seal_new,
    select_new,
)
from deid_hooks.deadline import Deadline, NoAnswer, call_within
from deid_hooks.errors import AppendUnknown, LogUnavailable, NotAllowed
from deid_hooks.records.chain import erase_salt, erase_terms
from deid_hooks.records.model import (
    AccessRow,
    Entry,
    Erased,
    Erasure,
    Record,
    UploadEvent,
)

Fault = Literal["refuse", "unknown", "hang", "lose", "block"]

FAULTS: tuple[Fault, ...] = get_args(Fault)
"""How a :class:`MemoryLog` can fail: with each of them nothing may leave."""

_RECORDS_A_PAGE = 50


class MemoryLog:
    """What backends of one URL hold, for a test to look into, and how they fail.

    ``fault`` is None, or: ``refuse``, every call fails with LogUnavailable; ``unknown``, an append
    fails with AppendUnknown and writes nothing; ``hang``, an append gives no answer; ``lose``, an
    append is acknowledged and keeps nothing; ``block``, every patient is blocked.
    """

    def __init__(self) -> None:
        self.fault: Fault | None = None
        self.exists = False
        self.sealed: dict[int, tuple[Record, str]] = {}
        """Records with their seals, by their place in the order of the log."""
        self.lock = threading.Lock()

    @property
    def records(self) -> list[Record]:
        """Every record, in the order of the log."""
        return [record for record, _ in self.sealed.values()]

    @property
    def entries(self) -> list[Entry]:
        """Every entry, in the order of the log."""
        return [record for record in self.records if isinstance(record, Entry)]

    @property
    def events(self) -> list[UploadEvent]:
        """Every upload event: an acquisition was cleared, and what became of it."""
        return [record for record in self.records if isinstance(record, UploadEvent)]


_LOGS: dict[str, MemoryLog] = {}


def open_memory_log(url: str) -> MemoryLog:
    """Return what the backends of this ``memory:`` URL hold, empty at first."""
    return _LOGS.setdefault(url, MemoryLog())


class MemoryBackend(LogBackend):
    """Keeps a log for as long as the process lives, and fails as its :class:`MemoryLog` says."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._log = open_memory_log(url)

    def create(self, deadline: Deadline) -> None:
        self._log.exists = True

    def exists(self) -> bool:
        return self._log.exists

    def check(self, deadline: Deadline) -> None:
        self._refuse()

    def append(self, records: Sequence[Record], seal: Seal, deadline: Deadline) -> None:
        self._refuse()
        if self._log.fault == "hang":
            self._hang(deadline)
        if self._log.fault == "unknown":
            raise AppendUnknown("the reply to the commit was lost")
        if self._log.fault == "block" and any(map(_lets_out, records)):
            raise NotAllowed("uploads of this patient are blocked")
        with self._log.lock:
            held: dict[Key, Record] = {get_key(record): record for record in self._log.records}
            new = select_new(records, held.get)
            seals = seal_new(seal, self._find_head(), new)
            if self._log.fault != "lose":
                self._add(new, seals)

    def read(self, after: int, deadline: Deadline) -> Page:
        self._refuse()
        with self._log.lock:
            rows = [(n, *row) for n, row in self._log.sealed.items() if n > after][:_RECORDS_A_PAGE]
        return Page(
            tuple(record for _, record, _ in rows),
            tuple(seal for _, _, seal in rows),
            rows[-1][0] if rows else after,
        )

    def erase(
        self, log_ids: Sequence[str], erasure: Erasure, seal: Seal, deadline: Deadline
    ) -> None:
        self._refuse()
        with self._log.lock:
            gone = {e.log_id: e for e in self._log.entries if e.log_id in log_ids}
            stones = [
                make_tombstone(
                    log_id,
                    gone[log_id].created,
                    (e.destination for e in self._log.events if e.log_id == log_id),
                    erasure,
                    gone[log_id].project,
                )
                for log_id in dict.fromkeys(i for i in log_ids if i in gone)
            ]
            seals = seal_new(seal, self._find_head(), stones)
            for number, (record, its_seal) in list(self._log.sealed.items()):
                if isinstance(record, Entry) and record.log_id in gone:
                    self._log.sealed[number] = Erased("entry", record.log_id), erase_salt(its_seal)
                elif isinstance(record, AccessRow) and gone.keys() & set(record.log_ids):
                    self._log.sealed[number] = erase_terms(record), its_seal
            self._add(stones, seals)

    def close(self) -> None:
        return None

    def _add(self, records: Sequence[Record], seals: Sequence[str]) -> None:
        first = max(self._log.sealed, default=0) + 1
        self._log.sealed.update(enumerate(zip(records, seals, strict=True), first))

    def _find_head(self) -> str:
        return next((seal for _, seal in reversed(self._log.sealed.values())), "")

    def _refuse(self) -> None:
        if self._log.fault == "refuse" or not self._log.exists:
            raise LogUnavailable("the log in memory can't be reached", "this is a test")

    def _hang(self, deadline: Deadline) -> None:
        wait: Callable[[], bool] = threading.Event().wait
        try:
            call_within(deadline, wait)
        except NoAnswer:
            raise AppendUnknown("the log in memory gave no answer in time") from None


def _lets_out(record: Record) -> bool:
    return isinstance(record, Entry) or getattr(record, "event", "") == "cleared"
