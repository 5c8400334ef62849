"""What commands share: the settings they were given, the log, and who is looking."""

from __future__ import annotations

import getpass
import logging
import socket
import sys
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from deid_hooks.entry import AccessRow, now
from deid_hooks.errors import DeidHooksError, LogError, UnableToLog

if TYPE_CHECKING:
    from deid_hooks.hooks import DeidHooks

UPLOADER = "deid-hooks"


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


def look(action: str, asked: str, log_ids: Sequence[str], reason: str) -> AccessRow:
    """The row of the access trail for what is about to be shown."""
    return AccessRow(
        id=uuid.uuid4().hex,
        at=now(),
        who=_user(),
        where=socket.gethostname(),
        action=action,
        asked=asked,
        log_ids=tuple(log_ids),
        reason=reason,
    )


def arguments_of(words: Iterable[str]) -> list[str]:
    """Words of the command line, with ``@file`` and ``-`` replaced by the lines they hold."""
    from deid_hooks.matching import read_terms

    found: list[str] = []
    for word in words:
        if word == "-":
            found += read_terms(sys.stdin)
        elif word.startswith("@"):
            with _open(word[1:]) as file:
                found += read_terms(file)
        else:
            found.append(word)
    return found


@contextmanager
def _open(name: str) -> Iterator[Iterable[str]]:
    try:
        with Path(name).open(encoding="utf-8") as file:
            yield file
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise typer.BadParameter(f"{name} can't be read: {why}") from None


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, in a container
        import os

        return f"uid {os.getuid()}"
