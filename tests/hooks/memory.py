"""A log in memory that fails as a test wants, and otherwise keeps the contract of a backend."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from deid_hooks.backends.contract import BlocksPage, LogBackend, Page, Seal
from deid_hooks.deadline import Deadline, NoAnswer, call_within
from deid_hooks.errors import AppendUnknown, Forgotten, IdConflict, LogUnavailable
from deid_hooks.records.model import Block, Entry, Erasure, Record, Tombstone, UploadEvent

SECRET_OF_THE_DRIVER = "Canary^Driver"


@dataclass
class Store:
    """What outlives a backend, and how the backend behaves.

    ``faults`` are those of the appends to come, one for each: ``unavailable``, ``written`` and
    ``lost`` (AppendUnknown, with or without the records in the store), ``hang``, ``driver`` (an
    exception that is none of ours), or ``""`` for none. ``altered`` is applied to each entry read.
    """

    records: list[Record] = field(default_factory=list)
    sealed: list[tuple[Record, str]] = field(default_factory=list)
    made: bool = False
    down: bool = False
    faults: list[str] = field(default_factory=list)
    attempts: list[tuple[Record, ...]] = field(default_factory=list)
    altered: Callable[[Entry], Entry] = lambda entry: entry
    closed: int = 0

    @property
    def entries(self) -> list[Entry]:
        return [record for record in self.records if isinstance(record, Entry)]

    @property
    def events(self) -> list[UploadEvent]:
        return [record for record in self.records if isinstance(record, UploadEvent)]


STORES: dict[str, Store] = {}
"""By URL, so that a test can read the store and break it."""

_lock = threading.Lock()


class MemoryBackend(LogBackend):
    """Keeps the seals of what was appended."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._store = STORES.setdefault(url, Store())

    def create(self, deadline: Deadline) -> None:
        self._refuse_if_down()
        self._store.made = True

    def exists(self) -> bool:
        return self._store.made

    def check(self, deadline: Deadline) -> None:
        self._refuse_if_down()

    def append(self, records: Sequence[Record], seal: Seal, deadline: Deadline) -> None:
        self._store.attempts.append(tuple(records))
        self._refuse_if_down()
        fault = self._store.faults.pop(0) if self._store.faults else ""
        if fault == "unavailable":
            raise LogUnavailable("503 Service Unavailable", "start the service")
        if fault == "driver":
            raise RuntimeError(SECRET_OF_THE_DRIVER)
        if fault == "hang":
            self._hang(deadline)
        if fault != "lost":
            self._write(records, seal)
        if fault in ("lost", "written"):
            raise AppendUnknown("the reply to the commit was lost")

    def read(self, after: int, deadline: Deadline) -> Page:
        self._refuse_if_down()
        found = self._store.records[after : after + 5]
        records = [self._store.altered(r) if isinstance(r, Entry) else r for r in found]
        seals = {id(record): seal for record, seal in self._store.sealed}
        return Page(tuple(records), tuple(seals.get(id(r), "") for r in found), after + len(found))

    def erase(
        self, log_ids: Sequence[str], erasure: Erasure, seal: Seal, deadline: Deadline
    ) -> None:
        with _lock:
            for entry in self._store.entries:
                if entry.log_id in log_ids:
                    self._store.records.remove(entry)
                    stone = Tombstone(entry.log_id, entry.created, (), erasure, entry.project)
                    self._store.records.append(stone)
                    self._seal([stone], seal)

    def blocks_after(self, after: int, deadline: Deadline) -> BlocksPage:
        self._refuse_if_down()
        found = [(record, seal) for record, seal in self._store.sealed if isinstance(record, Block)]
        return BlocksPage(tuple(found[after:]), len(found), self._find_head())

    def close(self) -> None:
        self._store.closed += 1

    def _refuse_if_down(self) -> None:
        if self._store.down:
            raise LogUnavailable("the log can't be reached", "start it")

    def _hang(self, deadline: Deadline) -> None:
        try:
            call_within(deadline, threading.Event().wait)
        except NoAnswer:
            raise AppendUnknown("the log did not answer in time") from None

    def _write(self, records: Sequence[Record], seal: Seal) -> None:
        with _lock:
            new = [record for record in records if not self._is_known(record)]
            self._seal(new, seal)
            self._store.records.extend(new)

    def _seal(self, records: Sequence[Record], seal: Seal) -> None:
        if records:
            seals = seal(self._find_head(), records)
            self._store.sealed += zip(records, seals, strict=True)

    def _find_head(self) -> str:
        return self._store.sealed[-1][1] if self._store.sealed else ""

    def _is_known(self, record: Record) -> bool:
        for known in self._store.records:
            if known == record:
                return True
            if isinstance(record, Entry) and getattr(known, "log_id", "") == record.log_id:
                if isinstance(known, Tombstone):
                    raise Forgotten(record.log_id)
                if isinstance(known, Entry):
                    raise IdConflict(record.log_id)
        return False
