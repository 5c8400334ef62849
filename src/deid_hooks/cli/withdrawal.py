"""The commands ``block``, ``withdrawn`` and ``forget``, for withdrawn consent."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from deid_hooks.cli.context import (
    FAILED,
    UPLOADER,
    ReasonOption,
    SelectionArgument,
    describe_error,
    open_access,
    read_arguments,
    read_term_texts,
    stop_if_altered,
    stop_without,
)
from deid_hooks.cli.output import FormatOption, put, say, write_rows

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
    with open_access(context, "block", reason) as access:
        log = access.log
        if terms:
            found = access.record_ids(log.search(parse_terms(texts)), "\n".join(texts))
            ids = list(found)
            if not ids:
                stop_without("Nothing found; --patient-id takes who is not in the log.")
            patients = [withdrawal.find_patient(log, ids)]
            stop_if_altered(log)  # or it may be another patient's block, or lift
        else:
            patients = list(withdrawal.read_patients(read_arguments([patient_id])))
        count = withdrawal.block(log, patients, project, reason, lift)
    whom = "one patient" if count == 1 else f"{count} patients"
    where = f"project {project}" if project else "every project"
    if lift:
        put(f"Lifted: of {whom} images may leave again, in {where}.")
    else:
        put(f"Blocked: of {whom} nothing leaves any more, in {where}.")


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
    from deid_hooks.admin.search import parse_selection
    from deid_hooks.admin.withdrawal import note_withdrawn

    selection = parse_selection(read_term_texts(those))
    when = _parse_moment(at)
    with open_access(context, "withdrawn", reason) as access:
        ids = access.record_ids(selection.search(access.log), selection.asked)
        name = _name_destination(destination)
        noted = note_withdrawn(access.log, name, ids, when, UPLOADER)
    if noted.now:
        copies = "acquisition" if noted.now == 1 else "acquisitions"
        put(f"{noted.now} {copies} noted as withdrawn from {name}.")
        return
    if noted.before:
        say(f"That was noted before, of {noted.before} at {name}.")
        return
    where = f" They are at {', '.join(noted.elsewhere)}." if noted.elsewhere else ""
    stop_without(f"None of them was sent to {name}.{where}")


def _parse_moment(text: str) -> str:
    """Return a date, or a date and time, as upload events have it."""
    present = datetime.now(UTC)
    try:
        when = datetime.fromisoformat(text) if text else present
    except ValueError:
        raise typer.BadParameter("--at: there is no such date; write 2026-11-24") from None
    when = when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
    if when > present:
        raise typer.BadParameter("--at: that is yet to come")
    return when.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _name_destination(text: str) -> str:
    """Return a destination as uploads note it: a relative folder with its whole path."""
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
    from deid_hooks.admin.search import parse_selection
    from deid_hooks.admin.withdrawal import forget as erase
    from deid_hooks.admin.withdrawal import plan
    from deid_hooks.errors import LogError

    if not reason.strip():
        raise typer.BadParameter("say why: --reason TEXT")
    selection = parse_selection(read_term_texts(those))
    with open_access(context, "forget", reason) as access:
        made = plan(access, selection)
        _refuse_unknown(made)
        _warn_of_copies(made)
        if dry_run:
            write_rows(({"id": log_id} for log_id in made.log_ids), ["id"], form, "id")
            say(f"{_count_entries(len(made.log_ids))} would be erased.")
            return
        stop_if_altered(access.log)  # or what is erased may be another patient's
        _confirm(made, yes)
        try:
            erase(access, [*made.log_ids, *made.forgotten], reason)
        except LogError as error:
            if type(error) is not LogError:  # nothing was erased
                raise
            say(describe_error(error))
            one = (made.log_ids or made.forgotten)[0]
            say(f"To finish it: deid-hooks forget {one} --reason ... --yes")
            raise typer.Exit(FAILED) from None
    put(f"Erased: {_count_entries(len(made.log_ids))}.")


def _refuse_unknown(made: Plan) -> None:
    for log_id in made.unknown:
        say(f"The log has no entry for {log_id}.")
    if made.unknown or not (made.log_ids or made.forgotten):
        stop_without("Nothing was erased.")


def _warn_of_copies(made: Plan) -> None:
    """Name the copies that nobody can find again without the log."""
    if made.copies:
        where = ", ".join(f"{destination} ({count})" for destination, count in made.copies.items())
        say(f"Not noted as withdrawn, and not to be found again without the log: {where}.")


def _confirm(made: Plan, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise typer.BadParameter("nobody is there to ask: add --yes, or see with --dry-run")
    if not typer.confirm(f"Erase {_count_entries(len(made.log_ids))} for good?", err=True):
        say("Nothing was erased.")
        raise typer.Exit(FAILED)


def _count_entries(count: int) -> str:
    return "1 entry" if count == 1 else f"{count} entries"
