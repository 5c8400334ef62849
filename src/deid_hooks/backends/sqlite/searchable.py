"""What a search looks up besides the columns: parts of values, and the words of names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache

from deid_hooks.query.conditions import find_vr, split_forms
from deid_hooks.query.dates import make_comparable
from deid_hooks.query.names import fold, split_name_words
from deid_hooks.records.model import Entry

_RANGED_VRS = ("DA", "DT", "TM")


def split_parts(entry: Entry) -> Iterator[tuple[str, str]]:
    """Column and text, wherever a term may have a form that is not the whole value.

    Such as one of several values that stand in one element, or a date written with dots.
    """
    for prefix, mapping in (("", entry.fields), ("deid_", entry.deid)):
        for keyword, values in mapping.items():
            for part in _parts(_ranged(keyword), values):
                yield prefix + keyword, part
    texts: dict[str, Iterable[str]] = {
        "id": (entry.log_id,),
        "project": (entry.project,),
        "created": (entry.created,),
        "timestamp": (entry.timestamp or "",),
        "SOPInstanceUID": (instance.uid for instance in entry.instances),
        "deid_SOPInstanceUID": (instance.deid_uid for instance in entry.instances),
        "deid_uid": (deid_uid for deid_uid, _ in entry.uids),
    }
    for name, those in texts.items():
        for part in _parts("", those):
            yield name, part


def collect_words(entry: Entry) -> set[str]:
    """The words of the patient's names, as the reference makes them of a name and of its forms."""
    words: set[str] = set()
    for name in (*entry.fields.get("PatientName", ()), *entry.deid.get("PatientName", ())):
        words |= split_name_words(name)
        if not name.isascii():
            words |= split_name_words(fold(name))
    return words


def _parts(ranged: str, values: Iterable[str]) -> Iterator[str]:
    for value in values:
        if ranged or "\\" in value or not value.isascii() or "\0" in value:
            yield from _forms(ranged, value)  # for few values


@lru_cache(maxsize=1024)
def _forms(ranged: str, value: str) -> tuple[str, ...]:
    found = set(split_forms("", value))
    if ranged:
        found |= {form for each in found if (form := make_comparable(ranged, each)) is not None}
    return tuple(sorted(found - {value}))


@lru_cache(maxsize=1024)
def _ranged(keyword: str) -> str:
    vr = find_vr(keyword)
    return vr if vr in _RANGED_VRS else ""
