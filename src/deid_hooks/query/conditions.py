"""Conditions of a search: each kind, values they compare, the reference matcher (PS3.4 C.2.2.2).

A backend may translate a :class:`Query`, but what it finds is exactly what ``Query.matches`` finds.
The functions below the classes, and those of :mod:`deid_hooks.dicom.names`, are the steps of which
that meaning is made, for backends to use.
The parser is in :mod:`deid_hooks.query.parser`.
"""

from __future__ import annotations

import fnmatch
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from functools import lru_cache, partial
from typing import Any, Literal, assert_never

from deid_hooks.dicom.dictionary import join_name_groups, lookup_tag, lookup_vr
from deid_hooks.dicom.names import has_words, split_name_forms
from deid_hooks.records.fields import DEID_FIELDS
from deid_hooks.records.json_codec import WRONG_FORM
from deid_hooks.records.model import Entry, make_readable

log = logging.getLogger("deid_hooks")

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

    Compared as text, both in the form of :func:`~deid_hooks.query.conditions.make_comparable`.
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


_DATE = re.compile(r"([0-9]{4})([.-]?)([0-9]{2})\2([0-9]{2})")
_CLOCK = r"[0-9]{2}(?::?[0-9]{2}(?::?[0-9]{2}(?:\.[0-9]{1,6})?)?)?"
_TIME = re.compile(_CLOCK)
MOMENT = re.compile(
    rf"[0-9]{{4}}(?:[0-9]{{2}}(?:[0-9]{{2}}(?:{_CLOCK})?)?)?"
    rf"|[0-9]{{4}}-[0-9]{{2}}(?:-[0-9]{{2}}(?:[T ]{_CLOCK})?)?"
)
"""A date and time of any precision, as DT has it (PS3.5 6.2) or as ISO 8601 has it."""
_OFFSET = re.compile(r"(?:Z|[+-](?:0[0-9]|1[0-4]):?[0-5][0-9])\Z")


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
    """Return what an entry holds for the attribute of a term, as :func:`meets` takes it.

    An entry whose originals can't be read holds nothing, and is named.
    """
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
    try:
        return tuple(value for document in documents for value in find_values(name, document))
    except (*WRONG_FORM, RecursionError):
        warn_of_malformed(entry.log_id)
        return ()


@lru_cache(maxsize=1000)
def warn_of_malformed(log_id: str) -> None:
    """Name an entry that is passed over because its originals can't be read, once in a process."""
    log.warning("The entry %s is malformed, and is passed over: nobody can read it.", log_id)


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


def find_values(name: str, document: str) -> Iterator[str | None]:
    """Yield the values of an attribute in JSON originals, at any depth, padded and without padding.

    ``name`` is that of a :class:`~deid_hooks.query.conditions.Term`. None stands for a
    value that isn't kept as text.
    """
    if name.startswith("("):
        group, creator, number = name[1:5], name[7:-5], name[-3:-1]
        if group not in document:
            return

        def wanted(tag: str, element: dict[str, Any]) -> bool:
            owner = str(element.get("creator", "")).strip(" ")
            return tag[:4] == group and tag[6:] == number and owner == creator
    else:
        sought = f"{find_tag(name):08X}"
        if sought not in document:  # far cheaper than to parse it
            return

        def wanted(tag: str, element: dict[str, Any]) -> bool:
            return tag == sought

    originals = json.loads(document)
    paths = ((path.rpartition(".")[2], element) for path, element in originals.items())
    yield from _find_in(paths, wanted)


def find_tag(name: str) -> int:
    """Return the tag of a keyword, or of eight hex digits; 0 for what is no tag of DICOM's."""
    return (lookup_tag(name) or 0) if not re.fullmatch("[0-9A-F]{8}", name) else int(name, 16)


def _find_in(
    elements: Iterable[tuple[str, Any]], wanted: Callable[[str, dict[str, Any]], bool]
) -> Iterator[str | None]:
    for tag, element in elements:
        if not isinstance(element, dict):  # null: the original had none
            continue
        if wanted(tag, element):
            yield from _list_texts(element)
        if element.get("vr") == "SQ":
            for item in element.get("Value", ()):
                yield from _find_in(item.items(), wanted)


def _list_texts(element: dict[str, Any]) -> Iterator[str | None]:
    """Yield a value without the padding that the file had, and with it; None without text."""
    if "Value" not in element:
        yield "" if element.keys() <= {"vr", "creator"} else None
        return
    if element["vr"] == "SQ":
        yield None
        return
    values = [_join_groups(value) for value in element["Value"]]
    padded, plain = "\\".join(values), "\\".join(value.strip(" \0") for value in values)
    yield plain
    if padded != plain:
        yield padded


def _join_groups(value: Any) -> str:
    if isinstance(value, dict):
        return join_name_groups(value)
    return "" if value is None else str(value)


def make_comparable(vr: str, text: str) -> str | None:
    """Return a stored value in the form of the ends of a range; None if it is in no range.

    DA as ``20060801``, TM as ``101500.25``, DT as ``20060801101500.25``, each as precise as it is
    stored: text that has this form already is its own. Other text, ``timestamp`` and ``created``
    among them, is compared as it is. An offset from UTC is left out: a DT is compared by its wall
    clock, as ``timestamp`` is.
    """
    if vr not in ("DA", "DT", "TM"):
        return text
    text = text.strip(" ")
    if vr == "DA":
        date = _DATE.fullmatch(text)
        return f"{date[1]}{date[3]}{date[4]}" if date else None
    if vr == "TM":
        return text.replace(":", "") if _TIME.fullmatch(text) else None
    moment = _OFFSET.sub("", text)
    return re.sub("[^0-9.]", "", moment) if MOMENT.fullmatch(moment) else None
