"""Consent is withdrawn: ``block`` and ``withdrawn``."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from deid_hooks.cli.context import (
    FAILED,
    NOTHING_FOUND,
    UPLOADER,
    ReasonOption,
    SelectionArgument,
    describe_error,
    looking,
    read_arguments,
    read_term_texts,
)
from deid_hooks.cli.output import FormatOption, write_rows

if TYPE_CHECKING:
    from deid_hooks.admin.withdrawal import Plan


def block(
    context: typer.Context,
    reason: Annotated[str, typer.Option(help="Why: kept with the block.")],
    terms: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TERM...]", help="Terms that find one patient; @FILE, or -."),
    ] = None,
    patient_id: Annotated[
        str,
        typer.Option(
            metavar="@FILE|-",
            help="PatientIDs, one a line, each with its issuer after a tab if it has one.",
        ),
    ] = "",
    project: Annotated[str, typer.Option(help="Only in this project; otherwise in all.")] = "",
    lift: Annotated[bool, typer.Option(help="Let this patient's images leave again.")] = False,
) -> None:
    """Refuse every later upload of a patient, on every machine that shares the log.

    The log keeps a keyed digest of PatientID and issuer, not who it is. With --patient-id the
    patient need not be in the log.

    \b
    deid-hooks block @terms.txt --reason 'consent withdrawn 2026-11-24'
    deid-hooks block --patient-id @numbers.txt --project TRIAL7 --reason 'never consented'
    """
    from deid_hooks.admin import withdrawal
    from deid_hooks.query.parser import parse_terms

    if bool(terms) == bool(patient_id):
        raise typer.BadParameter("say who: search terms, or --patient-id @FILE")
    if not reason.strip():
        raise typer.BadParameter("say why: --reason TEXT")
    texts = read_term_texts(terms or ())
    with looking(context, "block", reason) as looker:
        recorder = looker.recorder
        if terms:
            found = looker.recorded(
                recorder.search(parse_terms(texts)), "\n".join(texts), lambda log_id: [log_id]
            )
            ids = list(found)
            if not ids:
                typer.echo("Nothing found; --patient-id takes who is not in the log.", err=True)
                raise typer.Exit(NOTHING_FOUND)
            patients = [withdrawal.patient_of_entries(recorder, ids)]
        else:
            patients = list(
                withdrawal.patients_named(read_arguments([patient_id]), recorder.secret)
            )
        count = withdrawal.block(recorder, patients, project, reason, lift)
    what = "may leave again" if lift else "leaves any more"
    where = f"project {project}" if project else "every project"
    whom = "one patient" if count == 1 else f"{count} patients"
    typer.echo(f"{'Lifted' if lift else 'Blocked'}: of {whom} {_no(lift)} {what}, in {where}.")


def _no(lift: bool) -> str:
    return "images" if lift else "nothing"


def withdrawn(
    context: typer.Context,
    destination: Annotated[str, typer.Argument(help="Where it was deleted, as `report` has it.")],
    those: SelectionArgument,
    at: Annotated[str, typer.Option(help="When: 2026-11-24, or with a time (UTC).")] = "",
    reason: ReasonOption = "",
) -> None:
    """Note that images were deleted at a destination. An upload does not send them again.

    It deletes nothing: do that at the archive first; `report` has the UIDs.

    \b
    deid-hooks withdrawn dicom://ARCHIVE@pacs:11112 @terms.txt --at 2026-11-24
    """
    from deid_hooks.admin.search import selected
    from deid_hooks.admin.withdrawal import note_withdrawn

    selection = selected(read_term_texts(those))
    when = _moment(at)
    with looking(context, "withdrawn", reason) as looker:
        ids = looker.recorded(
            selection.search(looker.recorder), selection.asked, lambda log_id: [log_id]
        )
        name = _destination(destination)
        noted = note_withdrawn(looker.recorder, name, ids, when, UPLOADER)
    if noted.now:
        copies = "acquisition" if noted.now == 1 else "acquisitions"
        typer.echo(f"{noted.now} {copies} noted as withdrawn from {name}.")
        return
    if noted.before:
        typer.echo(f"That was noted before, of {noted.before} at {name}.", err=True)
        return
    where = f" They are at {', '.join(noted.elsewhere)}." if noted.elsewhere else ""
    typer.echo(f"None of them was sent to {name}.{where}", err=True)
    raise typer.Exit(NOTHING_FOUND)


def _moment(text: str) -> str:
    """A date, or a date and time, as upload events have it."""
    present = datetime.now(UTC)
    try:
        when = datetime.fromisoformat(text) if text else present
    except ValueError:
        raise typer.BadParameter("--at: there is no such date; write 2026-11-24") from None
    when = when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
    if when > present:
        raise typer.BadParameter("--at: that is yet to come")
    return when.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _destination(text: str) -> str:
    """A destination as uploads note it: a relative folder stands there with its whole path."""
    from deid_hooks.destinations import open_destination
    from deid_hooks.errors import DeidHooksError
    from deid_hooks.settings import mask_passwords

    try:
        return open_destination(text).name
    except DeidHooksError:  # a name that another uploader gave
        return mask_passwords(text)


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
    from deid_hooks.admin.search import selected
    from deid_hooks.admin.withdrawal import forget as erase
    from deid_hooks.admin.withdrawal import plan
    from deid_hooks.errors import LogError

    if not reason.strip():
        raise typer.BadParameter("say why: --reason TEXT")
    selection = selected(read_term_texts(those))
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
            typer.echo(describe_error(error), err=True)
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
