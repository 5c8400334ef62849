"""A query as a condition on rows, which each database renders in its own SQL.

What meets the condition holds every entry that the query matches, and as few others as can be: the
reference, ``Query.matches``, then decides. A condition may find too much, never too little.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, assert_never

from deid_hooks.backends.tables.columns import INDEXED_COLUMNS
from deid_hooks.dicom.names import simplify_words, split_name_words
from deid_hooks.query.conditions import (
    NUMERIC_VRS,
    UNIVERSAL,
    Between,
    Condition,
    Equal,
    Query,
    Term,
    Wildcard,
    Words,
    find_tag,
    find_vr,
)
from deid_hooks.records.fields import DEID_FIELDS, INDEXED_FIELDS
from deid_hooks.records.model import make_readable

Operator = Literal["in", ">=", "<=", "<", "contains", "is null", "is not null"]

Test = tuple[Operator, tuple[str, ...]]
"""A comparison and its values, for any column."""

_MOST_ALTERNATIVES = 400  # SQLite bounds the length of a statement and its parameters


@dataclass(frozen=True, slots=True)
class Compare:
    """A column of a row, compared with one of some values; with none where it is null or not."""

    column: str
    operator: Operator
    values: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class InTable:
    """The entry has a row in a table of parts that meets all of these."""

    table: str
    compares: tuple[Compare, ...]


@dataclass(frozen=True, slots=True)
class InJson:
    """The originals of the entry, or of one of its instances, contain this text."""

    text: str


@dataclass(frozen=True, slots=True)
class And:
    """All of these; no part means every entry."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """At least one of these."""

    parts: tuple[Node, ...]


Node = Compare | InTable | InJson | And | Or
"""A condition on a row of ``deid_log``."""


def is_indexed(node: Node) -> bool:
    """Return whether the entries that meet a condition are found without reading all of them."""
    match node:
        case Compare():
            return (node.column == "id" or node.column in INDEXED_COLUMNS) and _is_sought(node)
        case InTable():
            return any(map(_is_sought, (c for c in node.compares if c.column != "keyword")))
        case InJson():
            return False
        case And():
            return any(map(is_indexed, node.parts))
        case Or():
            return all(map(is_indexed, node.parts))
        case _:
            assert_never(node)


class Renderer(ABC):
    """Renders conditions in the SQL of one database."""

    mark: str
    """What stands for a value."""
    position: str
    """The function that finds the place of a text, its second argument, in its first."""

    @abstractmethod
    def quote(self, column: str) -> str:
        """Return the name of a column as SQL has it."""

    @abstractmethod
    def encode(self, text: str) -> Any:
        """Return a value as the driver takes it, and as the columns hold it."""

    @abstractmethod
    def render_lookup(self, table: str, compare: str) -> str:
        """Return SQL for an entry with such a row in a table of parts."""

    def render(self, node: Node) -> tuple[str, list[Any]]:
        """Return SQL that a row of ``deid_log`` meets, and its values."""
        match node:
            case Compare():
                return self.render_compare(node)
            case InTable():
                sql, values = self._join(" AND ", map(self.render_compare, node.compares))
                return self.render_lookup(node.table, sql), values
            case InJson():
                found = f"{self.position}({{}}originals, {self.mark}) > 0"
                instance = (
                    "EXISTS (SELECT 1 FROM deid_instance part"  # noqa: S608
                    f" WHERE part.entry = deid_log.seq AND {found.format('part.')})"
                )
                return f"({found.format('')} OR {instance})", [self.encode(node.text)] * 2
            case And():
                return self._join(" AND ", map(self.render, node.parts))
            case Or():
                return self._join(" OR ", map(self.render, node.parts))
            case _:
                assert_never(node)

    def render_compare(self, compare: Compare) -> tuple[str, list[Any]]:
        """Return SQL that compares a column of a row, and its values."""
        column, mark = self.quote(compare.column), self.mark
        match compare.operator:
            case "in":
                sql = f"{column} IN ({', '.join([mark] * len(compare.values))})"
            case ">=" | "<=" | "<":
                sql = f"{column} {compare.operator} {mark}"
            case "contains":
                sql = f"{self.position}({column}, {mark}) > 0"
            case "is null" | "is not null":
                sql = f"{column} {compare.operator.upper()}"
            case _:
                assert_never(compare.operator)
        return sql, [self.encode(value) for value in compare.values]

    def _join(self, word: str, parts: Iterable[tuple[str, list[Any]]]) -> tuple[str, list[Any]]:
        texts, values = [], []
        for sql, those in parts:
            texts.append(sql)
            values += those
        return _balance(word, texts) if texts else "1 = 1", values


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the values of an attribute are: a column, a table of parts, in JSON with a tag.

    Further values, and the parts of one, are in ``deid_value`` under ``keyword``; ``words`` if the
    words of all values are in ``deid_word``.
    """

    keyword: str
    column: str | None = None
    table: str | None = None
    tag: str | None = None
    words: bool = False


def translate(query: Query) -> Node:
    """Return what the row of every entry meets that the query matches."""
    found = map(_translate_term, query.terms)
    return And(tuple(node for node in found if node is not None))


def _translate_term(term: Term) -> Node | None:
    """Return None if nothing is known of the entries that the term matches."""
    if UNIVERSAL in term.conditions or any(map(_finds_missing, term.conditions)):
        return None
    place = _find_place(term)
    numeric = find_vr(term.name) in NUMERIC_VRS  # 1 equals 1.0
    equals: list[str] = []
    found: list[Node] = []
    for condition in term.conditions:
        if isinstance(condition, Equal) and not condition.folded and not numeric:
            equals.append(condition.value)
        else:
            found.append(_translate_condition(condition, place))
    if equals:
        found.append(_compare_everywhere([("in", tuple(equals))], place))
    if max(len(found), len(equals) / 20) > _MOST_ALTERNATIVES:
        return None
    if place.tag is not None:
        found.append(_search_json(place.tag, place.column))
    return Or(tuple(found))


def _finds_missing(condition: Condition) -> bool:
    """Return whether a condition holds where an entry has no value, as an empty one does."""
    return isinstance(condition, Equal) and not condition.value


def _find_place(term: Term) -> _Place:
    name = term.name
    words = name == "PatientName"
    if term.side == "entry":
        column = "deid_PatientID" if name == "subject" else name
        return _Place(column, column)
    side = "" if term.side == "original" else "deid_"
    if name == "SOPInstanceUID":
        return _Place(side + name, table="deid_instance")
    if side:
        if name not in DEID_FIELDS:
            return _Place("deid_uid", table="deid_uid")
        return _Place(side + name, side + name, words=words)
    if name.startswith("("):
        return _Place(name, tag=name[1:5])
    indexed = name if name in INDEXED_FIELDS else None
    return _Place(name, indexed, tag=f"{find_tag(name):08X}", words=words)


def _translate_condition(condition: Condition, place: _Place) -> Node:
    match condition:
        case Between():
            low: list[Test] = [(">=", (end,)) for end in _list_ends(condition.low)]
            high: list[Test] = [("<=", (end,)) for end in _list_ends(condition.high)]
            return _compare_everywhere(low + high, place)
        case Words():
            return _search_words(condition.words, place)
        case Wildcard() if condition.folded:
            return _search_words(_list_words(condition.pattern), place)
        case Wildcard():
            return _search_pattern(condition.pattern, place)
        case Equal():
            return _search_words(sorted(split_name_words(condition.value)), place)
        case _:
            assert_never(condition)


def _list_ends(end: str | None) -> list[str]:
    """Return an end of a range, unless it is open or no database can compare with it."""
    return [] if end is None or make_readable(end) != end else [end]


def _search_pattern(pattern: str, place: _Place) -> Node:
    prefix, *rest = re.split(r"[*?]+", pattern)
    longest = max(rest, key=len, default="")
    tests = list(_begin_with(prefix)) if prefix else []
    if longest:
        tests.append(("contains", (longest,)))
    return _compare_everywhere(tests, place)


def _list_words(pattern: str) -> list[str]:
    """Return words that every name has which the pattern matches, ``*`` after the start of one."""
    words = []
    for word in simplify_words(pattern, keep="*?").split():
        start = re.split("[*?]", word)[0]
        if start == word:
            words.append(word)
        elif start and start[-1].isascii():  # other letters may change with the one that follows
            words.append(f"{start}*")
    return words


def _search_words(words: Sequence[str], place: _Place) -> Node:
    if not place.words or not words:
        return _compare_everywhere([], place)
    tests: Iterable[Iterable[Test]] = (
        _begin_with(word[:-1]) if word.endswith("*") else [("in", (word,))] for word in words
    )
    found = (tuple(Compare("word", *test) for test in those) for those in tests)
    return And(tuple(InTable("deid_word", compares) for compares in found))


def _begin_with(prefix: str) -> Iterator[Test]:
    """Yield the tests that every text meets which begins with ``prefix``."""
    yield ">=", (prefix,)
    if (after := _find_next(prefix)) is not None:
        yield "<", (after,)


def _compare_everywhere(tests: Sequence[Test], place: _Place) -> Node:
    """Return the tests of each place where the attribute's values are; none means any value."""

    def compare(column: str) -> tuple[Compare, ...]:
        return tuple(Compare(column, *test) for test in tests or [("is not null", ())])

    keyword = Compare("keyword", "in", (place.keyword,))
    found: list[Node] = [InTable("deid_value", (keyword, *compare("value")))]
    if place.table:
        found.append(InTable(place.table, compare(place.keyword)))
    if place.column:
        found.append(And(compare(place.column)))
    return Or(tuple(found))


def _search_json(tag: str, column: str | None) -> Node:
    """Return a search of the originals: the attribute may be in a sequence there.

    Where an indexed field has a value in its column, that counts alone.
    """
    return And((Compare(column, "is null"), InJson(tag))) if column else InJson(tag)


def _is_sought(compare: Compare) -> bool:
    return compare.operator in ("in", ">=", "<=", "<", "is null")


def _find_next(prefix: str) -> str | None:
    """Return the first text, by code points, after all that begin with ``prefix``, if one is."""
    while prefix:
        last = ord(prefix[-1]) + 1
        if last <= 0x10FFFF:
            return prefix[:-1] + chr(0xE000 if last == 0xD800 else last)
        prefix = prefix[:-1]
    return None


def _balance(word: str, texts: Sequence[str]) -> str:
    """Return texts joined as a balanced tree: SQLite bounds the depth of an expression."""
    if len(texts) == 1:
        return texts[0]
    half = len(texts) // 2
    return f"({_balance(word, texts[:half])}{word}{_balance(word, texts[half:])})"
