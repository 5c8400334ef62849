"""Copy a log from one store to another: every record in its order, repeatable, verified."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from deid_hooks.backends.contract import LogBackend, Page, get_key
from deid_hooks.deadline import Deadline
from deid_hooks.errors import AppendUnknown, DeidHooksError, Forgotten, IdConflict, LogError
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


class _OtherChain(LogError):
    """The access trail of the target does not continue as that of the source does."""


def copy_log(
    source: LogBackend, target: LogBackend, seconds: float, report: Callable[[int], None]
) -> Sum:
    """Bring everything that ``source`` holds into ``target``, and return what both hold then.

    Seals come along as they are. An interrupted copy is repeated: what is there already is passed
    over. What was forgotten at the source since then is erased at the target. ``seconds`` is the
    deadline of each step, ``report`` is called with the number of records that are done. Memory is
    bounded by a page. Raises LogError, or CopyFailed where the target holds something else.
    """
    cursor, head = _find_common_beginning(source, target, seconds, report)
    while (page := source.read(cursor, Deadline(seconds))).records:
        try:
            _append(target, list(zip(page.records, page.seals, strict=True)), head, seconds)
        except (IdConflict, Forgotten, _OtherChain) as error:
            raise CopyFailed(f"The target holds another log than the source: {error}") from None
        cursor, head = page.cursor, _find_last(page.seals, head)
        report(len(page.records))
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
    for page in _read_pages(log, seconds):
        for record in page.records:
            counts[type(record).__name__] += 1
            text = json.dumps(encode_record(record), sort_keys=True)
            total += int.from_bytes(hashlib.sha256(text.encode()).digest())
    return Sum(counts, total % _MODULUS)


def _find_common_beginning(
    source: LogBackend, target: LogBackend, seconds: float, report: Callable[[int], None]
) -> tuple[int, str]:
    """Return the source's cursor up to which the target holds the same pages, and the last seal."""
    held = (record for page in _read_pages(target, seconds) for record in page.records)
    cursor, head = 0, ""
    for page in _read_pages(source, seconds):
        if any(next(held, None) != record for record in page.records):
            break
        cursor, head = page.cursor, _find_last(page.seals, head)
        report(len(page.records))
    return cursor, head


def _read_pages(log: LogBackend, seconds: float) -> Iterator[Page]:
    cursor = 0
    while (page := log.read(cursor, Deadline(seconds))).records:
        yield page
        cursor = page.cursor


def _find_last(seals: Sequence[str], head: str) -> str:
    return next((seal for seal in reversed(seals) if seal), head)


def _append(
    target: LogBackend, sealed: Sequence[tuple[Record, str]], head: str, seconds: float
) -> None:
    """Write records with their seals, which follow ``head``, the last seal before them."""
    records = [record for record, _ in sealed]
    try:
        _write(target, sealed, head, seconds)
    except IdConflict:
        if len(records) > 1:
            for record, seal in sealed:
                _append(target, [(record, seal)], head, seconds)
                head = seal or head
        elif isinstance(records[0], Tombstone):  # forgotten since it was copied
            target.erase([records[0].log_id], records[0].erasure, Deadline(seconds))
        else:
            raise


def _write(
    target: LogBackend, sealed: Sequence[tuple[Record, str]], head: str, seconds: float
) -> None:
    seals, before = {}, {}
    for record, seal in sealed:
        seals[get_key(record)], before[get_key(record)] = seal, head
        head = seal or head

    def keep_seals(last: str, new: Sequence[Record]) -> list[str]:
        first = next((record for record in new if seals[get_key(record)]), None)
        if first is not None and before[get_key(first)] != last:
            raise _OtherChain("its access trail does not continue as the source's does")
        return [seals[get_key(record)] for record in new]

    records = [record for record, _ in sealed]
    try:
        target.append(records, keep_seals, Deadline(seconds))
    except AppendUnknown:
        target.append(records, keep_seals, Deadline(seconds))
