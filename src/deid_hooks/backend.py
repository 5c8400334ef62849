"""What a store must do to keep the log: the contract, and defaults built on it.

The log is an append-only sequence of records. Five methods make a backend; the others have
defaults that are correct on any store and that a backend overrides for speed. A backend is found
by its entry point in the group ``deid_hooks.backends``, whose name is the scheme of its URLs, and
is made by calling it with the URL.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deid_hooks.deadline import Deadline
from deid_hooks.entry import Entry, Erasure, Record, Tombstone, UploadEvent
from deid_hooks.errors import LogUnavailable

if TYPE_CHECKING:
    from deid_hooks.matching import Query


@dataclass(frozen=True, slots=True)
class Page:
    """Some records in the order of the store, and the cursor to go on from."""

    records: tuple[Record, ...]
    cursor: int


class LogBackend(ABC):
    """A store of the log. Safe from several threads, and from several processes on one store.

    Every method waits no longer than its deadline, whatever the store does, and raises nothing but
    :class:`~deid_hooks.errors.LogError` and its kind: a driver's exceptions never get out, because
    their texts hold values.
    """

    records: bool = True
    """False for the backend that keeps nothing (``none:``), which is told loudly."""

    def __init__(self, url: str) -> None:
        self.url = url

    def create(self, deadline: Deadline) -> None:
        """Make the store if there is none. Does nothing to one that exists.

        Raises LogUnavailable if it can't.
        """
        return

    def exists(self) -> bool:
        """Whether a store may be there. Only a store that is a file of ours can say no."""
        return True

    @abstractmethod
    def check(self, deadline: Deadline) -> None:
        """Return if the store is reachable, ours and writable; LogUnavailable otherwise."""

    @abstractmethod
    def append(self, records: Sequence[Record], deadline: Deadline) -> None:
        """Write all records or none, durably.

        Ends in one of three ways. Returned: all of it is durable. LogUnavailable: nothing was
        written. AppendUnknown: all or none of it, now or later; the caller repeats it with the
        same ids. An entry or row that the store holds already with the same content is left as it
        is; IdConflict if the content differs, Forgotten if the id was erased, and nothing is
        written then.
        """

    @abstractmethod
    def read(self, after: int, deadline: Deadline) -> Page:
        """Records that come after the cursor, 0 for the beginning, in the order of the store.

        An empty page means there are none now. A cursor never skips a record that becomes visible
        later.
        """

    @abstractmethod
    def erase(self, log_ids: Sequence[str], erasure: Erasure, deadline: Deadline) -> None:
        """Make the identifying values of these entries unreadable; leave a tombstone for each.

        Ids that the log does not know are passed over.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of the store. Idempotent, never raises."""

    # What follows is right on any store, and slow on a large one.

    def everything(self, deadline: Deadline) -> Iterator[Record]:
        """All records in the order of the store, page by page."""
        cursor = 0
        while (page := self.read(cursor, deadline)).records:
            yield from page.records
            cursor = page.cursor

    def resolve(self, log_id: str, deadline: Deadline) -> Entry | Tombstone | None:
        """What the store itself, not a cache, holds under this id."""
        found: Entry | Tombstone | None = None
        for record in self.everything(deadline):
            if isinstance(record, Entry | Tombstone) and record.log_id == log_id:
                found = record
        return found

    def entries(self, log_ids: Iterable[str], deadline: Deadline) -> Iterator[Entry]:
        """The entries with these ids, in the order asked for; unknown ids are passed over."""
        for log_id in log_ids:
            found = self.resolve(log_id, deadline)
            if isinstance(found, Entry):
                yield found

    def with_digest(self, digest: str, deadline: Deadline) -> str | None:
        """The id of the oldest entry whose content has this keyed digest."""
        for entry in self._standing(deadline):
            if entry.digest == digest:
                return entry.log_id
        return None

    def search(self, query: Query, deadline: Deadline) -> Iterator[str]:
        """The ids of the entries that match, oldest first.

        Each page of results may take as long as the deadline is (``deadline.seconds``).
        """
        for entry in self._standing(deadline):
            if query.matches(entry):
                yield entry.log_id

    def uploads(self, log_ids: Iterable[str] | None, deadline: Deadline) -> Iterator[UploadEvent]:
        """Upload events, oldest first: of these entries, or of all."""
        wanted = None if log_ids is None else set(log_ids)
        for record in self.everything(deadline):
            if isinstance(record, UploadEvent) and (wanted is None or record.log_id in wanted):
                yield record

    def _standing(self, deadline: Deadline) -> Iterator[Entry]:
        erased = {r.log_id for r in self.everything(deadline) if isinstance(r, Tombstone)}
        for record in self.everything(deadline):
            if isinstance(record, Entry) and record.log_id not in erased:
                yield record


class NoLog(LogBackend):
    """``none:``, logging switched off on purpose. Keeps nothing, and says so when asked."""

    records = False

    def check(self, deadline: Deadline) -> None:
        return None

    def append(self, records: Sequence[Record], deadline: Deadline) -> None:
        return None

    def read(self, after: int, deadline: Deadline) -> Page:
        raise LogUnavailable("logging is switched off (url none:), there is nothing to read")

    def erase(self, log_ids: Sequence[str], erasure: Erasure, deadline: Deadline) -> None:
        raise LogUnavailable("logging is switched off (url none:), there is nothing to erase")

    def close(self) -> None:
        return None
