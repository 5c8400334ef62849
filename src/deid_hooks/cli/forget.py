"""Erasing entries: ``forget``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from deid_hooks.cli.context import SelectionArgument, looking, texts_of
from deid_hooks.cli.failures import FAILED, NOTHING_FOUND, said_of
from deid_hooks.cli.output import FormatOption, write_rows

if TYPE_CHECKING:
    from deid_hooks.administrator.forgetting import Plan


def forget(
    context: typer.Context,
    those: SelectionArgument,
    reason: Annotated[str, typer.Option(help="Why: kept with what is left of the entries.")],
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would go.")] = False,
    form: FormatOption = None,
) -> None:
    """Erase entries for good: values, dates and digests, in every part of the store.

    Left are the log id, when the entry was made, who erased it, when and why, and where the images
    went. There is no way back. Terms must find one patient, unless they are about when the entries
    were made only: that is how a retention period is kept.

    \b
    deid-hooks forget @terms.txt --reason 'request of 2026-11-24' --dry-run
    deid-hooks forget 'created=..2015-12-31' --reason 'kept for ten years' --yes
    """
    from deid_hooks.administrator.forgetting import forget as erase
    from deid_hooks.administrator.forgetting import plan
    from deid_hooks.administrator.selection import selected
    from deid_hooks.errors import LogError

    if not reason.strip():
        raise typer.BadParameter("say why: --reason TEXT")
    selection = selected(texts_of(those))
    with looking(context, "forget", reason) as looker:
        made = plan(looker, selection)
        _refuse_unknown(made)
        _warn_of_copies(made)
        if dry_run:
            write_rows(({"id": log_id} for log_id in made.log_ids), ["id"], form, "id")
            typer.echo(f"{_entries(len(made.log_ids))} would be erased.", err=True)
            return
        _confirm(made, yes)
        try:
            erase(looker, [*made.log_ids, *made.forgotten], reason)
        except LogError as error:
            if type(error) is not LogError:  # nothing was erased
                raise
            typer.echo(said_of(error), err=True)
            _tell_how_to_finish(made)
            raise typer.Exit(FAILED) from None
    typer.echo(f"Erased: {_entries(len(made.log_ids))}.")


def _refuse_unknown(made: Plan) -> None:
    for log_id in made.unknown:
        typer.echo(f"The log has no entry for {log_id}.", err=True)
    if made.unknown or not (made.log_ids or made.forgotten):
        typer.echo("Nothing was erased.", err=True)
        raise typer.Exit(NOTHING_FOUND)


def _warn_of_copies(made: Plan) -> None:
    """The log is what leads from a copy to the patient; without it nobody finds them."""
    if made.copies:
        where = ", ".join(f"{destination} ({count})" for destination, count in made.copies.items())
        typer.echo(
            f"Not noted as withdrawn, and not to be found again without the log: {where}.", err=True
        )


def _confirm(made: Plan, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise typer.BadParameter("nobody is there to ask: add --yes, or see with --dry-run")
    if not typer.confirm(f"Erase {_entries(len(made.log_ids))} for good?", err=True):
        typer.echo("Nothing was erased.", err=True)
        raise typer.Exit(FAILED)


def _tell_how_to_finish(made: Plan) -> None:
    one = (made.log_ids or made.forgotten)[0]
    typer.echo(f"To finish it: deid-hooks forget {one} --reason ... --yes", err=True)


def _entries(count: int) -> str:
    return "1 entry" if count == 1 else f"{count} entries"
