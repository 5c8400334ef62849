"""Conditions of a search: each kind, what it means, and the reference matcher (PS3.4 C.2.2.2).

A backend may translate a :class:`Query`, but what it finds is exactly what ``Query.matches`` finds.
The functions below the classes, and those of :mod:`deid_hooks.dicom.names` and
:mod:`deid_hooks.query.values`, are the steps of which that meaning is made, for backends to use.
The parser is in :mod:`deid_hooks.query.parser`.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from functools import lru_cache, partial
from typing import Literal, assert_never

from deid_hooks.dicom.dictionary import lookup_vr
from deid_hooks.dicom.names import has_words, split_name_forms
from deid_hooks.query.values import find_tag, find_values, make_comparable
from deid_hooks.records.fields import DEID_FIELDS
from deid_hooks.records.model import Entry, make_readable

Side = Literal["original", "deid", "entry"]


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

    Compared as text, both in the form of :func:`~deid_hooks.query.values.make_comparable`.
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

    side: Side
    name: str
    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Query:
    """Terms of which every one must hold."""

    terms: tuple[Term, ...]

    def matches(self, entry: Entry) -> bool:
        """Return whether this entry is found: the meaning that every backend keeps to."""
        return all(_matches(term, entry) for term in self.terms)


UNIVERSAL = Wildcard("*")
"""Finds every entry, those without the attribute too (PS3.4 C.2.2.2.3)."""

_ENTRY_VRS = {
    "id": "",
    "project": "UT",  # one value: a backslash in it separates nothing
    "subject": "LO",
    "created": "",
    "timestamp": "",
    "StudyDateTime": "DT",
    "SeriesDateTime": "DT",
}
_SINGLE_VALUED_VRS = frozenset(("LT", "ST", "UR", "UT"))
NUMERIC_VRS = frozenset(("DS", "FD", "FL", "IS", "SL", "SS", "SV", "UL", "US", "UV"))

_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def find_vr(name: str) -> str:
    """Return the VR that decides how a term of this name matches; ``""`` where nothing tells it.

    The dictionary decides, not the VR in a file: one name means one thing. Of several possible
    VRs it is the first, and ``""`` for private and unknown tags, which match as plain text.
    """
    if name in _ENTRY_VRS:
        return _ENTRY_VRS[name]
    if name.startswith("("):
        return ""
    return lookup_vr(find_tag(name))[:2]


def meets(condition: Condition, vr: str, values: Sequence[str | None]) -> bool:
    """Return whether one of these values of an attribute meets the condition.

    ``values`` are the distinct values of the attribute, multi-valued ones as ``a\\b``; None is a
    value that isn't kept as text, which meets nothing.
    """
    if condition == UNIVERSAL:
        return True
    texts = [value for value in values if value is not None]
    match condition:
        case Words():
            names = (name for text in texts for name in text.split("\\"))
            return any(has_words(name, condition.words) for name in names)
        case Between():
            found = (make_comparable(vr, form) for text in texts for form in split_forms(vr, text))
            return any(_is_within(one, condition) for one in found if one is not None)
        case Equal():
            if not values:
                return not condition.value
            accepts: Callable[[str], object] = _compile_value(condition, vr)
        case Wildcard():
            accepts = _compile_pattern(condition)
        case _:
            assert_never(condition)
    split = split_name_forms if condition.folded else partial(split_forms, vr)
    return any(accepts(form) for text in texts for form in split(text))


def split_forms(vr: str, text: str) -> tuple[str, ...]:
    """Return what a value is compared as: the whole, and each of its values that isn't empty."""
    text = make_readable(text)
    if "\\" not in text or vr in _SINGLE_VALUED_VRS:
        return (text,)
    return (text, *filter(None, text.split("\\")))


def collect_values(term: Term, entry: Entry) -> tuple[str | None, ...]:
    """Return what an entry holds for the attribute of a term, as :func:`meets` takes it."""
    name = term.name
    if term.side == "entry":
        return _collect_own(name, entry)
    if name == "SOPInstanceUID":
        original = term.side == "original"
        return tuple(i.uid if original else i.deid_uid for i in entry.instances)
    if term.side == "deid":
        if name in DEID_FIELDS:
            return entry.deid.get(name, ())
        return tuple(deid for deid, _ in entry.uids)
    if name in entry.fields:
        return entry.fields[name]
    documents = (entry.originals, *(instance.originals for instance in entry.instances))
    return tuple(value for document in documents for value in find_values(name, document))


def _matches(term: Term, entry: Entry) -> bool:
    if UNIVERSAL in term.conditions:
        return True
    vr, values = find_vr(term.name), collect_values(term, entry)
    return any(meets(condition, vr, values) for condition in term.conditions)


def _collect_own(name: str, entry: Entry) -> tuple[str, ...]:
    if name == "subject":  # the label that the patient carries after de-identification
        return entry.deid.get("PatientID", ())
    if name == "timestamp":
        return () if entry.timestamp is None else (entry.timestamp,)
    return (
        entry.log_id if name == "id" else entry.project if name == "project" else entry.created,
    )


def _compile_value(condition: Equal, vr: str) -> Callable[[str], bool]:
    number = _parse_number(condition.value) if vr in NUMERIC_VRS else None
    if number is None:
        return condition.value.__eq__
    return lambda form: form == condition.value or _parse_number(form) == number


def _parse_number(text: str) -> Decimal | None:
    if not _NUMBER.fullmatch(text.strip(" ")):
        return None
    try:
        return Decimal(text.strip(" "))
    except InvalidOperation:  # an exponent beyond all measure
        return None


@lru_cache(maxsize=64)
def _compile_pattern(condition: Wildcard) -> Callable[[str], object]:
    # fnmatch makes a pattern that takes linear time; its [...] is nothing to DICOM.
    return re.compile(fnmatch.translate(condition.pattern.replace("[", "[[]"))).match


def _is_within(text: str, ends: Between) -> bool:
    return (ends.low is None or ends.low <= text) and (ends.high is None or text <= ends.high)
