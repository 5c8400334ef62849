"""Results on standard output: a table on a terminal, JSON Lines in a pipe, or as asked."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer


class Format(StrEnum):
    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"
    IDS = "ids"


FormatOption = Annotated[
    Format | None,
    typer.Option("--format", help="Default: table on a terminal, jsonl in a pipe."),
]

Row = Mapping[str, Any]


def nobody_reads() -> None:
    """Throw away what is printed from now on: whoever read standard output has gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def chosen(wanted: Format | None) -> Format:
    return wanted or (Format.TABLE if sys.stdout.isatty() else Format.JSONL)


def write_rows(
    rows: Iterable[Row], columns: Sequence[str], wanted: Format | None, id_column: str
) -> int:
    """Write rows of these columns as they come, and return how many there were.

    A table is cut to the width of the terminal; everywhere else values are whole.
    """
    form = chosen(wanted)
    if form is Format.TABLE:
        return _table(list(rows), columns)
    if form is Format.JSON:
        return _json(rows, columns)
    count = 0
    writer = csv.writer(sys.stdout, lineterminator="\n")
    if form is Format.CSV:
        writer.writerow(columns)
    for row in rows:
        count += 1
        if form is Format.IDS:
            print(row[id_column])
        elif form is Format.CSV:
            writer.writerow([_csv_safe(_text(row.get(column))) for column in columns])
        else:
            print(json.dumps({column: row.get(column) for column in columns}, ensure_ascii=False))
    return count


def _json(rows: Iterable[Row], columns: Sequence[str]) -> int:
    count = 0
    print("[", end="")
    for row in rows:
        members = {column: row.get(column) for column in columns}
        print(",\n " if count else "\n ", json.dumps(members, ensure_ascii=False), sep="", end="")
        count += 1
    print("\n]" if count else "]")
    return count


def _table(rows: list[Row], columns: Sequence[str]) -> int:
    if not rows:
        return 0
    cells = [[visible(_text(row.get(column))) for column in columns] for row in rows]
    widths = [max(map(_width, column)) for column in zip(list(columns), *cells, strict=True)]
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in ([*columns], ["-" * width for width in widths], *cells):
        text = "  ".join(_filled(cell, width) for cell, width in zip(line, widths, strict=True))
        print(cut(text.rstrip(), room))
    return len(rows)


def visible(text: str) -> str:
    """Text without characters that would move the cursor or colour the terminal."""
    return "".join(
        c if unicodedata.category(c)[0] != "C" else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def cut(text: str, room: int | None) -> str:
    """At most ``room`` columns of a terminal, the last an ellipsis if something was cut."""
    if room is None or _width(text) <= room:
        return text
    kept = ""
    for character in text:
        if _width(kept + character) >= room:
            break
        kept += character
    return kept + "…"


def _width(text: str) -> int:
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def _filled(text: str, width: int) -> str:
    return text + " " * (width - _width(text))


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return " | ".join(map(str, value))
    return str(value)


def _csv_safe(text: str) -> str:
    """A cell that a spreadsheet would take for a formula is made text (OWASP, CSV injection)."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
