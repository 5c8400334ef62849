"""Search and report for administrators: columns, sorting, bulk, entries by UID, what left."""

from __future__ import annotations

import csv
import heapq
import json
from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from itertools import chain, islice
from operator import itemgetter
from typing import Any

from deid_hooks.access import PAGE, AccessRecorder
from deid_hooks.backends.contract import Copy, group_copies
from deid_hooks.batches import split_batches
from deid_hooks.errors import TermError, UnusableDataset
from deid_hooks.log import Log
from deid_hooks.query.conditions import Equal, Query, Term, collect_values, find_vr
from deid_hooks.query.parser import parse_attribute, parse_terms
from deid_hooks.records.keys import list_identities
from deid_hooks.records.model import Entry, Instance, fold, make_readable, parse_log_id

MOST_SORTED = 1_000_000
_VALUES_A_ROW = 100  # of the access trail
_NUMBERS = ("DS", "FD", "FL", "IS", "SL", "SS", "SV", "UL", "US", "UV")

Row = dict[str, Any]


def parse_columns(names: Iterable[str]) -> dict[str, Term]:
    """Return the attributes that these columns show. Raises TermError for a name that is none."""
    return {name: _parse_attribute(name) for name in names}


def make_rows(log: Log, log_ids: Iterable[str], columns: Mapping[str, Term]) -> Iterator[Row]:
    """Yield a row with ``id`` and the columns for each entry, in the order of the ids."""
    if not columns:
        yield from ({"id": log_id} for log_id in log_ids)
        return
    for entry in log.entries(log_ids):
        values = {name: _join(collect_values(term, entry)) for name, term in columns.items()}
        yield {"id": entry.log_id, **values}


def sort_rows(rows: Iterable[Row], column: str, limit: int | None) -> Iterator[Row]:
    """Return rows by the values of a column; ``-StudyDate`` the greatest first.

    Columns of numbers are sorted by number, others as text. Of several values the first counts.
    Rows without a value, or with what is no number in a column of numbers, come last. At most
    ``MOST_SORTED`` are kept in memory: TermError for more, unless there is a limit.
    """
    backwards, name = column.startswith("-"), column.removeprefix("-")
    numbers = name != "id" and find_vr(_parse_attribute(name).name) in _NUMBERS
    with_key: list[tuple[Any, Row]] = []
    without: list[Row] = []
    for page in split_batches(rows, PAGE):
        for row in page:
            key = _make_key(row[name], numbers)
            if key is None:
                without.append(row)
            else:
                with_key.append((key, row))
        if limit is not None:
            pick = heapq.nlargest if backwards else heapq.nsmallest
            with_key, without = pick(limit, with_key, itemgetter(0)), without[:limit]
        elif len(with_key) + len(without) > MOST_SORTED:
            raise TermError(f"more than {MOST_SORTED:,} can't be sorted: add terms, or --limit")
    with_key.sort(key=itemgetter(0), reverse=backwards)
    return islice(chain((row for _, row in with_key), without), limit)


def _make_key(value: str | list[str] | None, numbers: bool) -> Decimal | str | None:
    """Return what a value is sorted by; None if it can't be compared with the others."""
    first = value[0] if isinstance(value, list) else value
    if first is None or not numbers:
        return first
    try:
        number = Decimal(first)
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def read_values(lines: Iterable[str], header: str) -> Iterator[str]:
    """Yield the values of a column of a CSV file; of a file without that header, each line is one.

    Raises TermError if the file has several columns and none of that name, or is no CSV.
    """
    rows = _read_csv(lines)
    first = next(rows, None)
    if first is None:
        return
    names = [name.strip().lower() for name in first]
    if header.lower() in names:
        place = names.index(header.lower())
    elif len(first) == 1:
        place, rows = 0, chain([first], rows)
    else:
        raise TermError(f"the file has no column {header}; its first line must name its columns")
    for row in rows:
        if row:
            yield row[place].strip() if place < len(row) else ""


def _read_csv(lines: Iterable[str]) -> Iterator[list[str]]:
    # Strict: after a lost quote everything that follows would be one value, and not be found.
    rows = csv.reader((line.removeprefix("\ufeff") for line in lines), strict=True)
    try:
        yield from rows
    except csv.Error:
        raise TermError(f"the list is no CSV: at line {rows.line_num}") from None


def find_each(
    access: AccessRecorder,
    values: Iterable[str],
    keyword: str,
    terms: Sequence[str],
    header: str,
    columns: Mapping[str, Term],
) -> Iterator[Row]:
    """Yield what each value finds, in their order: rows with ``header``, ``found`` and ``id``.

    A value that finds nothing has a row, too. What is about to be shown is in the trail before.
    """
    asked: list[str] = []
    waiting: list[tuple[str, str | None]] = []
    for number, value in enumerate(values, 1):
        text = _write_term(keyword, value)
        asked.append(text)
        log_id = None
        for log_id in _search(access.log, text, terms, number) if value else ():
            waiting.append((value, log_id))
            if len(waiting) == PAGE:
                yield from _show_pairs(access, [*terms, *asked], waiting, header, columns)
                asked, waiting = [text], []
        if log_id is None:
            waiting.append((value, None))
        if len(asked) >= _VALUES_A_ROW:
            yield from _show_pairs(access, [*terms, *asked], waiting, header, columns)
            asked, waiting = [], []
    if asked:
        yield from _show_pairs(access, [*terms, *asked], waiting, header, columns)


def _write_term(keyword: str, value: str) -> str:
    """Return a search term that takes the value literally, but for dates and times."""
    sign = "=" if find_vr(parse_attribute(keyword).name) in ("DA", "DT", "TM") else "=="
    return f"{keyword}{sign}{value}"


def _search(log: Log, text: str, terms: Sequence[str], number: int) -> Iterator[str]:
    try:
        query: Query = parse_terms([text, *terms])
    except TermError as error:
        raise TermError(f"value {number}: {error}") from None
    return log.search(query)


def _show_pairs(
    access: AccessRecorder,
    asked: Sequence[str],
    pairs: Sequence[tuple[str, str | None]],
    header: str,
    columns: Mapping[str, Term],
) -> Iterator[Row]:
    ids = list(dict.fromkeys(log_id for _, log_id in pairs if log_id))
    access.record("\n".join(asked), ids)
    known = {row["id"]: row for row in make_rows(access.log, ids, columns)}
    for value, log_id in pairs:
        row = known.get(log_id) if log_id else None
        yield {**(row or {"id": None}), header: value, "found": row is not None}


def _parse_attribute(name: str) -> Term:
    try:
        return parse_attribute(name)
    except TermError as error:
        if "did you mean" in str(error):
            raise
        raise TermError(f"{name}: neither DICOM nor the log has such a keyword") from None


def _join(values: Iterable[str | None]) -> str | list[str] | None:
    return unwrap(list(dict.fromkeys(value for value in values if value is not None)))


@dataclass(frozen=True, slots=True)
class Selection:
    """Log ids, or else a query. ``asked`` is what the access trail holds of it."""

    log_ids: tuple[str, ...]
    query: Query | None
    asked: str = field(repr=False)

    def search(self, log: Log) -> Iterator[str]:
        """Yield the log ids that were named, or that the terms find now."""
        return iter(self.log_ids) if self.query is None else log.search(self.query)


def parse_selection(texts: Sequence[str]) -> Selection:
    """Return what these texts select. Raises TermError for a bad term, or ids among terms."""
    log_ids = [parse_log_id(text) for text in texts]
    found = tuple(dict.fromkeys(log_id for log_id in log_ids if log_id))
    if found and None in log_ids:
        raise TermError("name log ids, or give search terms (id=LOG_ID is one), not both")
    return Selection(found, None if found else parse_terms(texts), "\n".join(texts))


_UIDS_AT_ONCE = 400
_KEPT = 16
_ANY_OTHER_UID = "FrameOfReferenceUID"  # stands for every UID that is not an instance's


class Directory:
    """Finds entries by the de-identified UIDs that they hold."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._kept: deque[dict[str, tuple[Entry, ...]]] = deque(maxlen=_KEPT)

    def find_instance(self, uid: str) -> tuple[Entry, ...]:
        """Return the entries that hold an instance with this de-identified SOP Instance UID.

        Files of a series mostly come together, so the whole entry is kept for the next ones.
        Raises UnusableDataset if an entry is not what was written.
        """
        for family in self._kept:
            if uid in family:
                return family[uid]
        first = list(self.find_instances([uid]))
        if not first:
            return ()
        uids = {instance.deid_uid for entry in first for instance in entry.instances}
        family = {}
        for entry in self.find_instances(uids):  # another entry may hold some of them, too
            for deid_uid in uids.intersection(entry.deid_uids):
                family[deid_uid] = (*family.get(deid_uid, ()), entry)
        self._kept.append(family)
        return family.get(uid, ())

    def find_instances(self, uids: Iterable[str]) -> Iterator[Entry]:
        """Yield the entries that hold one of these de-identified SOP Instance UIDs, once each."""
        return self._find("SOPInstanceUID", uids)

    def find_study(self, uid: str) -> Iterator[Entry]:
        """Yield the entries whose de-identified images belong to this study."""
        return self._find("StudyInstanceUID", [uid])

    def find_other_uids(self, uids: Iterable[str]) -> Iterator[Entry]:
        """Yield the entries in which one of these de-identified UIDs stands for another."""
        return self._find(_ANY_OTHER_UID, uids)

    def _find(self, keyword: str, uids: Iterable[str]) -> Iterator[Entry]:
        seen: set[str] = set()
        for some in split_batches(sorted({make_readable(uid) for uid in uids}), _UIDS_AT_ONCE):
            query = Query((Term("deid", keyword, tuple(map(Equal, some))),))
            for entry in self._log.entries(self._log.search(query)):
                if entry.log_id not in seen:
                    seen.add(entry.log_id)
                    if not self._log.is_whole(entry):
                        raise UnusableDataset(
                            f"the entry {entry.log_id} is not what was written: it was altered in"
                            " the store, or written with another site secret"
                        )
                    yield entry


def identify_person(entry: Entry) -> Hashable | None:
    """Return what tells the persons of two entries apart; None where nothing in the entry does.

    PatientID and issuer; without a PatientID the name and the date of birth.
    """
    if entry.patients:
        return tuple(list_identities(entry)) or entry.patients
    name = fold(entry.fields.get("PatientName", ("",))[0])
    birth_date = entry.fields.get("PatientBirthDate", ("",))[0]
    return (name, birth_date) if name or birth_date else None


def merge_originals(entry: Entry, instance: Instance | None) -> dict[str, object]:
    """Return the originals of one instance, or of all instances alike, by the path of each."""
    own = json.loads(instance.originals) if instance else {}
    return {**json.loads(entry.originals), **own}


PATIENT = ("PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate")
COLUMNS = [
    *("id", "project", *PATIENT),
    *("subject", "blocked", "timestamp", "StudyDate", "Modality", "instances"),
    *("destination", "outcome", "at", "withdrawn"),
    *("deid_StudyInstanceUID", "deid_SeriesInstanceUID", "deid_SOPInstanceUID"),
]


@dataclass(frozen=True, slots=True)
class Line:
    """One acquisition at one destination. ``person`` is equal for one (PatientID, issuer)."""

    log_id: str
    person: Hashable
    row: dict[str, Any]


def report(log: Log, log_ids: Iterable[str]) -> Iterator[Line]:
    """Yield the lines of these entries, in their order, some entries at a time."""
    blocked: dict[Hashable, bool] = {}
    for page in split_batches(log_ids, PAGE):
        copies = group_copies(log.uploads(page))
        for entry in log.entries(page):
            key = entry.patients, entry.project
            if key not in blocked:
                if len(blocked) > PAGE:
                    blocked.clear()
                blocked[key] = log.is_blocked(entry)
            person = (identify_person(entry), entry.project)
            for copy in copies.get(entry.log_id) or [Copy(entry.log_id, "", "", "")]:
                yield Line(entry.log_id, person, _make_row(entry, copy, blocked[key]))


def _make_row(entry: Entry, copy: Copy, blocked: bool) -> dict[str, Any]:
    return {
        "id": entry.log_id,
        "project": entry.project,
        **{keyword: unwrap(entry.fields.get(keyword)) for keyword in PATIENT},
        "subject": unwrap(entry.deid.get("PatientID")),
        "blocked": blocked,
        "timestamp": entry.timestamp,
        "StudyDate": unwrap(entry.fields.get("StudyDate")),
        "Modality": unwrap(entry.fields.get("Modality")),
        "instances": len(entry.instances),
        "destination": copy.destination or None,
        "outcome": copy.outcome or None,
        "at": copy.at or None,
        "withdrawn": copy.withdrawn or None,
        "deid_StudyInstanceUID": unwrap(entry.deid.get("StudyInstanceUID")),
        "deid_SeriesInstanceUID": unwrap(entry.deid.get("SeriesInstanceUID")),
        "deid_SOPInstanceUID": list(entry.deid_uids),
    }


def unwrap(values: Sequence[str] | None) -> str | list[str] | None:
    """Return a single value itself, several as a list, and None for none."""
    return None if not values else values[0] if len(values) == 1 else list(values)
