"""Search terms: one parser and the reference matcher (DICOM PS3.4, section C.2.2.2).

A backend may translate a :class:`Query`, but what it finds is exactly what ``Query.matches`` finds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from deid_hooks.entry import Entry


@dataclass(frozen=True, slots=True)
class Equal:
    """The value itself: as written, but names without regard to case (``folded``)."""

    value: str = field(repr=False)
    folded: bool = False


@dataclass(frozen=True, slots=True)
class Wildcard:
    """``*`` any number of characters, ``?`` one; names without regard to case (``folded``)."""

    pattern: str = field(repr=False)
    folded: bool = False


@dataclass(frozen=True, slots=True)
class Between:
    """A range with both ends in it, either of which may be open (None).

    Compared as text after both sides were brought to one form by :func:`comparable`.
    """

    low: str | None = field(repr=False)
    high: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Words:
    """Words of a person's name, in any order, component and case, accents ignored."""

    words: tuple[str, ...] = field(repr=False)


Condition = Equal | Wildcard | Between | Words


@dataclass(frozen=True, slots=True)
class Term:
    """One attribute and the conditions of which at least one must hold.

    ``side`` is ``original``, ``deid`` or ``entry`` (``id``, ``project``, ``subject``, ``created``,
    ``timestamp``). ``name`` is the keyword, or eight hex digits where the dictionary has none, or
    ``(gggg,"CREATOR",ee)`` in that spelling for a private attribute, or the field of the entry;
    ``PatientName`` for bare words.
    """

    side: Literal["original", "deid", "entry"]
    name: str
    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Query:
    """Terms of which every one must hold."""

    terms: tuple[Term, ...]

    def matches(self, entry: Entry) -> bool:
        """Whether this entry is found: the meaning that every backend keeps to."""
        raise NotImplementedError


def parse(texts: Sequence[str]) -> Query:
    """Read search terms; TermError for one that can't be understood."""
    raise NotImplementedError


def name_words(text: str) -> frozenset[str]:
    """The folded words of a person's name, of all its components and component groups."""
    raise NotImplementedError
