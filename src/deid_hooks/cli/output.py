"""Results on standard output: a table on a terminal, JSON Lines in a pipe, or as asked."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from functools import partial
from itertools import chain, islice
from types import SimpleNamespace
from typing import Annotated, Any, TextIO

import typer

from deid_hooks.admin.search import safe_cell
from deid_hooks.errors import DeidHooksError


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

_ROWS_MEASURED = 500
_NARROWEST = 6


class Unwritten(DeidHooksError):
    """Standard output can't take what was to be shown. ``strerror`` says why."""

    def __init__(self, error: OSError) -> None:
        self.strerror = error.strerror
        super().__init__(
            f"Standard output can't be written: {str(error.strerror).lower()}."
            " Not everything that was to be shown is there."
        )


def ready_streams() -> None:
    """Make standard streams take what is printed, whoever began this process, in any locale.

    One that was closed becomes the null device: the next file that is opened would get its number,
    and what is meant for people. What has no encoding, a file name above all, is written as JSON
    escapes it, and stops nothing.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
            os.set_inheritable(number, True)
            mode = "w" if number else "r"
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def nobody_reads() -> None:
    """Throw away what is printed from now on: whoever read standard output has gone."""
    _throw_away(sys.stdout)


def put(text: str, end: str = "\n") -> None:
    """Print on standard output. Raises Unwritten, or BrokenPipeError if nobody reads it."""
    try:
        print(text, end=end)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Unwritten(error) from None


def say(*sentences: str) -> None:
    """Tell the user on standard error, if that can be written."""
    try:
        for sentence in sentences:
            print(sentence, file=sys.stderr)
        sys.stderr.flush()
    except OSError:
        _throw_away(sys.stderr)


def _throw_away(stream: TextIO) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


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
        return _table(rows, columns)
    if form is Format.JSON:
        return _json(rows, columns)
    count = 0
    writer = csv.writer(SimpleNamespace(write=partial(put, end="")), lineterminator="\n")
    if form is Format.CSV:
        writer.writerow(columns)
    for row in rows:
        count += 1
        if form is Format.IDS:
            put(row[id_column])
        elif form is Format.CSV:
            writer.writerow([safe_cell(_text(row.get(column))) for column in columns])
        else:
            put(json.dumps({column: row.get(column) for column in columns}, ensure_ascii=False))
    return count


def _json(rows: Iterable[Row], columns: Sequence[str]) -> int:
    count = 0
    put("[", end="")
    for row in rows:
        members = {column: row.get(column) for column in columns}
        put((",\n " if count else "\n ") + json.dumps(members, ensure_ascii=False), end="")
        count += 1
    put("\n]" if count else "]")
    return count


def _table(rows: Iterable[Row], columns: Sequence[str]) -> int:
    """Widths are those of the first rows: a table of any length takes bounded memory."""
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    remaining = (
        [visible(_text(row.get(column))).replace("\n", " ") for column in columns] for row in rows
    )
    first = list(islice(remaining, _ROWS_MEASURED))
    if not first:
        return 0
    wanted = [max(map(_width, column)) for column in zip(list(columns), *first, strict=True)]
    widths = _fitted(wanted, room)
    count = 0
    _print_line(columns, widths, room)
    _print_line(["-" * width for width in widths], widths, room)
    for line in chain(first, remaining):
        _print_line(line, widths, room)
        count += 1
    return count


def _print_line(cells: Sequence[str], widths: Sequence[int], room: int | None) -> None:
    pairs = zip(cells, widths, strict=True)
    text = "  ".join(_filled(cut(cell, width if room else None), width) for cell, width in pairs)
    put(cut(text.rstrip(), room))


def _fitted(widths: Sequence[int], room: int | None) -> list[int]:
    """Widths that fit the room: the widest give way, but the first column, which is the id."""
    fitted = list(widths)
    while room and sum(fitted) + 2 * (len(fitted) - 1) > room:
        widest = max(range(1, len(fitted)), key=fitted.__getitem__, default=0)
        if not widest or fitted[widest] <= _NARROWEST:
            break
        fitted[widest] -= 1
    return fitted


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
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return " | ".join(map(str, value))
    return str(value)
