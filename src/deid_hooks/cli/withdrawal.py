"""Consent is withdrawn: ``block`` and ``withdrawn``."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from deid_hooks.cli.context import (
    UPLOADER,
    ReasonOption,
    SelectionArgument,
    arguments_of,
    looking,
    texts_of,
)
from deid_hooks.cli.failures import NOTHING_FOUND


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
    from deid_hooks.administrator import withdrawal
    from deid_hooks.matching import parse

    if bool(terms) == bool(patient_id):
        raise typer.BadParameter("say who: search terms, or --patient-id @FILE")
    if not reason.strip():
        raise typer.BadParameter("say why: --reason TEXT")
    texts = texts_of(terms or ())
    with looking(context, "block", reason) as looker:
        recorder = looker.recorder
        if terms:
            found = looker.recorded(
                recorder.search(parse(texts)), "\n".join(texts), lambda log_id: [log_id]
            )
            ids = list(found)
            if not ids:
                typer.echo("Nothing found; --patient-id takes who is not in the log.", err=True)
                raise typer.Exit(NOTHING_FOUND)
            patients = [withdrawal.patient_of_entries(recorder, ids)]
        else:
            patients = list(withdrawal.patients_named(arguments_of([patient_id]), recorder.secret))
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
    from deid_hooks.administrator.selection import selected
    from deid_hooks.administrator.withdrawal import note_withdrawn

    selection = selected(texts_of(those))
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
    from deid_hooks.errors import DeidHooksError
    from deid_hooks.settings import masked
    from deid_hooks.uploader.destinations import open_destination

    try:
        return open_destination(text).name
    except DeidHooksError:  # a name that another uploader gave
        return masked(text)
