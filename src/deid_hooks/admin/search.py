"""Search for people: columns beside the ids, sorted answers, and many values at once."""

from __future__ import annotations

import csv
import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

from deid_hooks.admin.access import PAGE, AccessRecorder
from deid_hooks.errors import TermError
from deid_hooks.log import Log
from deid_hooks.query.conditions import Query, Term, collect_values, find_vr
from deid_hooks.query.parser import parse_attribute, parse_terms
from deid_hooks.records.model import parse_log_id

MOST_SORTED = 1_000_000
_VALUES_A_LOOK = 100

Row = dict[str, Any]


def columns_named(names: Iterable[str]) -> dict[str, Term]:
    """The attributes that these columns show. Raises TermError for a name that is none."""
    return {name: _attribute(name) for name in names}


def rows_of(recorder: Log, log_ids: Iterable[str], columns: Mapping[str, Term]) -> Iterator[Row]:
    """A row with ``id`` and the columns for each entry, in the order of the ids."""
    if not columns:
        yield from ({"id": log_id} for log_id in log_ids)
        return
    for entry in recorder.entries(log_ids):
        values = {name: _plain(collect_values(term, entry)) for name, term in columns.items()}
        yield {"id": entry.log_id, **values}


def sorted_rows(rows: Iterable[Row], column: str, limit: int | None) -> Iterator[Row]:
    """Rows by the values of a column; ``-StudyDate`` from the end. Those without one come last.

    At most ``MOST_SORTED`` are kept in memory: TermError for more, unless there is a limit.
    """
    backwards, name = column.startswith("-"), column.removeprefix("-")
    with_value: list[Row] = []
    without: list[Row] = []

    def key(row: Row) -> str:
        value = row[name]
        return str(value[0] if isinstance(value, list) else value)

    remaining = iter(rows)
    while page := list(islice(remaining, PAGE)):
        with_value += (row for row in page if row[name] is not None)
        without += (row for row in page if row[name] is None)
        if limit is not None:
            pick = heapq.nlargest if backwards else heapq.nsmallest
            with_value, without = pick(limit, with_value, key), without[:limit]
        elif len(with_value) + len(without) > MOST_SORTED:
            raise TermError(f"more than {MOST_SORTED:,} can't be sorted: add terms, or --limit")
    with_value.sort(key=key, reverse=backwards)
    return islice(chain(with_value, without), limit)


def values_in(lines: Iterable[str], header: str) -> Iterator[str]:
    """The values of a column of a CSV file; of a file without that header, each line is one.

    Raises TermError if the file has several columns and none of that name, or is no CSV.
    """
    rows = _rows(lines)
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


def _rows(lines: Iterable[str]) -> Iterator[list[str]]:
    # Strict: after a lost quote everything that follows would be one value, and not be found.
    rows = csv.reader((line.removeprefix("\ufeff") for line in lines), strict=True)
    try:
        yield from rows
    except csv.Error:
        raise TermError(f"the list is no CSV: at line {rows.line_num}") from None


def find_each(
    looker: AccessRecorder,
    values: Iterable[str],
    keyword: str,
    terms: Sequence[str],
    header: str,
    columns: Mapping[str, Term],
) -> Iterator[Row]:
    """What is found for each value, in their order: rows with ``header``, ``found`` and ``id``.

    A value that finds nothing has a row, too. What is about to be shown is in the trail before.
    """
    asked: list[str] = []
    waiting: list[tuple[str, str | None]] = []
    for number, value in enumerate(values, 1):
        text = _term(keyword, value)
        asked.append(text)
        log_id = None
        for log_id in _search(looker.recorder, text, terms, number) if value else ():
            waiting.append((value, log_id))
            if len(waiting) == PAGE:
                yield from _shown(looker, [*terms, *asked], waiting, header, columns)
                asked, waiting = [text], []
        if log_id is None:
            waiting.append((value, None))
        if len(asked) >= _VALUES_A_LOOK:
            yield from _shown(looker, [*terms, *asked], waiting, header, columns)
            asked, waiting = [], []
    if asked:
        yield from _shown(looker, [*terms, *asked], waiting, header, columns)


def _term(keyword: str, value: str) -> str:
    """Values are taken literally; only a date or time may be written in another way."""
    sign = "=" if find_vr(parse_attribute(keyword).name) in ("DA", "DT", "TM") else "=="
    return f"{keyword}{sign}{value}"


def _search(recorder: Log, text: str, terms: Sequence[str], number: int) -> Iterator[str]:
    try:
        query: Query = parse_terms([text, *terms])
    except TermError as error:
        raise TermError(f"value {number}: {error}") from None
    return recorder.search(query)


def _shown(
    looker: AccessRecorder,
    asked: Sequence[str],
    pairs: Sequence[tuple[str, str | None]],
    header: str,
    columns: Mapping[str, Term],
) -> Iterator[Row]:
    ids = list(dict.fromkeys(log_id for _, log_id in pairs if log_id))
    looker.record("\n".join(asked), ids)
    known = {row["id"]: row for row in rows_of(looker.recorder, ids, columns)}
    for value, log_id in pairs:
        row = known.get(log_id) if log_id else None
        yield {**(row or {"id": None}), header: value, "found": row is not None}


def _attribute(name: str) -> Term:
    try:
        return parse_attribute(name)
    except TermError as error:
        if "did you mean" in str(error):
            raise
        raise TermError(f"{name}: neither DICOM nor the log has such a keyword") from None


def _plain(values: Sequence[str | None]) -> str | list[str] | None:
    distinct = list(dict.fromkeys(value for value in values if value is not None))
    return distinct if len(distinct) > 1 else distinct[0] if distinct else None


@dataclass(frozen=True, slots=True)
class Selection:
    """Log ids, or else a query. ``asked`` is how it stands in the access trail."""

    log_ids: tuple[str, ...]
    query: Query | None
    asked: str = field(repr=False)

    def search(self, recorder: Log) -> Iterator[str]:
        """The log ids, those that were named or that the terms find now."""
        if self.query is None:
            return iter(self.log_ids)
        return recorder.search(self.query)


def selected(texts: Sequence[str]) -> Selection:
    """What these texts select. Raises TermError for ids among terms, and what ``parse`` raises."""
    log_ids = [parse_log_id(text) for text in texts]
    found = tuple(dict.fromkeys(log_id for log_id in log_ids if log_id))
    if found and None in log_ids:
        raise TermError("name log ids, or give search terms (id=LOG_ID is one), not both")
    return Selection(found, None if found else parse_terms(texts), "\n".join(texts))


_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "'")


def safe_cell(text: str) -> str:
    """``text`` with an apostrophe before what could start a formula, and before an apostrophe."""
    return f"'{text}" if text.startswith(_STARTS) else text


def plain_cell(cell: str) -> str:
    """The text that :func:`safe_cell` made into ``cell``."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(_STARTS) else cell
