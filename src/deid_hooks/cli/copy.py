"""Moving the log to another store: ``copy``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated

import typer

from deid_hooks.cli.context import UPLOADER, arguments_of, refuse_without_reason

_WORDS = {
    "Entry": "entries",
    "UploadEvent": "upload events",
    "AccessRow": "access rows",
    "Tombstone": "tombstones",
    "Block": "blocks",
}


def copy(
    source: Annotated[str, typer.Argument(metavar="FROM", help="URL of a log, or @FILE.")],
    target: Annotated[str, typer.Argument(metavar="TO", help="URL of a log, or @FILE.")],
    reason: Annotated[str, typer.Option(help="Why: kept in the access trail.")] = "",
) -> None:
    """Copy a whole log into another store, made if there is none, and verify the copy.

    Stop the uploaders first. Repeat it after any trouble: what is there already is passed over.
    A URL with a password belongs in a file: arguments are visible to other users of the machine.

    \b
    deid-hooks copy sqlite:////srv/deid/log.db @url-of-the-database.txt
    """
    from deid_hooks.administrator.looking import look
    from deid_hooks.copying import copy_log
    from deid_hooks.deadline import Deadline
    from deid_hooks.hooks import DeidHooks
    from deid_hooks.opening import backend_of
    from deid_hooks.settings import masked

    source, target = _url(source), _url(target)
    with DeidHooks.load(UPLOADER, url=source) as hooks:
        refuse_without_reason(hooks, reason)
        hooks.check()
        into = backend_of(target)
        try:
            into.create(Deadline(hooks.settings.deadline))
            hooks.recorder.look(look("copy", f"to {masked(target)}", (), reason))
            held = copy_log(hooks.recorder.backend, into, hooks.settings.deadline, _progress())
        finally:
            into.close()
    if sys.stderr.isatty():
        print(file=sys.stderr)
    parts = (f"{count} {_WORDS[kind]}" for kind, count in sorted(held.counts.items()))
    typer.echo(f"The copy is whole: {', '.join(parts)}.")


def _url(word: str) -> str:
    urls = arguments_of([word])
    if len(urls) != 1:
        raise typer.BadParameter("one URL is wanted")
    return urls[0]


def _progress() -> Callable[[int], None]:
    """Counts on a terminal, and nowhere else."""
    done = 0

    def told(records: int) -> None:
        nonlocal done
        done += records
        if sys.stderr.isatty():
            print(f"\r{done} records", end="", file=sys.stderr, flush=True)

    return told
