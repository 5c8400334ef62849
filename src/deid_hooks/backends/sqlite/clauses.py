"""From search terms to SQL that finds every entry they match, and as few others as it can.

The reference, ``Query.matches``, then decides. So a clause may find too much, never too little.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from deid_hooks.backends.sqlite.rows import encode_cell
from deid_hooks.backends.sqlite.schema import INDEXED_COLUMNS
from deid_hooks.dicom.dictionary import lookup_tag
from deid_hooks.query.conditions import (
    UNIVERSAL,
    Between,
    Condition,
    Equal,
    Query,
    Term,
    Wildcard,
    Words,
    find_vr,
)
from deid_hooks.query.names import simplify_words, split_name_words
from deid_hooks.records.fields import DEID_FIELDS, INDEXED_FIELDS

_NUMERIC_VRS = frozenset(("DS", "FD", "FL", "IS", "SL", "SS", "SV", "UL", "US", "UV"))
_MOST_ALTERNATIVES = 400  # SQLite bounds the length of a statement and its parameters


@dataclass(frozen=True, slots=True)
class Clause:
    """A condition on rows of ``deid_log``; ``indexed`` if SQLite finds them without a scan.

    ``operator`` and ``parts`` tell of what it is made, for servers that need it put otherwise.
    """

    sql: str
    values: tuple[str | bytes, ...] = field(repr=False)
    indexed: bool = False
    operator: str = ""
    parts: tuple[Clause, ...] = ()


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the values of an attribute are: a column, a table of parts, in JSON under a needle.

    Further values, and the parts of one, are in ``deid_value`` under ``keyword``.
    """

    keyword: str
    column: str | None = None
    table: str | None = None
    needle: str | None = None


def translate(query: Query, scan: bool) -> Clause:
    """What rows must meet to be worth a look, worded for a scan or for the use of indexes."""
    found = [clause for term in query.terms if (clause := _of_term(term, scan)) is not None]
    return _joined("AND", found, any(clause.indexed for clause in found))


def _of_term(term: Term, scan: bool) -> Clause | None:
    """None if nothing is known of the entries that the term matches."""
    if UNIVERSAL in term.conditions or any(map(_finds_nothing_too, term.conditions)):
        return None
    place = _place_of(term)
    numeric = find_vr(term.name) in _NUMERIC_VRS  # 1 equals 1.0
    equals, others = [], []
    for condition in term.conditions:
        if isinstance(condition, Equal) and not condition.folded and not numeric:
            equals.append(condition.value)
        else:
            others.append(condition)
    found = [_of_condition(condition, place, scan) for condition in others]
    if equals:
        marks = ", ".join("?" * len(equals))
        found.append(_compared(f"{{}} IN ({marks})", equals, place, scan, sargable=True))
    if max(len(found), len(equals) / 20) > _MOST_ALTERNATIVES:
        return None
    if place.needle is not None:
        found.append(_in_json(place))
    return _joined("OR", found, all(clause.indexed for clause in found))


def _finds_nothing_too(condition: Condition) -> bool:
    """Whether it holds where an entry has no value at all, as an empty one does."""
    return isinstance(condition, Equal) and not condition.value


def _place_of(term: Term) -> _Place:
    name = term.name
    if term.side == "entry":
        column = "deid_PatientID" if name == "subject" else name
        return _Place(column, column)
    side = "" if term.side == "original" else "deid_"
    if name == "SOPInstanceUID":
        return _Place(side + name, table="deid_instance")
    if side:
        return _Place(side + name, side + name) if name in DEID_FIELDS else _DEID_UID
    if name.startswith("("):
        return _Place(name, needle=name[1:5])
    number = int(name, 16) if re.fullmatch("[0-9A-F]{8}", name) else lookup_tag(name) or 0
    return _Place(name, name if name in INDEXED_FIELDS else None, needle=f"{number:08X}")


_DEID_UID = _Place("deid_uid", table="deid_uid")


def _of_condition(condition: Condition, place: _Place, scan: bool) -> Clause:
    if isinstance(condition, Between):
        ends = [
            (sign, end)
            for sign, end in ((">=", condition.low), ("<=", condition.high))
            if end is not None and isinstance(encode_cell(end), str)
        ]
        compare = " AND ".join(f"{{}} {sign} ?" for sign, _ in ends)
        return _compared(compare, [end for _, end in ends], place, scan, sargable=bool(ends))
    if isinstance(condition, Words):
        return _with_words(condition.words, place, scan)
    if condition.folded and isinstance(condition, Wildcard):
        return _with_words(_words_in(condition.pattern), place, scan)
    if isinstance(condition, Equal):
        return _with_words(sorted(split_name_words(condition.value)), place, scan)
    return _like(condition.pattern, place, scan)


def _like(pattern: str, place: _Place, scan: bool) -> Clause:
    prefix, *rest = re.split(r"[*?]+", pattern)
    longest = max(rest, key=len, default="")
    compares, values = [], []
    if prefix:
        compares.append("{} >= ?")
        values.append(prefix)
        if (after := _after(prefix)) is not None:
            compares.append("{} < ?")
            values.append(after)
    if longest:
        compares.append("instr({}, ?) > 0")
        values.append(longest)
    return _compared(" AND ".join(compares), values, place, scan, sargable=bool(prefix))


def _words_in(pattern: str) -> list[str]:
    """The words that every name has which the pattern matches, ``*`` after the start of one."""
    words = []
    for word in simplify_words(pattern, keep="*?").split():
        start = re.split("[*?]", word)[0]
        if start == word:
            words.append(word)
        elif start and start[-1].isascii():  # other letters may change with the one that follows
            words.append(f"{start}*")
    return words


def _with_words(words: Sequence[str], place: _Place, scan: bool) -> Clause:
    if place.keyword not in ("PatientName", "deid_PatientName") or not words:
        return _compared("", (), place, scan, sargable=False)
    found = []
    for word in words:
        start = word.removesuffix("*")
        after = _after(start)
        if start == word:
            found.append(_lookup("deid_word", "word = ?", [word], scan))
        elif after is not None:
            found.append(_lookup("deid_word", "word >= ? AND word < ?", [start, after], scan))
    return _joined("AND", found, bool(found))


def _compared(
    compare: str, values: Sequence[str], place: _Place, scan: bool, sargable: bool
) -> Clause:
    """One comparison with each place where the attribute's values are; ``{}`` stands for it."""
    compare = compare or "{} IS NOT NULL"
    column, keyword = place.column, [place.keyword]
    found = [
        _lookup(
            "deid_value",
            f"keyword = ? AND {compare.replace('{}', 'value')}",
            [*keyword, *values],
            scan,
        )
    ]
    if place.table:
        compared = compare.replace("{}", place.keyword)
        found.append(_lookup(place.table, compared, values, scan))
    if column:
        compared = compare.replace("{}", f"[{column}]")
        found.append(Clause(f"({compared})", tuple(map(encode_cell, values))))
    at_hand = place.table is not None or column == "id" or column in INDEXED_COLUMNS
    return _joined("OR", found, sargable and at_hand)


def _in_json(place: _Place) -> Clause:
    """Where an indexed field has no value, the attribute may be in a sequence."""
    sql = (
        "(instr(originals, ?) > 0 OR EXISTS (SELECT 1 FROM deid_instance AS part"
        " WHERE part.entry = deid_log.seq AND instr(part.originals, ?) > 0))"
    )
    needle = place.needle or ""
    if place.column:
        sql = f"([{place.column}] IS NULL AND {sql})"
    return Clause(sql, (needle, needle), place.column in INDEXED_COLUMNS)


def _lookup(table: str, compare: str, values: Sequence[str], scan: bool) -> Clause:
    if scan:
        inner = f"SELECT 1 FROM {table} AS part WHERE part.entry = deid_log.seq AND {compare}"  # noqa: S608
        return Clause(f"EXISTS ({inner})", tuple(map(encode_cell, values)), True)
    return Clause(
        f"seq IN (SELECT entry FROM {table} WHERE {compare})",  # noqa: S608
        tuple(map(encode_cell, values)),
        True,
    )


def _joined(operator: str, clauses: Sequence[Clause], indexed: bool) -> Clause:
    """All of them, joined as a balanced tree: SQLite bounds the depth of an expression."""
    if not clauses:
        return Clause("1 = 1", (), indexed)
    if len(clauses) == 1:
        return replace(clauses[0], indexed=indexed)
    half = len(clauses) // 2
    left, right = (_joined(operator, part, indexed) for part in (clauses[:half], clauses[half:]))
    sql = f"({left.sql} {operator} {right.sql})"
    return Clause(sql, left.values + right.values, indexed, operator, (left, right))


def _after(prefix: str) -> str | None:
    """The first text, in SQLite's order, after all that begin with ``prefix``; None if none is."""
    while prefix:
        last = ord(prefix[-1]) + 1
        if last <= 0x10FFFF:
            return prefix[:-1] + chr(0xE000 if last == 0xD800 else last)
        prefix = prefix[:-1]
    return None
