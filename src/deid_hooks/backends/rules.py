"""The rules of the contract, once: new records, seals, pages, tombstones, latest outcomes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeVar

from deid_hooks.errors import Forgotten, IdConflict, LogError
from deid_hooks.records.chain import erase_terms
from deid_hooks.records.model import (
    AccessRow,
    Block,
    Entry,
    Erasure,
    Record,
    Tombstone,
    UploadEvent,
)

T = TypeVar("T")

IDS_AT_ONCE = 500
"""Ids that a store is asked for in one statement."""

Seal = Callable[[str, Sequence[Record]], Sequence[str]]
"""Returns one seal for each new record, given the last seal of the store; ``""`` for no seal."""

Key = tuple[type[Record], str] | UploadEvent
"""What a store finds a record by: its kind and id; an upload event has none but itself."""


def get_id(record: Record) -> str:
    """Return the id of a record, the log id for what belongs to one entry."""
    return record.id if isinstance(record, AccessRow | Block) else record.log_id


def get_key(record: Record) -> Key:
    """Return what a store finds this record by."""
    return record if isinstance(record, UploadEvent) else (type(record), get_id(record))


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
        key = get_key(record)
        held = find_held(key)
        if held is None:
            new[key] = record
        elif not is_same(held, record):
            raise IdConflict(get_id(record))
    return list(new.values())


def is_same(held: Record, record: Record) -> bool:
    """Return whether the store holds ``record`` already as ``held``.

    When and by whom an entry was written is a stamp, not content. An access row may have been
    erased since it was written.
    """
    if isinstance(held, Entry) and isinstance(record, Entry):
        return held == replace(record, created=held.created, uploader=held.uploader)
    if isinstance(held, AccessRow) and isinstance(record, AccessRow):
        return held in (record, erase_terms(record))
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
    log_id: str, created: str, destinations: Iterable[str], erasure: Erasure
) -> Tombstone:
    """Return what is left of an entry: each destination of its upload events once, in order."""
    return Tombstone(log_id, created, tuple(dict.fromkeys(destinations)), erasure)


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
    read: Callable[[Sequence[str]], tuple[Sequence[Entry], int]], log_ids: Iterable[str]
) -> Iterator[Entry]:
    """Yield the entries of these ids: ``read`` returns some, and how many of the ids that took."""
    ids = iter(log_ids)
    while some := list(islice(ids, IDS_AT_ONCE)):
        while some:
            found, count = read(some)
            yield from found
            some = some[count:]


def iterate_uploads(
    read: Callable[[int, Sequence[str] | None], tuple[Sequence[UploadEvent], int]],
    log_ids: Iterable[str] | None,
) -> Iterator[UploadEvent]:
    """Yield the upload events of these entries, or of all: ``read`` returns a page of them.

    It is given a cursor and few log ids, or None for the events of all entries.
    """
    wanted = None if log_ids is None else frozenset(log_ids)
    if wanted is not None and not wanted:
        return
    few = sorted(wanted) if wanted is not None and len(wanted) <= IDS_AT_ONCE else None
    for event in iterate_pages(lambda cursor: read(cursor, few)):
        if wanted is None or event.log_id in wanted:
            yield event


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
