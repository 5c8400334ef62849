"""Dates and times as they are compared, whichever way they are written (PS3.5, section 6.2)."""

from __future__ import annotations

import re

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
    """A stored value in the form of the ends of a range; None if it is in no range.

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
