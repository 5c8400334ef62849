"""Search terms as people write them: the parser (their meaning: :mod:`.query.conditions`)."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import cache

from deid_hooks.dicom.dictionary import list_keywords, lookup_keyword
from deid_hooks.dicom.names import simplify_words
from deid_hooks.errors import TermError
from deid_hooks.query.conditions import (
    MOMENT,
    UNIVERSAL,
    Between,
    Condition,
    Equal,
    Query,
    Side,
    Term,
    Wildcard,
    Words,
    find_vr,
    make_comparable,
)
from deid_hooks.records.fields import DEID_FIELDS, FLYWHEEL_KEYWORDS
from deid_hooks.records.model import fold, make_readable, parse_log_id

ENTRY_FIELDS = ("id", "project", "subject", "created", "timestamp")
TEXT_MOMENTS = ("created", "timestamp")  # ISO 8601 text, compared as it stands

WILDCARD_VRS = frozenset(("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"))
"""Where ``*`` and ``?`` are wildcards (PS3.4 C.2.2.2.4)."""

AFTER = "~"
"""Ends the high end of a range of times, so that it takes in the whole period it names:
``2006-08-31~`` comes after ``2006-08-31T23:59:59.9``. It sorts, by code point, after every
character that a date or time is written with, and so the plain text can be compared."""

_HEX = "[0-9A-Fa-f]"
_GAP = r"\s*+"  # possessive, so that no text takes longer than its length
_NAME = rf"""
    (?P<private>\(?{_GAP}(?P<group>{_HEX}{{4}}){_GAP},{_GAP}(?P<creator>"[^"]*"|[^",=()]++){_GAP},
        {_GAP}(?P<number>{_HEX}{{2}}){_GAP}\)?)
  | (?P<tag>{_HEX}{{8}}|\(?{_GAP}{_HEX}{{4}}{_GAP},{_GAP}{_HEX}{{4}}{_GAP}\)?)
  | (?P<keyword>[A-Za-z][A-Za-z0-9]*+)
"""
_TERM = re.compile(
    rf"{_GAP}(?P<deid>(?i:deid):{_GAP})?(?:{_NAME}){_GAP}(?P<sign>==?)(?P<value>.*)",
    re.VERBOSE | re.DOTALL,
)
_COLUMN = re.compile(rf"{_GAP}(?:(?i:deid):{_GAP})?(?:{_NAME}){_GAP}", re.VERBOSE)
_LONGEST_RANGE = 100  # characters; two moments with all they can have take 67


def parse_terms(texts: Sequence[str]) -> Query:
    """Read search terms, one in each text.

    ``KEYWORD=VALUE``, ``KEYWORD==VALUE`` (literal), ``deid:KEYWORD=VALUE``, a tag or a private
    attribute in place of the keyword, ``id=``, ``project=``, ``subject=``, ``created=``,
    ``timestamp=``; anything else is bare words of a person's name. The values of an attribute
    that is named again are alternatives; different attributes must all match. ``*`` alone matches
    every entry. No value at all (``PatientID=``) finds the entries where the attribute is empty or
    the log holds none; what is kept by length and digest only is neither.

    The values in the conditions are ready to compare: names folded, ends of ranges in the form of
    :func:`~deid_hooks.query.conditions.make_comparable`, text as
    :func:`~deid_hooks.records.model.make_readable` has it.

    Raises TermError for a term that can't be understood, and for no terms.
    """
    if not texts:
        raise TermError("A search needs at least one term, such as PatientID=VALUE.")
    found: dict[tuple[Side, str], list[Condition]] = {}
    for number, text in enumerate(texts, 1):
        term = _parse_term(text, number)
        found.setdefault((term.side, term.name), []).extend(term.conditions)
    terms = (Term(*key, tuple(dict.fromkeys(conditions))) for key, conditions in found.items())
    return Query(tuple(terms))


def parse_attribute(text: str) -> Term:
    """Return the attribute that ``text`` names, as a term without conditions: a column to show.

    ``StudyDate``, ``deid:PatientID``, ``00100010``, ``timestamp``. TermError if it names none.
    """
    name = _COLUMN.fullmatch(text)
    if name is None:
        raise TermError("a column to show is not a keyword: write StudyDate or deid:PatientID")
    return _parse_term(f"{text}=", 1, conditions=False)


def is_bare(text: str) -> bool:
    """Return whether a term is words of a name, with no keyword before them."""
    return _TERM.fullmatch(text) is None


def read_terms(lines: Iterable[str]) -> tuple[str, ...]:
    """Return the terms in a file or on standard input: one a line, without blanks and comments."""
    # The byte order mark, with which some editors begin a file, would turn a keyword into a name.
    texts = (line.removeprefix("\ufeff").rstrip("\r\n") for line in lines)
    return tuple(text for text in texts if text.strip() and not text.lstrip().startswith("#"))


def _parse_term(text: str, number: int, conditions: bool = True) -> Term:
    written = _TERM.fullmatch(text)
    if written is None:
        if text.lstrip().lower().startswith("deid:"):
            raise TermError(f"term {number}: deid: needs a keyword, as in deid:PatientID=VALUE")
        return Term("original", "PatientName", (_parse_words(text, number),))
    name = _find_name(written, number)
    side: Side = "entry" if name in ENTRY_FIELDS else "original"
    if written["deid"]:
        if not _has_deidentified(name):
            kept = ", ".join(DEID_FIELDS)
            raise TermError(f"deid:{name}: the log keeps the de-identified {kept} and other UIDs")
        side = "deid"
    if not conditions:
        return Term(side, name, ())
    return Term(
        side, name, _parse_conditions(name, written["value"], literal=written["sign"] == "==")
    )


def _find_name(written: re.Match[str], number: int) -> str:
    """Return the name of the attribute in the one spelling that a Term has."""
    if written["private"]:
        creator = written["creator"].strip('"').strip()
        return f'({written["group"].upper()},"{creator}",{written["number"].upper()})'
    if written["tag"]:
        tag = int(re.sub("[^0-9A-Fa-f]", "", written["tag"]), 16)
        return lookup_keyword(tag) or f"{tag:08X}"
    keyword = written["keyword"].lower()
    if keyword in _list_known():
        return _list_known()[keyword]
    # What is like no keyword may be a name with "=" in it, and no message shows a name.
    near = difflib.get_close_matches(keyword, _list_known(), n=1, cutoff=0.75)
    if near:
        meant = _list_known()[near[0]]
        raise TermError(f"unknown keyword {written['keyword']}: did you mean {meant}?")
    raise TermError(f"term {number}: neither DICOM nor the log has the keyword before the =")


@cache
def _list_known() -> dict[str, str]:
    return {name.lower(): name for name in (*list_keywords(), *FLYWHEEL_KEYWORDS, *ENTRY_FIELDS)}


def _has_deidentified(name: str) -> bool:
    return name in DEID_FIELDS or find_vr(name) == "UI"


def _parse_words(text: str, number: int) -> Words:
    words = simplify_words(text, keep="*?").split()
    if any(set("*?") & set(word.rstrip("*")) for word in words):
        raise TermError(
            f"term {number}: among bare words * stands at the end of a word only; "
            "write PatientName=VALUE for other wildcards"
        )
    plain = (re.sub(r"\*+", "*", word) for word in words)
    chosen = tuple(dict.fromkeys(word for word in plain if word != "*"))
    if not chosen:
        raise TermError(f"term {number}: there is no word of a name, and no KEYWORD=VALUE")
    return Words(chosen)


def _parse_conditions(name: str, value: str, literal: bool) -> tuple[Condition, ...]:
    vr = find_vr(name)
    if vr in ("SQ", "UN", "NO") or vr.startswith("O"):
        raise TermError(f"{name} has no text to search: it is a sequence or binary")
    value = make_readable(value if literal else value.strip())
    folded = vr == "PN"
    if not literal and value and not value.strip("*"):
        return (UNIVERSAL,)
    if name == "id":
        return (_parse_id(value),)
    if literal or not value:
        return (Equal(fold(value) if folded else value, folded),)
    if "*" in value or "?" in value:
        if vr not in WILDCARD_VRS and (vr or name in ENTRY_FIELDS):
            raise TermError(
                f"{name} takes no wildcards (* and ?); {name}==VALUE takes the value literally"
            )
        pattern = re.sub(r"\*+", "*", value)
        return (Wildcard(fold(pattern) if folded else pattern, folded),)
    if name in TEXT_MOMENTS or vr in ("DA", "DT", "TM"):
        return (_parse_range(name, vr, value),)
    if vr == "UI":
        uids = filter(None, (uid.strip() for uid in re.split(r"[,\\]", value)))
        return tuple(Equal(uid) for uid in uids) or (Equal(value),)
    return (Equal(fold(value) if folded else value, folded),)


def _parse_id(value: str) -> Equal:
    log_id = parse_log_id(value)
    if log_id is None:
        raise TermError("id takes one whole log id, 32 hex digits, with or without dashes")
    return Equal(log_id)


def _parse_range(name: str, vr: str, value: str) -> Between:
    """Read a date, a time or a range of them (PS3.4 C.2.2.2.5)."""

    def read(text: str) -> str | None:
        return _read_moment(name, vr, text.strip())

    ends = _find_ends(value, read)
    if ends is None:
        single = "HH:MM:SS or HHMMSS" if vr == "TM" else "YYYY-MM-DD or YYYYMMDD"
        raise TermError(
            f"{name}: there is no such date or time; one is written {single}, and a range LOW..HIGH"
        )
    shape = _write_iso if name in TEXT_MOMENTS else str
    low = None if ends[0] is None else shape(_find_first(vr, ends[0]))
    high = None if ends[1] is None else _find_last(vr, shape(ends[1]))
    if low is not None and high is not None and low > high:
        raise TermError(f"{name}: the range ends before it begins")
    return Between(low, high)


def _find_ends(
    value: str, read: Callable[[str], str | None]
) -> tuple[str | None, str | None] | None:
    """Return both ends of a range, equal for a single value, None for an open one; None for none.

    A dash may also be part of a date or the sign of an offset: so the whole is read first, and then
    the dash is taken that has a moment, or nothing, on either side. No offset is taken for a year
    or the other way round: -1459 is the last offset there is.
    """
    if len(value) > _LONGEST_RANGE:
        return None
    if ".." in value:
        left, _, right = value.partition("..")
        splits = [(left, right)]
    elif whole := read(value):
        return whole, whole
    else:
        splits = [(value[:i], value[i + 1 :]) for i, sign in enumerate(value) if sign == "-"]
    for left, right in splits:
        low, high = read(left), read(right)
        if (low or high) and (low or not left.strip()) and (high or not right.strip()):
            return low, high
    return None


def _read_moment(name: str, vr: str, text: str) -> str | None:
    """Return the digits of a date or time that exists, as precise as it is written, or None."""
    digits = make_comparable(vr, text)
    if vr == "DA" and re.fullmatch("[0-9]{4}(?:-[0-9]{2})?", text):
        digits = text.replace("-", "")
    elif vr not in ("DA", "DT", "TM"):
        # ``timestamp`` has no offset, ``created`` is UTC: another would mean another moment.
        plain = text.removesuffix("Z") if name == "created" else text
        digits = make_comparable("DT", plain) if MOMENT.fullmatch(plain) else None
    return digits if digits and _exists(f"20000101{digits}" if vr == "TM" else digits) else None


def _exists(digits: str) -> bool:
    month, day = (int(digits[i : i + 2] or 1) for i in (4, 6))
    hour, minute, second = (int(digits[i : i + 2] or 0) for i in (8, 10, 12))
    try:
        # A second 60 is a leap second (PS3.5 6.2).
        datetime(int(digits[:4]), month, day, hour, minute, 59 if second == 60 else second)
    except ValueError:
        return False
    return True


def _find_first(vr: str, digits: str) -> str:
    """Return the beginning of the period that the digits name, in the shortest text.

    A stored value that is less precise stands for its beginning too, and sorts before what is
    written longer: ``10`` before ``1000``. For DA, which is always whole, the first day.
    """
    if vr == "DA":
        return digits + "0101"[len(digits) - 4 :]
    whole, _, fraction = digits.partition(".")
    if fraction := fraction.rstrip("0"):
        return f"{whole}.{fraction}"
    shortest = 2 if vr == "TM" else 8
    while len(whole) > shortest and whole.endswith("00"):
        whole = whole[:-2]
    while vr != "TM" and 4 < len(whole) <= 8 and whole.endswith("01"):
        whole = whole[:-2]
    return whole


def _find_last(vr: str, text: str) -> str:
    """Return what no text within the period that ``text`` names comes after."""
    return text + "1231"[len(text) - 4 :] if vr == "DA" else text + AFTER


def _write_iso(digits: str) -> str:
    """Write digits of a moment as ``timestamp`` and ``created`` write them."""
    date = "-".join(filter(None, (digits[:4], digits[4:6], digits[6:8])))
    clock = ":".join(filter(None, (digits[8:10], digits[10:12], digits[12:])))
    return f"{date}T{clock}" if clock else date
