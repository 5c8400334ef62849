"""What a store must do to keep the log: the contract, its rules, and defaults built on it.

The log is an append-only sequence of records. Five methods make a backend; the others have
defaults that are correct on any store and that a backend overrides for speed. A backend is found
by its entry point in the group ``deid_hooks.backends``, whose name is the scheme of its URLs, and
is made by calling it with the URL. ``deid_hooks.testing.BackendConformance`` proves all that is
said here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from deid_hooks.deadline import Deadline
from deid_hooks.errors import Forgotten, IdConflict, LogError, LogUnavailable
from deid_hooks.records.chain import erase_terms
from deid_hooks.records.model import (
    AccessRow,
    Block,
    Entry,
    Erased,
    Erasure,
    Record,
    Tombstone,
    UploadEvent,
    get_id,
)

if TYPE_CHECKING:
    from deid_hooks.query.conditions import Query


T = TypeVar("T")

IDS_AT_ONCE = 500
"""Ids that a store is asked for in one statement."""

Seal = Callable[[str, Sequence[Record]], Sequence[str]]
"""Returns one seal for each new record, given the last seal of the store, ``""`` for none."""

Key = tuple[type[Record], str] | UploadEvent
"""What a store finds a record by: kind and id; of an upload event one with log id and id alone."""


class OlderLog(LogUnavailable):
    """The log is of the version before: it is read, without seals, and must be upgraded."""


@dataclass(frozen=True, slots=True)
class Page:
    """Some records in the order of the store, the seal of each, and the cursor to go on from.

    The seal of an entry that was erased is still there: an ``Erased`` stands in its place.
    """

    records: tuple[Record, ...]
    seals: tuple[str, ...]
    cursor: int


@dataclass(frozen=True, slots=True)
class BlocksPage:
    """Blocks after a cursor with their seals, the next cursor, and the last seal of the log."""

    blocks: tuple[tuple[Block, str], ...]
    cursor: int
    head: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """An entry as one learns of it who may upload and not read.

    The store vouches that it holds the entry whole. ``deid_uids`` are its de-identified SOP
    Instance UIDs. ``digest``, the keyed digest of what the store holds, ``key`` and ``patients``
    are the entry's; a service that holds the keys says ``blocked`` in their place, and tells none.
    """

    log_id: str
    project: str
    deid_uids: tuple[str, ...]
    digest: str = ""
    key: str = ""
    patients: tuple[str, ...] = ()
    blocked: bool = False


@dataclass(frozen=True, slots=True)
class Statistics:
    """How much a log holds.

    ``counts`` are by name: ``entries``, ``instances``, ``patients``, ``projects``, ``forgotten``,
    ``blocked``, ``accesses``. ``copies`` are rows of a destination, the latest event there, and of
    how many entries it is the latest, sorted. ``first`` and ``last`` are the ``created`` of the
    oldest and the newest entry, ``""`` without one.
    """

    counts: dict[str, int] = field(default_factory=dict)
    copies: list[tuple[str, str, int]] = field(default_factory=list)
    first: str = ""
    last: str = ""


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
    """False for the backend that keeps nothing (``none:``), which users are warned of."""

    seals: bool = False
    """True for a backend whose other side seals what it appends, and checks what it shows."""

    def __init__(self, url: str) -> None:
        self.url = url

    def create(self, deadline: Deadline) -> None:
        """Make the store if there is none. Does nothing to one that exists.

        Raises LogUnavailable if it can't.
        """
        return

    def upgrade(self, seal: Seal, deadline: Deadline) -> str:
        """Bring a store of an older version to this one; return what was done, ``""`` for nothing.

        ``seal`` seals the records of a version that had no seals for all of them. May be repeated
        after a kill; of two at once one waits. Raises LogUnavailable.
        """
        return ""

    def exists(self) -> bool:
        """Return whether a store may be there. Only a store that is a file of ours can say no."""
        return True

    @abstractmethod
    def check(self, deadline: Deadline) -> None:
        """Return if the store is reachable, ours and writable; LogUnavailable otherwise."""

    @abstractmethod
    def append(self, records: Sequence[Record], seal: Seal, deadline: Deadline) -> None:
        """Write all records or none, durably, in the order given.

        Ends in one of three ways. Returned: all of it is durable, a crash of the process, of the
        store or of the machine notwithstanding. LogUnavailable: nothing was written, and nothing
        will be. AppendUnknown: all or none of it, now or later (a commit whose reply was lost, a
        call that was abandoned at the deadline); the caller repeats it with the same ids.

        A record that the store holds already is left as it is, so that an append can be repeated;
        the others of the call are written all the same. Held already means: a record of the same
        kind, id and content, an access row also if it was erased since. When and by whom a record
        was written is no content: the first one stands as it is. IdConflict if the id is known
        with other content, and for a tombstone of an entry that stands; Forgotten for an entry
        whose id was erased. After either nothing was written. These rules are
        :func:`~deid_hooks.backends.contract.select_new`.

        While the store holds its order, it calls ``seal(head, new)`` once, with the last seal that
        it keeps (``""`` before the first) and the records that are new, in their order; not at all
        if none is. It returns one seal for each, which the store keeps with the record. If ``seal``
        raises, nothing is written and that error is raised. Of an ``Erased``, which a copy of a log
        appends, there is only the seal to keep.
        """

    @abstractmethod
    def read(self, after: int, deadline: Deadline) -> Page:
        """Return records that come after the cursor, 0 for the beginning, in the store's order.

        An empty page means there are none now. The order never changes; a cursor never skips a
        record that becomes visible later, as one does whose number was drawn before, and whose
        transaction ended after, that of another. What is read equals what was written: NUL, lone
        surrogates, empty, huge. A page takes bounded memory.
        """

    @abstractmethod
    def erase(
        self, log_ids: Sequence[str], erasure: Erasure, seal: Seal, deadline: Deadline
    ) -> None:
        """Make the identifying values of these entries unreadable; append a tombstone for each.

        Of an entry the seal stays, as ``chain.erase_salt`` returns it; tombstones are sealed as
        ``append`` says. ``chain.erase_terms`` takes the place of access rows that returned one of
        the ids; their seals stay. Destinations of a tombstone are those of the entry's upload
        events, in order, once each; the events stay. Ids that the log does not know, or that were
        erased already, are passed over. Once it returns no value can be read from the store's files
        either; LogError, not LogUnavailable, if the entries are gone but traces may be left.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the store. Idempotent, never raises. A later call opens it again."""

    # What follows is right on any store, and slow on a large one.

    def everything(self, deadline: Deadline) -> Iterator[Record]:
        """Yield all records that are there, in the order of the store, page by page."""
        return (record for record, _ in self.chain(deadline) if not isinstance(record, Erased))

    def chain(self, deadline: Deadline) -> Iterator[tuple[Record, str]]:
        """Yield all records with their seals, page by page; an Erased for each that was erased."""

        def fetch(cursor: int) -> tuple[list[tuple[Record, str]], int]:
            page = self.read(cursor, Deadline(deadline.seconds))
            return list(zip(page.records, page.seals, strict=True)), page.cursor

        return iterate_pages(fetch)

    def resolve(self, log_id: str, deadline: Deadline) -> Entry | Receipt | Tombstone | None:
        """Return what the store itself, not a cache, holds under this id.

        A Receipt only where the store does not let this user read what it holds.
        """
        found: Entry | Tombstone | None = None
        for record in self.everything(deadline):
            if isinstance(record, Entry | Tombstone) and record.log_id == log_id:
                found = record
        return found

    def entries(self, log_ids: Iterable[str], deadline: Deadline) -> Iterator[Entry]:
        """Yield the entries with these ids, in the order asked for, without unknown ids."""
        return (entry for entry, _ in self.sealed_entries(log_ids, deadline))

    def sealed_tombstone(self, log_id: str, deadline: Deadline) -> tuple[Tombstone, str] | None:
        """Return what is left of an entry that was erased, and its seal; None if it was not."""
        for record, seal in self.chain(deadline):
            if isinstance(record, Tombstone) and record.log_id == log_id:
                return record, seal
        return None

    def sealed_entries(
        self, log_ids: Iterable[str], deadline: Deadline
    ) -> Iterator[tuple[Entry, str]]:
        """Yield the entries with these ids, and the seal of each, in the order asked for."""
        for log_id in log_ids:
            found: tuple[Entry, str] | None = None
            for record, seal in self.chain(deadline):
                if isinstance(record, Entry) and record.log_id == log_id:
                    found = record, seal
                elif isinstance(record, Tombstone) and record.log_id == log_id:
                    found = None
            if found:
                yield found

    def with_digest(self, digest: str, deadline: Deadline) -> str | None:
        """Return the id of the oldest entry whose content has this keyed digest."""
        for entry in self._entries_left(deadline):
            if entry.digest == digest:
                return entry.log_id
        return None

    def search(self, query: Query, deadline: Deadline) -> Iterator[str]:
        """Yield the ids of the entries that match, oldest first: as ``query.matches`` decides."""
        for entry in self._entries_left(deadline):
            if query.matches(entry):
                yield entry.log_id

    def explain(self, query: Query, deadline: Deadline) -> list[tuple[str, str]]:
        """Return the attribute of each term and the indexes that serve it, or that none does."""
        names = (f"deid:{t.name}" if t.side == "deid" else t.name for t in query.terms)
        return [(name, "none: every entry is read") for name in names]

    def uploads(self, log_ids: Iterable[str] | None, deadline: Deadline) -> Iterator[UploadEvent]:
        """Yield upload events, oldest first: of these entries, or of all."""
        return (event for event, _ in self.sealed_uploads(log_ids, deadline))

    def sealed_uploads(
        self, log_ids: Iterable[str] | None, deadline: Deadline
    ) -> Iterator[tuple[UploadEvent, str]]:
        """Yield upload events with their seals, oldest first: of these entries, or of all."""
        wanted = None if log_ids is None else set(log_ids)
        for record, seal in self.chain(deadline):
            if isinstance(record, UploadEvent) and (wanted is None or record.log_id in wanted):
                yield record, seal

    def blocks(self, patients: Collection[str], deadline: Deadline) -> Iterator[Block]:
        """Yield blocks of these patients, by their keyed digests, oldest first."""
        for record in self.everything(deadline):
            if isinstance(record, Block) and record.patient in patients:
                yield record

    def blocks_after(self, after: int, deadline: Deadline) -> BlocksPage:
        """Return all blocks after the cursor, 0 for the beginning, and the last seal of the log.

        Of one state of the log: the last seal tells whether these are all blocks. Raises OlderLog
        for a log of a version that has not a seal for each record.
        """
        found: list[tuple[Block, str]] = []
        head = ""
        for record, seal in self.chain(deadline):
            head = seal
            if isinstance(record, Block):
                found.append((record, seal))
        return BlocksPage(tuple(found[after:]), len(found), head)

    def subject(self, project: str, patient: str, deadline: Deadline) -> str | None:
        """Return the label of a patient, by the keyed digest, within a project; None without one.

        It is the de-identified PatientID of the oldest entry of this patient alone that has one.
        """
        for entry in self._entries_left(deadline):
            if (entry.project, entry.patients) == (project, (patient,)):
                label = entry.deid.get("PatientID", ("",))[0]
                if label:
                    return label
        return None

    def trail(self, deadline: Deadline) -> Iterator[tuple[AccessRow, str]]:
        """Yield the rows of the access trail with their seals, from its beginning."""
        for record, seal in self.chain(deadline):
            if isinstance(record, AccessRow):
                yield record, seal

    def statistics(self, deadline: Deadline) -> Statistics:
        """Count what the log holds."""
        counts: Counter[str] = Counter()
        patients: set[tuple[str, ...]] = set()
        projects: set[str] = set()
        created: list[str] = []
        events: list[UploadEvent] = []
        blocks: dict[tuple[str, str], bool] = {}
        for entry in self._entries_left(deadline):
            counts.update(entries=1, instances=len(entry.instances))
            patients.add(entry.patients)
            projects.add(entry.project)
            created = [*created[:1], entry.created]
        for record in self.everything(deadline):
            counts.update(accesses=isinstance(record, AccessRow))
            counts.update(forgotten=isinstance(record, Tombstone))
            if isinstance(record, UploadEvent):
                events.append(record)
            elif isinstance(record, Block):
                blocks[record.patient, record.project] = not record.lifted
        names = ("entries", "instances", "patients", "projects", "forgotten", "blocked", "accesses")
        counts.update(patients=len(patients - {()}), projects=len(projects))
        counts.update(blocked=sum(blocks.values()))
        copies = Counter(
            (copy.destination, "cleared" if copy.state == "pending" else copy.state)
            for copy in find_copies(events)
        )
        return Statistics(
            {name: counts[name] for name in names},
            sorted((*key, count) for key, count in copies.items()),
            created[0] if created else "",
            created[-1] if created else "",
        )

    def _entries_left(self, deadline: Deadline) -> Iterator[Entry]:
        erased = {r.log_id for r in self.everything(deadline) if isinstance(r, Tombstone)}
        for record in self.everything(deadline):
            if isinstance(record, Entry) and record.log_id not in erased:
                yield record


class NoLog(LogBackend):
    """``none:``, logging switched off on purpose. Keeps nothing, and says so when asked."""

    records = False

    def check(self, deadline: Deadline) -> None:
        return None

    def append(self, records: Sequence[Record], seal: Seal, deadline: Deadline) -> None:
        return None

    def read(self, after: int, deadline: Deadline) -> Page:
        raise LogUnavailable("logging is switched off (url none:), there is nothing to read")

    def erase(
        self, log_ids: Sequence[str], erasure: Erasure, seal: Seal, deadline: Deadline
    ) -> None:
        raise LogUnavailable("logging is switched off (url none:), there is nothing to erase")

    def close(self) -> None:
        return None


class RemoteBackend(LogBackend):
    """A log behind a service that holds its keys.

    The service seals what is appended, and checks what it shows. An entry of an uploader has no
    keyed digests, which the service makes: ``digest``, ``key`` and ``patients`` are empty, and
    ``large`` is by plain SHA-256. ``append`` raises NotAllowed for one of a blocked patient, or
    with a label that is another patient's.
    """

    seals = True

    @abstractmethod
    def find_equal(self, entry: Entry, deadline: Deadline) -> str | None:
        """Return the log id of the entry with the same content; None if the log has none."""

    @abstractmethod
    def fetch_receipt(self, log_id: str, deadline: Deadline) -> Receipt | Tombstone | None:
        """Return the receipt of an entry that the service finds whole, or its tombstone."""

    @abstractmethod
    def find_label(self, project: str, patient_id: str, issuer: str, deadline: Deadline) -> str:
        """Return the label of a patient in a project: the one of before, or else the one to be."""

    @abstractmethod
    def derive_key(self, project: str, deadline: Deadline) -> bytes:
        """Return the key of 32 bytes that makes the UIDs of a project, and no labels."""

    @abstractmethod
    def block(
        self,
        patients: Sequence[tuple[str, str]],
        project: str,
        reason: str,
        lift: bool,
        deadline: Deadline,
    ) -> None:
        """Block patients by (PatientID, issuer), or lift their blocks; durable when it returns."""


def get_key(record: Record) -> Key:
    """Return what a store finds this record by."""
    if isinstance(record, UploadEvent):
        return UploadEvent(record.log_id, "", "", "", "", record.id)
    return type(record), get_id(record)


def select_new(records: Iterable[Record], find: Callable[[Key], Record | None]) -> list[Record]:
    """Return the records that the store does not hold yet, in their order.

    ``find`` gives the record that the store holds under a key. Raises IdConflict or Forgotten as
    ``LogBackend.append`` says.
    """
    new: dict[Key, Record] = {}

    def find_held(key: Key) -> Record | None:
        return new.get(key) or find(key)

    for record in records:
        if isinstance(record, Entry) and find_held((Tombstone, record.log_id)):
            raise Forgotten(record.log_id)
        if isinstance(record, Tombstone) and find_held((Entry, record.log_id)):
            raise IdConflict(record.log_id)  # appending never takes an entry away
        if isinstance(record, Erased):
            if find_held((Entry, record.id)):
                raise IdConflict(record.id)
            new[Erased, f"{len(new)}"] = record  # a place that is there once for every copy
            continue
        key = get_key(record)
        held = find_held(key)
        if held is None:
            new[key] = record
        elif not is_same(held, record):
            raise IdConflict(get_id(record))
    return list(new.values())


def is_same(held: Record, record: Record) -> bool:
    """Return whether the store holds ``record`` already as ``held``.

    When and by whom a record was written is a stamp, not content. An
    access row may have been erased since it was written.
    """
    match held, record:
        case Entry(), Entry():
            return held == replace(record, created=held.created, uploader=held.uploader)
        case UploadEvent(), UploadEvent():
            return held == replace(record, at=held.at, uploader=held.uploader)
        case Block(), Block():
            return held == replace(record, at=held.at, who=held.who)
        case Tombstone(), Tombstone():
            stamped = replace(record.erasure, at=held.erasure.at, who=held.erasure.who)
            return held == replace(record, erasure=stamped)
        case AccessRow(), AccessRow():
            return held in (record, erase_terms(record))
        case _:
            return held == record


def seal_new(seal: Seal, head: str, new: Sequence[Record]) -> list[str]:
    """Return the seals of new records, asked for once. LogError if there is not one for each."""
    if not new:
        return []
    seals = list(seal(head, new))
    if len(seals) != len(new):
        raise LogError("the log did not give one seal for each new record; nothing was written")
    return seals


def make_tombstone(
    log_id: str, created: str, destinations: Iterable[str], erasure: Erasure, project: str
) -> Tombstone:
    """Return what is left of an entry: each destination of its upload events once, in order."""
    return Tombstone(log_id, created, tuple(dict.fromkeys(destinations)), erasure, project)


def iterate_pages(fetch: Callable[[int], tuple[Sequence[T], int]]) -> Iterator[T]:
    """Yield everything, page by page: ``fetch`` returns a page after a cursor, and the next one.

    The cursor of the beginning is 0; one that does not move is the end.
    """
    cursor = 0
    while True:
        page, after = fetch(cursor)
        yield from page
        if after == cursor:
            return
        cursor = after


def iterate_entries(
    read: Callable[[Sequence[str]], tuple[Sequence[tuple[Entry, str]], int]],
    log_ids: Iterable[str],
) -> Iterator[tuple[Entry, str]]:
    """Yield the entries of these ids with their seals.

    ``read`` returns some, and how many of the ids that took.
    """
    ids = iter(log_ids)
    while some := list(islice(ids, IDS_AT_ONCE)):
        while some:
            found, count = read(some)
            yield from found
            some = some[count:]


def iterate_uploads(
    read: Callable[[int, Sequence[str] | None], tuple[Sequence[tuple[UploadEvent, str]], int]],
    log_ids: Iterable[str] | None,
) -> Iterator[tuple[UploadEvent, str]]:
    """Yield the upload events of these entries, or of all, with their seals.

    ``read`` returns a page of them.

    It is given a cursor and few log ids, or None for the events of all entries.
    """
    wanted = None if log_ids is None else frozenset(log_ids)
    if wanted is not None and not wanted:
        return
    few = sorted(wanted) if wanted is not None and len(wanted) <= IDS_AT_ONCE else None
    for event, seal in iterate_pages(lambda cursor: read(cursor, few)):
        if wanted is None or event.log_id in wanted:
            yield event, seal


def estimate_size(entry: Entry) -> int:
    """Return about how many bytes of memory an entry takes."""
    instances = sum(len(instance.originals) + 200 for instance in entry.instances)
    return len(entry.originals) + instances + sum(map(len, entry.large.values()))


def count_fitting(sizes: Iterable[int], most: int) -> int:
    """Return how many records of these sizes make a page of about ``most``: at least one."""
    count = whole = 0
    for size in sizes:
        count, whole = count + 1, whole + size
        if whole > most:
            break
    return count


@dataclass(frozen=True, slots=True)
class Copy:
    """What is known of one acquisition at one destination.

    ``outcome`` is ``pending``, ``uploaded``, ``partial`` or ``failed``; ``at`` and ``uploader`` are
    those of the event that said so; ``withdrawn`` when it was deleted there, as somebody noted, or
    ``""``.
    """

    log_id: str
    destination: str
    outcome: str
    at: str
    withdrawn: str = ""
    uploader: str = ""

    @property
    def state(self) -> str:
        """The outcome, or ``withdrawn`` for what was deleted there and not sent again since."""
        return "withdrawn" if self.withdrawn else self.outcome


def find_copies(events: Iterable[UploadEvent]) -> list[Copy]:
    """Return the copy of each entry at each destination, in the order of their latest events.

    ``events`` are in the order of the log. What was sent again after it was withdrawn is there
    again.
    """
    found: dict[tuple[str, str], Copy] = {}
    for event in events:
        key = event.log_id, event.destination
        before = found.pop(key, Copy(*key, "", ""))
        if event.event == "withdrawn":
            found[key] = replace(before, withdrawn=event.at)
        else:
            outcome = "pending" if event.event == "cleared" else event.event
            found[key] = Copy(*key, outcome, event.at, uploader=event.uploader)
    return list(found.values())


def group_copies(events: Iterable[UploadEvent]) -> dict[str, list[Copy]]:
    """Return the copies of each entry, by log id."""
    found: dict[str, list[Copy]] = {}
    for copy in find_copies(events):
        found.setdefault(copy.log_id, []).append(copy)
    return found
