"""What a shell offers when a word is half typed: keywords for terms and columns."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deid_hooks.errors import (
    DeidHooksError,
    LogError,
    NotAllowed,
    SettingsError,
    TermError,
    UnableToLog,
)

if TYPE_CHECKING:
    from deid_hooks.admin.access import AccessRecorder
    from deid_hooks.hooks import DeidHooks

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
    from deid_hooks.dicom.dictionary import list_keywords
    from deid_hooks.query.parser import ENTRY_FIELDS
    from deid_hooks.records.fields import INDEXED_FIELDS

    yield from (*INDEXED_FIELDS, *ENTRY_FIELDS, _SIDE)
    if len(text) > 2:
        yield from (name for name in list_keywords() if name not in INDEXED_FIELDS)


def _deid_names() -> Iterator[str]:
    from deid_hooks.records.fields import DEID_FIELDS

    yield from (f"{_SIDE}{name}" for name in (*DEID_FIELDS, "SOPInstanceUID"))


UPLOADER = "deid-hooks"

ReasonOption = Annotated[str, typer.Option(help="Why you look: kept in the access trail.")]

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


@dataclass(frozen=True)
class LogSettings:
    """What the options before the command said."""

    url: str | None = None


@contextmanager
def open_hooks(context: typer.Context) -> Iterator[DeidHooks]:
    """The hooks of this command, closed when it ends. Warnings go to standard error."""
    from deid_hooks.hooks import DeidHooks

    logging.basicConfig(format="%(message)s", stream=sys.stderr, level=logging.WARNING)
    logging.captureWarnings(False)
    with DeidHooks.load(UPLOADER, url=context.obj.url) as hooks:
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
def looking(context: typer.Context, action: str, reason: str) -> Iterator[AccessRecorder]:
    """The log for a command that shows or changes what is in it.

    Wrong use without a reason, where the settings require one.
    """
    from deid_hooks.admin.access import AccessRecorder

    with open_hooks(context) as hooks:
        refuse_without_reason(hooks, reason)
        yield AccessRecorder(hooks.open_log(), action, reason)


def refuse_without_reason(hooks: DeidHooks, reason: str) -> None:
    """Raise BadParameter if the settings require a reason and there is none."""
    if hooks.settings.require_reason and not reason.strip():
        raise typer.BadParameter("say why you look: --reason TEXT (the settings require it)")


def read_arguments(words: Iterable[str]) -> list[str]:
    """Words of the command line, with ``@file`` and ``-`` replaced by the lines they hold."""
    from deid_hooks.query.parser import read_terms

    found: list[str] = []
    for word in words:
        if word == "-" or word.startswith("@"):
            found += read_terms(read_lines(word.removeprefix("@")))
        else:
            found.append(word)
    return found


def read_term_texts(words: Sequence[str]) -> list[str]:
    """Search terms of the command line, of files and of standard input, one in each text."""
    return read_arguments(_names_joined(words))


def _names_joined(words: Sequence[str]) -> list[str]:
    """Neighbouring words without a keyword are one name, quoted or not: ``search John Doe``."""
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
    return joined


def read_lines(name: str) -> Iterator[str]:
    """The lines of a file, or for ``-`` of standard input; BadParameter if it can't be read."""
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


NOTHING_FOUND = 1
FAILED = 1
WRONG_USE = 2
SOME_REFUSED = 3
LOG_UNAVAILABLE = 69


def choose_exit_code(error: Exception) -> int:
    if isinstance(error, SettingsError | TermError):
        return WRONG_USE
    if isinstance(error, NotAllowed):
        return FAILED
    if isinstance(error, LogError | UnableToLog):
        return LOG_UNAVAILABLE
    return FAILED


def describe_error(error: Exception) -> str:
    """The message of an error of ours; of any other only its kind and place, never its text."""
    if isinstance(error, DeidHooksError):
        text = str(error)
        return text[:1].upper() + text[1:]
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    kind = type(error).__name__
    if isinstance(error, OSError) and error.errno:
        kind += f" ({os.strerror(error.errno).lower()})"
    return (
        f"Internal error: {kind}{place}. Its text is not shown, it may identify a patient."
        " Please report it with what you did."
    )
