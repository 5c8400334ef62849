"""Copy a log from one store to another: every record in its order, repeatable, verified."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from deid_hooks.backends.contract import LogBackend, Page, Seal, get_key
from deid_hooks.deadline import Deadline
from deid_hooks.errors import AppendUnknown, DeidHooksError, Forgotten, IdConflict, LogError
from deid_hooks.records.chain import parse_seal
from deid_hooks.records.json_codec import encode_record
from deid_hooks.records.model import Erased, Record, Tombstone

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
    """The target does not begin, or does not go on, as the source does."""


def copy_log(
    source: LogBackend, target: LogBackend, seconds: float, report: Callable[[int], None]
) -> Sum:
    """Bring everything that ``source`` holds into ``target``, and return what both hold then.

    The seals come along as they are, but into a service, which seals itself. An interrupted copy is
    repeated: what is there already is passed over. What was forgotten at the source since then is
    erased at the target. ``seconds`` is the deadline of each step, ``report`` is called with the
    number of records that are done. Memory is bounded by a page. Raises LogError, or CopyFailed
    where the target holds something else.
    """
    try:
        cursor, head = _find_common_beginning(source, target, seconds, report)
        while (page := source.read(cursor, Deadline(seconds))).records:
            rows = [row for row in _pair(page) if not (target.seals and isinstance(row[0], Erased))]
            _append(target, rows, head, seconds)
            cursor, head = page.cursor, page.seals[-1]
            report(len(page.records))
    except (IdConflict, Forgotten, _OtherChain) as error:
        raise CopyFailed(f"The target holds another log than the source: {error}") from None
    at_source, at_target = (compute_sum(log, seconds, target.seals) for log in (source, target))
    if at_source != at_target:
        raise CopyFailed(
            "The copy does not hold what the source holds: stop the uploaders that write to either"
            f" and copy again. Records at the source: {at_source.total}, in the copy:"
            f" {at_target.total}."
        )
    return at_target


def compute_sum(log: LogBackend, seconds: float, without_erased: bool = False) -> Sum:
    """Read a log whole and sum it up, if need be without the places of erased entries."""
    counts: Counter[str] = Counter()
    total = 0
    for page in _read_pages(log, seconds):
        for record in page.records:
            if without_erased and isinstance(record, Erased):
                continue
            counts[type(record).__name__] += 1
            text = json.dumps(encode_record(record), sort_keys=True)
            total += int.from_bytes(hashlib.sha256(text.encode()).digest())
    return Sum(counts, total % _MODULUS)


def _find_common_beginning(
    source: LogBackend, target: LogBackend, seconds: float, report: Callable[[int], None]
) -> tuple[int, str]:
    """Return the source's cursor up to which the target holds the same, and the last seal there.

    Of a page that the target holds in part the rest is appended. Raises _OtherChain.
    """
    held = (row for page in _read_pages(target, seconds) for row in _pair(page))
    cursor, head = 0, ""
    for page in _read_pages(source, seconds):
        rows = _pair(page)
        if target.seals:
            if any(next(held, (None, ""))[0] != record for record, _ in rows):
                break
        else:
            there = [other for _, other in zip(rows, held, strict=False)]  # takes no more of held
            for row, other in zip(rows, there, strict=False):
                if not _has_same_place(row, other):
                    raise _OtherChain("its records are not the first ones of the source")
            head = rows[len(there) - 1][1] if there else head
            if len(there) < len(rows):
                _append(target, rows[len(there) :], head, seconds)
        cursor, head = page.cursor, page.seals[-1]
        report(len(page.records))
    return cursor, head


def _has_same_place(row: tuple[Record, str], other: tuple[Record, str]) -> bool:
    """Return whether two records are one by their links, whatever was erased since."""
    here, there = parse_seal(row[1]), parse_seal(other[1])
    if here is None or there is None:
        return row == other
    return (here.n, here.link) == (there.n, there.link)


def _pair(page: Page) -> list[tuple[Record, str]]:
    return list(zip(page.records, page.seals, strict=True))


def _read_pages(log: LogBackend, seconds: float) -> Iterator[Page]:
    cursor = 0
    while (page := log.read(cursor, Deadline(seconds))).records:
        yield page
        cursor = page.cursor


def _append(
    target: LogBackend, sealed: Sequence[tuple[Record, str]], head: str, seconds: float
) -> None:
    """Write records with their seals, which follow ``head``, the last seal before them."""
    records = [record for record, _ in sealed]
    keep_seals = _make_keeper(sealed, head)
    try:
        try:
            target.append(records, keep_seals, Deadline(seconds))
        except AppendUnknown:
            if any(isinstance(record, Erased) for record in records):
                raise  # it can't be told whether their places are there: copy again
            target.append(records, keep_seals, Deadline(seconds))
    except IdConflict:
        if len(records) > 1:
            for record, seal in sealed:
                _append(target, [(record, seal)], head, seconds)
                head = seal
        elif isinstance(records[0], Tombstone):  # forgotten since it was copied
            log_id, erasure = records[0].log_id, records[0].erasure
            target.erase([log_id], erasure, keep_seals, Deadline(seconds))
        else:
            raise


def _make_keeper(sealed: Sequence[tuple[Record, str]], head: str) -> Seal:
    """Return what gives each record the seal that it has already, where it follows the last one."""
    seals, before = {}, {}
    for record, seal in sealed:
        seals[get_key(record)], before[get_key(record)] = seal, head
        head = seal

    def keep_seals(last: str, new: Sequence[Record]) -> list[str]:
        wanted, there = parse_seal(before[get_key(new[0])]), parse_seal(last)
        if (wanted and wanted.link) != (there and there.link):
            raise _OtherChain("its last record is not the one before these at the source")
        return [seals[get_key(record)] for record in new]

    return keep_seals
