"""Results on standard output: a table on a terminal, JSON Lines in a pipe, or as asked.

Everything that a command prints goes through ``put``, everything that it tells through ``say``, and
what reaches a terminal by whatever way through the streams that ``ready_streams`` makes: text that
came from an image, from the log or from a service never commands the terminal.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from enum import StrEnum
from functools import partial
from itertools import chain, islice
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, TextIO, cast

import typer

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

OutputOption = Annotated[
    Path | None,
    typer.Option(help="Write to this new file, your own only, instead of standard output."),
]

Row = Mapping[str, Any]

_ROWS_MEASURED = 500
_NARROWEST = 6
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "'")


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
    escapes it, and stops nothing. On a terminal, and in what is told, no character is a command.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
            os.set_inheritable(number, True)
            mode = "w" if number else "r"
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    if sys.stdout.isatty():
        sys.stdout = cast(TextIO, _Plain(sys.stdout))
    sys.stderr = cast(TextIO, _Plain(sys.stderr))


class _Plain:
    """A text stream that writes no characters but those that are seen, lines and tabs."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        escaped = text.encode("utf-8", "backslashreplace").decode("utf-8")
        self._stream.write(make_visible(escaped, keep="\n\t"))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def put(text: str = "", end: str = "\n") -> None:
    """Print on standard output. Raises Unwritten, or BrokenPipeError if nobody reads it."""
    try:
        print(text, end=end)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Unwritten(error) from None


def say(*sentences: str, end: str = "\n") -> None:
    """Print on standard error, if that can be written."""
    try:
        for sentence in sentences:
            print(sentence, end=end, file=sys.stderr)
        sys.stderr.flush()
    except OSError:
        _discard(sys.stderr)


def count_on_terminal(text: str) -> None:
    """Show how far it is, in the place of what was shown before, where people look on."""
    if sys.stderr.isatty():
        print(f"\r{text}", end="", file=sys.__stderr__, flush=True)


def discard_output() -> None:
    """Discard what is printed from now on: nobody reads standard output, or it can't be written."""
    _discard(sys.stdout)


def _discard(stream: TextIO) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextmanager
def write_to(output: Path | None) -> Iterator[None]:
    """Write to standard output, or to a new file that is private, and whole or not there at all.

    Raises BadParameter if there is such a file, or it can't be written.
    """
    if output is None:
        yield
        return
    from deid_hooks.files import make_new_file, remove_leftovers

    if output.exists():
        raise typer.BadParameter(f"{output} exists already: nothing is overwritten")
    try:
        remove_leftovers(output.absolute().parent)
        with make_new_file(output.absolute().parent) as new:
            with open(
                new.descriptor,
                "w",
                encoding="utf-8",
                errors="backslashreplace",  # as on standard output
                closefd=False,
                newline="",
            ) as text:
                with redirect_stdout(text):
                    yield
                text.flush()
                os.fsync(new.descriptor)
            new.name(output.absolute())
    except FileExistsError:
        raise typer.BadParameter(f"{output} exists already: nothing is overwritten") from None
    except BrokenPipeError:
        raise
    except (OSError, Unwritten) as error:
        raise typer.BadParameter(f"{output} can't be written: {error.strerror}") from None
    say(f"Written: {output}")


def choose_format(wanted: Format | None) -> Format:
    """Return the format that is wanted, or the one for where standard output goes."""
    return wanted or (Format.TABLE if sys.stdout.isatty() else Format.JSONL)


def write_rows(
    rows: Iterable[Row], columns: Sequence[str], wanted: Format | None, id_column: str
) -> int:
    """Write rows of these columns as they come, and return how many there were.

    A table is cut to the width of the terminal; everywhere else values are whole.
    """
    form = choose_format(wanted)
    if form is Format.TABLE:
        return _write_table(rows, columns)
    count = 0
    writer = csv.writer(SimpleNamespace(write=partial(put, end="")), lineterminator="\n")
    if form is Format.CSV:
        writer.writerow(columns)
    elif form is Format.JSON:
        put("[", end="")
    for count, row in enumerate(rows, 1):
        if form is Format.IDS:
            put(row[id_column])
        elif form is Format.CSV:
            writer.writerow([disarm_cell(_render(row.get(column))) for column in columns])
        else:
            text = json.dumps({column: row.get(column) for column in columns}, ensure_ascii=False)
            if form is Format.JSONL:
                put(text)
            else:
                put((",\n " if count > 1 else "\n ") + text, end="")
    if form is Format.JSON:
        put("\n]" if count else "]")
    return count


def _write_table(rows: Iterable[Row], columns: Sequence[str]) -> int:
    """Widths are those of the first rows: a table of any length takes bounded memory."""
    from wcwidth import ljust, width

    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    lines = (
        [make_visible(_render(row.get(column))).replace("\n", " ") for column in columns]
        for row in rows
    )
    first = list(islice(lines, _ROWS_MEASURED))
    if not first:
        return 0
    wanted = [max(map(width, column)) for column in zip(list(columns), *first, strict=True)]
    widths = _fit(wanted, room)
    heading = (list(columns), ["-" * size for size in widths])
    count = -len(heading)
    for line in chain(heading, first, lines):
        cells = zip(line, widths, strict=True)
        text = "  ".join(ljust(cut(cell, size if room else None), size) for cell, size in cells)
        put(cut(text.rstrip(), room))
        count += 1
    return count


def _fit(widths: Sequence[int], room: int | None) -> list[int]:
    """Return widths that fit the room: the widest give way, but not the first column, the id."""
    fitted = list(widths)
    while room and sum(fitted) + 2 * (len(fitted) - 1) > room:
        widest = max(range(1, len(fitted)), key=fitted.__getitem__, default=0)
        if not widest or fitted[widest] <= _NARROWEST:
            break
        fitted[widest] -= 1
    return fitted


def make_visible(text: str, keep: str = "") -> str:
    """Replace the characters that would command a terminal, or change the order of others.

    Those are control and format characters, and what no Unicode knows; ``keep`` has the ones that
    stay.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c in keep or unicodedata.category(c)[0] != "C" else "\N{REPLACEMENT CHARACTER}"
        for c in text
    )


def cut(text: str, room: int | None) -> str:
    """Cut to ``room`` columns of a terminal, the last one an ellipsis if something is cut."""
    from wcwidth import clip, width

    if room is None or width(text) <= room:
        return text
    return clip(text, 0, room - 1) + "…"


def disarm_cell(text: str) -> str:
    """Put an apostrophe before what could start a formula, and before an apostrophe."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def join_values(value: object) -> str:
    """Return one text for the value or the values of an attribute."""
    return " | ".join(map(str, value)) if isinstance(value, list | tuple) else str(value or "")


def _render(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value) if isinstance(value, int | float) else join_values(value)
