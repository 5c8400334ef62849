"""What commands share: the log, arguments from files, exit codes, messages, completion."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from deid_hooks.cli.output import Unwritten, make_visible, say
from deid_hooks.errors import (
    DeidHooksError,
    LogError,
    NotAllowed,
    SettingsError,
    TermError,
    UnableToLog,
)

if TYPE_CHECKING:
    from deid_hooks.access import AccessRecorder
    from deid_hooks.hooks import DeidHooks
    from deid_hooks.log import Log

UPLOADER = "deid-hooks"

NOTHING_FOUND = 1
FAILED = 1
WRONG_USE = 2
SOME_REFUSED = 3
LOG_UNAVAILABLE = 69

ALTERED = (
    "Somebody altered the log: what is named here is not what was written. Run deid-hooks verify,"
    ' and read "The log was altered" in docs/verify.md.'
)


@dataclass(frozen=True)
class LogSettings:
    """The options that stand before the command."""

    url: str | None = None


@contextmanager
def open_hooks(context: typer.Context, url: str | None = None) -> Iterator[DeidHooks]:
    """Load the hooks of this command, and close them. Warnings go to standard error."""
    from deid_hooks.hooks import DeidHooks

    logging.basicConfig(format="%(message)s", stream=sys.stderr, level=logging.WARNING)
    logging.captureWarnings(False)
    with DeidHooks.load(UPLOADER, url=url or context.obj.url) as hooks:
        yield hooks


def check_log(hooks: DeidHooks) -> None:
    """Raise UnableToLog, in the words that users know, if an upload could not be logged now."""
    try:
        hooks.check()
    except LogError as error:
        raise UnableToLog(error.cause, error.remedy) from None
    except DeidHooksError as error:
        raise UnableToLog(str(error)) from None


@contextmanager
def open_access(context: typer.Context, action: str, reason: str) -> Iterator[AccessRecorder]:
    """Open the log for a command that shows or changes what it holds.

    Raises BadParameter without a reason, where the settings require one.
    """
    from deid_hooks.access import AccessRecorder

    with open_hooks(context) as hooks:
        refuse_without_reason(hooks, reason)
        log = hooks.gate.open_log()
        yield AccessRecorder(log, action, reason)
        stop_if_altered(log)


def stop_if_altered(log: Log) -> None:
    """Name what was shown and is not what was written, and end the command with exit code 3."""
    if log.altered:
        for record_id, what in log.altered.items():
            say(f"ALTERED: {make_visible(record_id)}: {what}")
        say(ALTERED)
        raise typer.Exit(SOME_REFUSED)


def refuse_without_reason(hooks: DeidHooks, reason: str) -> None:
    """Raise BadParameter if the settings require a reason and there is none."""
    if hooks.settings.require_reason and not reason.strip():
        raise typer.BadParameter("give a reason: --reason TEXT (the settings require it)")


def read_arguments(words: Iterable[str]) -> list[str]:
    """Return the words of the command line, those of ``@file`` and ``-`` in their place."""
    from deid_hooks.query.parser import read_terms

    found: list[str] = []
    for word in words:
        if word == "-" or word.startswith("@"):
            found += read_terms(read_lines(word.removeprefix("@")))
        else:
            found.append(word)
    return found


def read_term_texts(words: Sequence[str]) -> list[str]:
    """Return the search terms of the command line, of files and of standard input, one a text.

    Neighbouring words without a keyword are one name, quoted or not: ``search John Doe``.
    """
    from deid_hooks.query.parser import is_bare
    from deid_hooks.records.model import parse_log_id

    joined: list[str] = []
    open_name = False
    for word in words:
        elsewhere = word == "-" or word.startswith("@") or parse_log_id(word)
        in_name = not elsewhere and is_bare(word)
        if in_name and open_name:
            joined[-1] += f" {word}"
        else:
            joined.append(word)
        open_name = in_name
    return read_arguments(joined)


def read_lines(name: str) -> Iterator[str]:
    """Yield the lines of a file, or for ``-`` of standard input; BadParameter if it can't be."""
    try:
        if name == "-":
            yield from sys.stdin
        else:
            with Path(name).open(encoding="utf-8") as file:
                yield from file
    except (OSError, UnicodeDecodeError) as error:
        what = "standard input" if name == "-" else name
        why = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise typer.BadParameter(f"{what} can't be read: {why}") from None


def stop_without(message: str) -> NoReturn:
    """End the command with the exit code for nothing found."""
    say(message)
    raise typer.Exit(NOTHING_FOUND)


def choose_exit_code(error: Exception) -> int:
    """Return the exit code of a command that ended with this error."""
    if isinstance(error, SettingsError | TermError):
        return WRONG_USE
    if isinstance(error, LogError | UnableToLog) and not isinstance(error, NotAllowed):
        return LOG_UNAVAILABLE
    return FAILED


def describe_error(error: Exception) -> str:
    """Return the message of an error of ours; of any other its kind and place, never its text."""
    if isinstance(error, DeidHooksError):
        text = str(error).replace("\n", " ")  # what a service said makes no line of its own
        return text[:1].upper() + text[1:]
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, OSError) and frames and frames[-1].name == "echo":
        return str(Unwritten(error))  # Typer prints --help itself
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    kind = type(error).__name__
    if isinstance(error, OSError) and error.errno:
        kind += f" ({os.strerror(error.errno).lower()})"
    return (
        f"Internal error: {kind}{place}. Its text is not shown, it may identify a patient."
        " Please report it with what you did."
    )


_SIDE = "deid:"


def complete_term(incomplete: str) -> list[str]:
    """Complete ``PatientNa`` to ``PatientName=``, ``deid:Pat`` to ``deid:PatientID=``."""
    return [] if "=" in incomplete else [f"{name}=" for name in _find_names(incomplete)]


def complete_column(incomplete: str) -> list[str]:
    """Complete the last of several columns, ``StudyDate,Mod`` to ``StudyDate,Modality``."""
    before, comma, last = incomplete.rpartition(",")
    minus = "-" if last.startswith("-") else ""
    return [f"{before}{comma}{minus}{name}" for name in _find_names(last.removeprefix("-"))]


def _find_names(text: str) -> list[str]:
    """Return the keywords that begin so: indexed fields first, every other after two letters."""
    from deid_hooks.dicom.dictionary import list_keywords
    from deid_hooks.query.parser import ENTRY_FIELDS
    from deid_hooks.records.fields import DEID_FIELDS, INDEXED_FIELDS

    if text.lower().startswith(_SIDE):
        names = [f"{_SIDE}{name}" for name in (*DEID_FIELDS, "SOPInstanceUID")]
    else:
        names = [*INDEXED_FIELDS, *ENTRY_FIELDS, _SIDE]
        if len(text) > 2:
            names += [name for name in list_keywords() if name not in INDEXED_FIELDS]
    return [name for name in names if name.lower().startswith(text.lower())]


ReasonOption = Annotated[
    str, typer.Option(help="Why you access the log: kept in the access trail.")
]

TermsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="TERM...",
        help="KEYWORD=VALUE, a name, @FILE, or - for stdin.",
        autocompletion=complete_term,
    ),
]

SelectionArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="LOG_ID...|TERM...",
        help="Log ids, or search terms; @FILE, -.",
        autocompletion=complete_term,
    ),
]
