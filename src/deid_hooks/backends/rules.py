"""Which records of an append are new: the rules of the contract, for backends that look up keys."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import replace

from deid_hooks.errors import Forgotten, IdConflict, TrailMoved
from deid_hooks.records.chain import same_row
from deid_hooks.records.model import AccessRow, Block, Entry, Record, Tombstone, UploadEvent

Key = Hashable


def get_key(record: Record) -> Key:
    """What a store finds a record by: its kind and id; an upload event has none but itself."""
    if isinstance(record, UploadEvent):
        return record
    return type(record).__name__, _id_of(record)


def unwritten(
    records: Iterable[Record], find: Callable[[Key], Record | None], head: str
) -> list[Record]:
    """The records that the store does not hold yet, in their order.

    ``find`` gives the record that the store holds under a key, ``head`` is the seal of the last
    access row. Raises IdConflict, Forgotten or TrailMoved as ``LogBackend.append`` says.
    """
    new: dict[Key, Record] = {}

    def held(key: Key) -> Record | None:
        return new.get(key) or find(key)

    for record in records:
        if isinstance(record, Entry) and held((Tombstone.__name__, record.log_id)):
            raise Forgotten(record.log_id)
        if isinstance(record, Tombstone) and held((Entry.__name__, record.log_id)):
            raise IdConflict(record.log_id)
        key = get_key(record)
        known = held(key)
        if known is None:
            if isinstance(record, AccessRow):
                if record.previous != head:
                    raise TrailMoved
                head = record.seal
            new[key] = record
        elif not _same(known, record):
            raise IdConflict(_id_of(record))
    return list(new.values())


def _id_of(record: Record) -> str:
    return record.id if isinstance(record, AccessRow | Block) else record.log_id


def _same(known: Record, record: Record) -> bool:
    if isinstance(known, Entry) and isinstance(record, Entry):
        return known == replace(record, created=known.created, uploader=known.uploader)
    if isinstance(known, AccessRow) and isinstance(record, AccessRow):
        return same_row(known, record)
    return known == record
