"""What commands share: the settings they were given, the log, and who is looking."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deid_hooks.cli.completion import complete_term
from deid_hooks.errors import DeidHooksError, LogError, UnableToLog

if TYPE_CHECKING:
    from deid_hooks.administrator.looking import Looker
    from deid_hooks.hooks import DeidHooks

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
def hooks_of(context: typer.Context) -> Iterator[DeidHooks]:
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
def looking(context: typer.Context, action: str, reason: str) -> Iterator[Looker]:
    """The log for a command that shows or changes what is in it.

    Wrong use without a reason, where the settings require one.
    """
    from deid_hooks.administrator.looking import Looker

    with hooks_of(context) as hooks:
        refuse_without_reason(hooks, reason)
        yield Looker(hooks.recorder, action, reason)


def refuse_without_reason(hooks: DeidHooks, reason: str) -> None:
    """Raise BadParameter if the settings require a reason and there is none."""
    if hooks.settings.require_reason and not reason.strip():
        raise typer.BadParameter("say why you look: --reason TEXT (the settings require it)")


def arguments_of(words: Iterable[str]) -> list[str]:
    """Words of the command line, with ``@file`` and ``-`` replaced by the lines they hold."""
    from deid_hooks.matching import read_terms

    found: list[str] = []
    for word in words:
        if word == "-" or word.startswith("@"):
            found += read_terms(lines_of(word.removeprefix("@")))
        else:
            found.append(word)
    return found


def texts_of(words: Sequence[str]) -> list[str]:
    """Search terms of the command line, of files and of standard input, one in each text."""
    return arguments_of(_names_joined(words))


def _names_joined(words: Sequence[str]) -> list[str]:
    """Neighbouring words without a keyword are one name, quoted or not: ``search John Doe``."""
    from deid_hooks.entry import parse_log_id
    from deid_hooks.terms import is_bare

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


def lines_of(name: str) -> Iterator[str]:
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
