"""What a shell offers when a word is half typed: keywords for terms and columns."""

from __future__ import annotations

from collections.abc import Iterator

_SIDE = "deid:"


def complete_term(incomplete: str) -> list[str]:
    """``PatientNa`` to ``PatientName=``; ``deid:Pat`` to ``deid:PatientID=``."""
    if "=" in incomplete:
        return []
    return [f"{name}=" for name in _beginning(incomplete)]


def complete_column(incomplete: str) -> list[str]:
    """The last of several columns, ``StudyDate,Mod`` to ``StudyDate,Modality``."""
    before, comma, last = incomplete.rpartition(",")
    minus = "-" if last.startswith("-") else ""
    return [f"{before}{comma}{minus}{name}" for name in _beginning(last.removeprefix("-"))]


def _beginning(text: str) -> list[str]:
    names = _deid_names() if text.lower().startswith(_SIDE) else _names(text)
    return [name for name in names if name.lower().startswith(text.lower())]


def _names(text: str) -> Iterator[str]:
    """The indexed fields first; every other keyword once it is known how it begins."""
    from deid_hooks.dictionary import keywords
    from deid_hooks.entry import INDEXED_FIELDS
    from deid_hooks.terms import ENTRY_FIELDS

    yield from (*INDEXED_FIELDS, *ENTRY_FIELDS, _SIDE)
    if len(text) > 2:
        yield from (name for name in keywords() if name not in INDEXED_FIELDS)


def _deid_names() -> Iterator[str]:
    from deid_hooks.entry import DEID_FIELDS

    yield from (f"{_SIDE}{name}" for name in (*DEID_FIELDS, "SOPInstanceUID"))
