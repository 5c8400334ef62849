"""What a store must do to keep the log: the contract, and defaults built on it.

The log is an append-only sequence of records. Five methods make a backend; the others have
defaults that are correct on any store and that a backend overrides for speed. A backend is found
by its entry point in the group ``deid_hooks.backends``, whose name is the scheme of its URLs, and
is made by calling it with the URL. ``deid_hooks.testing.BackendConformance`` proves all that is
said here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deid_hooks.deadline import Deadline
from deid_hooks.errors import AppendUnknown, IdConflict, LogUnavailable, TrailMoved
from deid_hooks.records.model import (
    AccessRow,
    Block,
    Entry,
    Erasure,
    Record,
    Tombstone,
    UploadEvent,
)

if TYPE_CHECKING:
    from deid_hooks.query.conditions import Query


@dataclass(frozen=True, slots=True)
class Page:
    """Some records in the order of the store, and the cursor to go on from."""

    records: tuple[Record, ...]
    cursor: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """An entry as one learns of it who may upload and not read.

    The store vouches that it holds the entry whole: ``digest`` is the keyed digest of what it
    holds, ``key`` and ``patients`` are the entry's, ``deid_uids`` its de-identified SOP Instance
    UIDs.
    """

    log_id: str
    project: str
    digest: str
    key: str
    patients: tuple[str, ...]
    deid_uids: tuple[str, ...]


class LogBackend(ABC):
    """A store of the log.

    Time: no method makes its caller wait longer than the deadline, whatever the store does: a
    hung disk, a stopped server, a lock that somebody holds. Iterators may take as long as the
    deadline is (``deadline.seconds``) for each page of results.

    Errors: nothing is raised but :class:`~deid_hooks.errors.LogError` and its kind. A driver's
    exceptions never get out, because their texts hold values.

    Threads and processes: any number of threads may call one backend at once, and any number of
    processes may have one on the same store. In a child forked from the process that made it, a
    backend raises :class:`~deid_hooks.errors.ForkedProcess`.

    Nothing is opened by making a backend; the first call does.
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
        """Write all records or none, durably, in the order given.

        Ends in one of three ways. Returned: all of it is durable, a crash of the process, of the
        store or of the machine notwithstanding. LogUnavailable: nothing was written, and nothing
        will be. AppendUnknown: all or none of it, now or later (a commit whose reply was lost, a
        call that was abandoned at the deadline); the caller repeats it with the same ids.

        A record that the store holds already is left as it is, so that an append can be repeated;
        the others of the call are written all the same. Held already means: an entry of the same
        id and the same content (``created`` and ``uploader`` aside); an equal upload event or
        block; an access row for which ``trail.same_row`` holds; an equal tombstone. IdConflict
        if the id is known with other content, and for a tombstone of an entry that stands;
        Forgotten for an entry whose id was erased; TrailMoved for a new access row whose
        ``previous`` is not the ``seal`` of the last one (``""`` in a trail without rows). After
        any of the three nothing was written.
        """

    @abstractmethod
    def read(self, after: int, deadline: Deadline) -> Page:
        """Records that come after the cursor, 0 for the beginning, in the order of the store.

        An empty page means there are none now. The order never changes; a cursor never skips a
        record that becomes visible later, as one does whose number was drawn before, and whose
        transaction ended after, that of another. What is read equals what was written: NUL, lone
        surrogates, empty, huge. A page takes bounded memory.
        """

    @abstractmethod
    def erase(self, log_ids: Sequence[str], erasure: Erasure, deadline: Deadline) -> None:
        """Make the identifying values of these entries unreadable; leave a tombstone for each.

        ``trail.erased`` takes the place of access rows that returned one of the ids. Destinations
        of a tombstone are those of the entry's upload events, in order, once each; the events
        stay. Ids that the log does not know, or that were erased already, are passed over. Once
        it returns no value can be read from the store's files either; LogError, not LogUnavailable,
        if the entries are gone but traces may be left.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of the store. Idempotent, never raises. A later call opens it again."""

    # What follows is right on any store, and slow on a large one.

    def everything(self, deadline: Deadline) -> Iterator[Record]:
        """All records in the order of the store, page by page."""
        cursor = 0
        while (page := self.read(cursor, Deadline(deadline.seconds))).records:
            yield from page.records
            cursor = page.cursor

    def resolve(self, log_id: str, deadline: Deadline) -> Entry | Receipt | Tombstone | None:
        """What the store itself, not a cache, holds under this id.

        Sealed only where the store does not let this user read what it holds.
        """
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
        """The ids of the entries that match, oldest first: exactly what ``query.matches`` says."""
        for entry in self._standing(deadline):
            if query.matches(entry):
                yield entry.log_id

    def uploads(self, log_ids: Iterable[str] | None, deadline: Deadline) -> Iterator[UploadEvent]:
        """Upload events, oldest first: of these entries, or of all."""
        wanted = None if log_ids is None else set(log_ids)
        for record in self.everything(deadline):
            if isinstance(record, UploadEvent) and (wanted is None or record.log_id in wanted):
                yield record

    def blocks(self, patients: Collection[str], deadline: Deadline) -> Iterator[Block]:
        """Blocks of these patients, by their keyed digests, oldest first."""
        for record in self.everything(deadline):
            if isinstance(record, Block) and record.patient in patients:
                yield record

    def subject(self, project: str, patient: str, deadline: Deadline) -> str | None:
        """The label of a patient within a project, by the keyed digest; None if none is known.

        It is the de-identified PatientID of the oldest entry of this patient alone that has one.
        """
        for entry in self._standing(deadline):
            if (entry.project, entry.patients) == (project, (patient,)):
                label = entry.deid.get("PatientID", ("",))[0]
                if label:
                    return label
        return None

    def trail(self, deadline: Deadline) -> Iterator[AccessRow]:
        """The access trail, from its beginning."""
        for record in self.everything(deadline):
            if isinstance(record, AccessRow):
                yield record

    def trail_head(self, deadline: Deadline) -> str:
        """The ``seal`` of the last row of the access trail; ``""`` if it has no rows."""
        head = ""
        for row in self.trail(deadline):
            head = row.seal
        return head

    def look(
        self, row: AccessRow, link: Callable[[AccessRow, str], AccessRow], deadline: Deadline
    ) -> None:
        """Add a row to the access trail, durably. ``link`` seals it over the head it is given.

        Of two that add a row at once one is told TrailMoved, and links its row again.
        """
        unknown = False
        while True:
            try:
                return self.append([link(row, self.trail_head(deadline))], deadline)
            except TrailMoved:
                if deadline.passed:
                    raise LogUnavailable("many look into the log at once", "try again") from None
            except AppendUnknown:
                if deadline.passed:
                    raise
                unknown = True
            except IdConflict:
                if unknown:  # the first attempt was written after all
                    return None
                raise

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
