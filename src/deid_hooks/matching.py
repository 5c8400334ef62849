"""Search terms: what they mean, and the reference matcher (DICOM PS3.4, section C.2.2.2).

A backend may translate a :class:`Query`, but what it finds is exactly what ``Query.matches`` finds.
The functions below the classes are the steps of which that meaning is made, for backends to use.
The parser is in :mod:`deid_hooks.terms`.
"""

from __future__ import annotations

import fnmatch
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any, Literal

from deid_hooks.dictionary import tag_of, vr_of
from deid_hooks.entry import DEID_FIELDS, Entry, readable

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

    side: Side
    name: str
    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Query:
    """Terms of which every one must hold."""

    terms: tuple[Term, ...]

    def matches(self, entry: Entry) -> bool:
        """Whether this entry is found: the meaning that every backend keeps to."""
        return all(_matches(term, entry) for term in self.terms)


def parse(texts: Sequence[str]) -> Query:
    """Read search terms, as :func:`deid_hooks.terms.parse` does; TermError where it can't."""
    from deid_hooks import terms  # it needs the classes above

    return terms.parse(texts)


def read_terms(lines: Iterable[str]) -> tuple[str, ...]:
    """The terms in a file, as :func:`deid_hooks.terms.read_terms` does."""
    from deid_hooks import terms

    return terms.read_terms(lines)


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
_NUMERIC_VRS = frozenset(("DS", "FD", "FL", "IS", "SL", "SS", "SV", "UL", "US", "UV"))

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


def representation(name: str) -> str:
    """The VR that decides how a term of this name matches; ``""`` where nothing tells it.

    The dictionary decides, not the VR in a file: one name means one thing. Of several possible
    VRs it is the first, and ``""`` for private and unknown tags, which match as plain text.
    """
    if name in _ENTRY_VRS:
        return _ENTRY_VRS[name]
    if name.startswith("("):
        return ""
    return vr_of(_tag(name))[:2]


def holds(condition: Condition, vr: str, values: Sequence[str | None]) -> bool:
    """Whether one of these values of an attribute meets the condition.

    ``values`` are the distinct values of the attribute, multi-valued ones as ``a\\b``; None is a
    value that isn't kept as text, which meets nothing.
    """
    if condition == UNIVERSAL:
        return True
    texts = [value for value in values if value is not None]
    if isinstance(condition, Words):
        names = (name for text in texts for name in text.split("\\"))
        return any(_has_words(name, condition.words) for name in names)
    if isinstance(condition, Between):
        found = (comparable(vr, form) for text in texts for form in forms(vr, text))
        return any(_within(one, condition) for one in found if one is not None)
    if isinstance(condition, Equal) and not values:
        return not condition.value
    meets = _wildcard(condition) if isinstance(condition, Wildcard) else _equal(condition, vr)
    shapes = name_forms if condition.folded else lambda text: forms(vr, text)
    return any(meets(form) for text in texts for form in shapes(text))


def forms(vr: str, text: str) -> tuple[str, ...]:
    """What a value is compared as: the whole, and each of its values that isn't empty."""
    text = readable(text)
    if "\\" not in text or vr in _SINGLE_VALUED_VRS:
        return (text,)
    return (text, *filter(None, text.split("\\")))


def name_forms(text: str) -> tuple[str, ...]:
    """What a person's name is compared as, folded: the whole, each value, each component group."""
    whole = fold(text)
    values = whole.split("\\")
    groups = (group for value in values for group in value.split("="))
    return tuple(dict.fromkeys((whole, *filter(None, values), *filter(None, groups))))


def fold(text: str) -> str:
    """A person's name as it is compared: ``DOE ^ JOHN^^`` and ``Doe^John`` are one.

    Case, spaces and what is empty at the end make no difference (PS3.5 6.2, PS3.4 C.2.2.2.1).
    """
    values = []
    for value in readable(text).casefold().split("\\"):
        groups = []
        for group in value.split("="):
            components = (" ".join(component.split()) for component in group.split("^"))
            groups.append("^".join(components).rstrip("^"))
        values.append("=".join(groups).rstrip("="))
    return "\\".join(values)


def name_words(text: str) -> frozenset[str]:
    """The folded words of a person's name, of all its components and component groups."""
    return frozenset(plain_words(text).split())


# Letters in names that Unicode doesn't count as accented, and what people type for them.
_PLAIN_LETTERS = str.maketrans({"ı": "i", "ł": "l", "ø": "o", "đ": "d"})
_APOSTROPHES = "\u02bb\u02bc"  # letters to Unicode
_TATWEEL = "\u0640"  # stretches an Arabic word and means nothing
_VOICED = "\u3099\u309a"  # combining, but in kana they make another letter


def plain_words(text: str, keep: str = "") -> str:
    """A name in lower case, without accents, a space for all but letters, digits and ``keep``."""
    decomposed = unicodedata.normalize("NFKD", readable(text)).casefold()
    letters = []
    for character in unicodedata.normalize("NFKD", decomposed):
        category = unicodedata.category(character)
        if character in _VOICED or character in keep:
            letters.append(character)
        elif unicodedata.combining(character) or category == "Cf" or character == _TATWEEL:
            continue
        elif category[0] in "LMN" and character not in _APOSTROPHES:
            letters.append(character)
        else:
            letters.append(" ")
    return unicodedata.normalize("NFC", "".join(letters)).translate(_PLAIN_LETTERS)


def comparable(vr: str, text: str) -> str | None:
    """A stored value in the form of the ends of :class:`Between`; None if it is in no range.

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


def values_of(term: Term, entry: Entry) -> tuple[str | None, ...]:
    """What an entry holds for the attribute of a term, as :func:`holds` takes it."""
    name = term.name
    if term.side == "entry":
        return _values_of_entry(name, entry)
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
    return tuple(value for document in documents for value in _leaves(name, document))


def _matches(term: Term, entry: Entry) -> bool:
    if UNIVERSAL in term.conditions:
        return True
    vr, values = representation(term.name), values_of(term, entry)
    return any(holds(condition, vr, values) for condition in term.conditions)


def _values_of_entry(name: str, entry: Entry) -> tuple[str, ...]:
    if name == "subject":  # the label that the patient carries after de-identification
        return entry.deid.get("PatientID", ())
    if name == "timestamp":
        return () if entry.timestamp is None else (entry.timestamp,)
    return (
        entry.log_id if name == "id" else entry.project if name == "project" else entry.created,
    )


def _equal(condition: Equal, vr: str) -> Callable[[str], bool]:
    number = _number(condition.value) if vr in _NUMERIC_VRS else None
    if number is None:
        return condition.value.__eq__
    return lambda form: form == condition.value or _number(form) == number


def _number(text: str) -> Decimal | None:
    if not _NUMBER.fullmatch(text.strip(" ")):
        return None
    try:
        return Decimal(text.strip(" "))
    except InvalidOperation:  # an exponent beyond all measure
        return None


@lru_cache(maxsize=64)
def _wildcard(condition: Wildcard) -> Callable[[str], object]:
    # fnmatch makes a pattern that takes linear time; its [...] is nothing to DICOM.
    return re.compile(fnmatch.translate(condition.pattern.replace("[", "[[]"))).match


def _within(text: str, ends: Between) -> bool:
    return (ends.low is None or ends.low <= text) and (ends.high is None or text <= ends.high)


def _has_words(name: str, wanted: Iterable[str]) -> bool:
    words = name_words(name)
    return all(
        any(word.startswith(want[:-1]) for word in words) if want.endswith("*") else want in words
        for want in wanted
    )


def _tag(name: str) -> int:
    return (tag_of(name) or 0) if not re.fullmatch("[0-9A-F]{8}", name) else int(name, 16)


def _leaves(name: str, document: str) -> Iterator[str | None]:
    """The values of an attribute in JSON originals, at any depth, padded and without padding."""
    if name.startswith("("):
        group, creator, number = name[1:5], name[7:-5], name[-3:-1]
        if group not in document:
            return

        def wanted(tag: str, element: dict[str, Any]) -> bool:
            owner = str(element.get("creator", "")).strip(" ")
            return tag[:4] == group and tag[6:] == number and owner == creator
    else:
        sought = f"{_tag(name):08X}"
        if sought not in document:  # far cheaper than to parse it
            return

        def wanted(tag: str, element: dict[str, Any]) -> bool:
            return tag == sought

    originals = json.loads(document)
    paths = ((path.rpartition(".")[2], element) for path, element in originals.items())
    yield from _values_in(paths, wanted)


def _values_in(
    elements: Iterable[tuple[str, Any]], wanted: Callable[[str, dict[str, Any]], bool]
) -> Iterator[str | None]:
    for tag, element in elements:
        if not isinstance(element, dict):  # null: the original had none
            continue
        if wanted(tag, element):
            yield from _texts(element)
        if element.get("vr") == "SQ":
            for item in element.get("Value", ()):
                yield from _values_in(item.items(), wanted)


def _texts(element: dict[str, Any]) -> Iterator[str | None]:
    """One value, with the padding that the file had and without; None where there is no text."""
    if "Value" not in element:
        yield "" if element.keys() <= {"vr", "creator"} else None
        return
    if element["vr"] == "SQ":
        yield None
        return
    values = [_text(value) for value in element["Value"]]
    padded, plain = "\\".join(values), "\\".join(value.strip(" \0") for value in values)
    yield plain
    if padded != plain:
        yield padded


def _text(value: Any) -> str:
    if isinstance(value, dict):
        groups = (value.get(key, "") for key in ("Alphabetic", "Ideographic", "Phonetic"))
        return "=".join(groups).rstrip("=")
    return "" if value is None else str(value)
