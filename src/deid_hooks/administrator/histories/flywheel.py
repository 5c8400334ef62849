"""The CSV that Flywheel's ``--save-deid-logs`` writes: two rows an instance, before and after.

``src_path,type,StudyInstanceUID,SeriesInstanceUID,SOPInstanceUID,<profile fields>``. Quotes and
line breaks within values are not escaped: what they spoil is counted and left out.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from deid_hooks.administrator.histories.common import (
    UnreadableHistory,
    instance_changes,
    text_tag,
)
from deid_hooks.difference import Changes
from deid_hooks.errors import UnusableDataset

_SERIES = 0x0020000E
_MOST_WAITING = 10_000


def read(path: Path, counts: Counter[str]) -> Iterator[list[Changes]]:
    """The changes of each series, as its rows stand together. Raises UnreadableHistory."""
    gathered: list[Changes] = []
    series = ""
    for before, after in _pairs(path, counts):
        try:
            found = instance_changes(before, after)
        except UnusableDataset:
            counts["not understood"] += 1
            continue
        if gathered and before.get(_SERIES, "") != series:
            yield gathered
            gathered = []
        series = before.get(_SERIES, "")
        gathered.append(found)
    if gathered:
        yield gathered


def _pairs(path: Path, counts: Counter[str]) -> Iterator[tuple[dict[int, str], dict[int, str]]]:
    waiting: dict[str, dict[int, str]] = {}
    for source, kind, values in _rows(path, counts):
        if kind == "before":
            counts["not understood"] += source in waiting
            waiting[source] = values
        elif (before := waiting.pop(source, None)) is not None:
            yield before, values
        else:
            counts["not understood"] += 1
        if len(waiting) > _MOST_WAITING:
            raise UnreadableHistory("the rows before and after are too far from one another")
    counts["not understood"] += len(waiting)


def _rows(path: Path, counts: Counter[str]) -> Iterator[tuple[str, str, dict[int, str]]]:
    """Source, ``before`` or ``after``, and text values by tag, of each whole row."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        header, *_ = next(csv.reader([file.readline()])), None
        tags = [text_tag(name) for name in header]
        counts["columns left out"] += sum(tag is None for tag in tags[2:])
        for line in file:
            row = _cells(line.rstrip("\r\n"))
            if len(row) == len(header) and row[1] in ("before", "after"):
                values = zip(tags, row, strict=True)
                yield row[0], row[1], {tag: text for tag, text in values if tag is not None}
            else:
                counts["not understood"] += 1


def _cells(line: str) -> list[str]:
    """The cells of one line. An odd quote must not swallow the lines that follow."""
    try:
        return next(csv.reader([line]), [])
    except csv.Error:
        return []
