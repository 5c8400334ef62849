"""From one store to another: every record in its order, repeated without harm, and verified."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from deid_hooks.backends.contract import LogBackend, Page
from deid_hooks.deadline import Deadline
from deid_hooks.errors import AppendUnknown, DeidHooksError, Forgotten, IdConflict, TrailMoved
from deid_hooks.records.json_codec import encode_record
from deid_hooks.records.model import Record, Tombstone

_MODULUS = 1 << 256


class CopyFailed(DeidHooksError):
    """Source and target differ after all was copied, or can't be brought together."""


@dataclass(frozen=True, slots=True)
class Sum:
    """What a store holds: how many records of each kind, and a digest that ignores their order."""

    counts: Counter[str]
    digest: int

    @property
    def total(self) -> int:
        """Records of every kind."""
        return sum(self.counts.values())


def copy_log(
    source: LogBackend, target: LogBackend, seconds: float, told: Callable[[int], None]
) -> Sum:
    """Bring everything that ``source`` holds into ``target``, and return what both hold then.

    An interrupted copy is repeated: what is there already is passed over. What was forgotten at the
    source since then is erased at the target. ``seconds`` is the deadline of each step, ``told``
    hears how many records are done. Memory is bounded by a page. Raises LogError, or CopyFailed
    where the target holds something else.
    """
    cursor = _common_beginning(source, target, seconds, told)
    while (page := source.read(cursor, Deadline(seconds))).records:
        try:
            _append(target, list(page.records), seconds)
        except (IdConflict, Forgotten, TrailMoved) as error:
            raise CopyFailed(f"The target holds another log than the source: {error}") from None
        cursor = page.cursor
        told(len(page.records))
    at_source, at_target = compute_sum(source, seconds), compute_sum(target, seconds)
    if at_source != at_target:
        raise CopyFailed(
            "The copy does not hold what the source holds: stop the uploaders that write to either"
            f" and copy again. Records at the source: {at_source.total}, in the copy:"
            f" {at_target.total}."
        )
    return at_target


def compute_sum(log: LogBackend, seconds: float) -> Sum:
    """Read a log whole and sum it up."""
    counts: Counter[str] = Counter()
    total = 0
    for page in _pages(log, seconds):
        for record in page.records:
            counts[type(record).__name__] += 1
            text = json.dumps(encode_record(record), sort_keys=True)
            total += int.from_bytes(hashlib.sha256(text.encode()).digest())
    return Sum(counts, total % _MODULUS)


def _common_beginning(
    source: LogBackend, target: LogBackend, seconds: float, told: Callable[[int], None]
) -> int:
    """The cursor of the source up to which the target holds the same records, by whole pages."""
    held = (record for page in _pages(target, seconds) for record in page.records)
    cursor = 0
    for page in _pages(source, seconds):
        if any(next(held, None) != record for record in page.records):
            break
        cursor = page.cursor
        told(len(page.records))
    return cursor


def _pages(log: LogBackend, seconds: float) -> Iterator[Page]:
    cursor = 0
    while (page := log.read(cursor, Deadline(seconds))).records:
        yield page
        cursor = page.cursor


def _append(target: LogBackend, records: list[Record], seconds: float) -> None:
    try:
        _write(target, records, seconds)
    except IdConflict:
        if len(records) > 1:
            for record in records:
                _append(target, [record], seconds)
        elif isinstance(records[0], Tombstone):  # forgotten since it was copied
            target.erase([records[0].log_id], records[0].erasure, Deadline(seconds))
        else:
            raise


def _write(target: LogBackend, records: list[Record], seconds: float) -> None:
    try:
        target.append(records, Deadline(seconds))
    except AppendUnknown:
        target.append(records, Deadline(seconds))
