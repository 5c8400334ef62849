"""The IDMap of RSNA CTP as CSV: a line of two titles, then pairs written ``=("value")``.

One file has one kind of identifier, originals in either column. UIDs of studies, series and
instances are mixed.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from deid_hooks.administrator.histories.common import UNKNOWN_UID, Pair, UnreadableHistory

_CELL = re.compile(r'=\("(.*)"\)', re.DOTALL)
_KINDS = (("uid", UNKNOWN_UID), ("accession", "AccessionNumber"), ("pat", "PatientID"))
_PATIENT = re.compile(r"\bpt", re.IGNORECASE)


def knows(first_line: str) -> bool:
    """Whether a file that begins so is an IDMap."""
    return _titles(first_line) is not None


def read(path: Path, counts: Counter[str]) -> Iterator[Pair]:
    """Every pair of the file, as it stands there."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        titles = _titles(file.readline().strip())
        if titles is None:
            raise UnreadableHistory("the first line names no kind of identifier")
        keyword, place = titles
        for row in csv.reader(file):
            cells = [_value(cell) for cell in row]
            if len(cells) == 2 and all(cells):
                yield Pair(keyword, cells[place], cells[1 - place])
            elif row:
                counts["not understood"] += 1


def _titles(line: str) -> tuple[str, int] | None:
    """The keyword that the titles speak of, and which column has the originals."""
    titles = [_value(title).lower() for title in next(csv.reader([line]), [])]
    originals = [place for place, title in enumerate(titles) if "orig" in title]
    if len(titles) != 2 or len(originals) != 1:
        return None
    for word, keyword in _KINDS:
        if word in titles[0]:
            return keyword, originals[0]
    return ("PatientID", originals[0]) if _PATIENT.search(titles[0]) else None


def _value(cell: str) -> str:
    written = _CELL.fullmatch(cell.strip())
    return written[1] if written else cell.strip()
