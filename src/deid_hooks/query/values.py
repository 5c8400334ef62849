"""Values as search compares them: of an attribute in the originals; dates and times (PS3.5 6.2)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from deid_hooks.dicom.dictionary import join_name_groups, lookup_tag


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


_DATE = re.compile(r"([0-9]{4})([.-]?)([0-9]{2})\2([0-9]{2})")
_CLOCK = r"[0-9]{2}(?::?[0-9]{2}(?::?[0-9]{2}(?:\.[0-9]{1,6})?)?)?"
_TIME = re.compile(_CLOCK)
MOMENT = re.compile(
    rf"[0-9]{{4}}(?:[0-9]{{2}}(?:[0-9]{{2}}(?:{_CLOCK})?)?)?"
    rf"|[0-9]{{4}}-[0-9]{{2}}(?:-[0-9]{{2}}(?:[T ]{_CLOCK})?)?"
)
"""A date and time of any precision, as DT has it (PS3.5 6.2) or as ISO 8601 has it."""
_OFFSET = re.compile(r"(?:Z|[+-](?:0[0-9]|1[0-4]):?[0-5][0-9])\Z")


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
