"""Looking into the log: ``search``, ``show`` and ``pending``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deid_hooks.cli.context import (
    ReasonOption,
    TermsArgument,
    arguments_of,
    hooks_of,
    looking,
    texts_of,
)
from deid_hooks.cli.failures import NOTHING_FOUND
from deid_hooks.cli.output import Format, FormatOption, chosen, write_rows

if TYPE_CHECKING:
    from deid_hooks.matching import Term
    from deid_hooks.recorder import Recorder


def search(
    context: typer.Context,
    terms: TermsArgument,
    show: Annotated[
        str,
        typer.Option(help="Columns beside the id: keywords, deid:KEYWORD, timestamp, project."),
    ] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after this many.")] = None,
    reason: ReasonOption = "",
    form: FormatOption = None,
) -> None:
    """Find the log ids of the acquisitions that match every term.

    Terms on the command line are visible to other users of the machine: rather put them in a file,
    one a line.

    \b
    deid-hooks search @terms.txt --show StudyDate,Modality
    deid-hooks search 'PatientName=DOE^J*' StudyDate=20060801-20060831
    deid-hooks search deid:PatientID=SUBJ-007 --format ids
    """
    from deid_hooks.terms import attribute, parse

    texts = texts_of(terms)
    query = parse(texts)
    columns = {name: attribute(name) for name in show.replace(",", " ").split()}
    with looking(context, "search", reason) as looker:
        ids = islice(looker.recorder.search(query), limit)
        found = looker.recorded(ids, "\n".join(texts), lambda log_id: [log_id])
        rows = _rows(looker.recorder, found, columns)
        if write_rows(rows, ["id", *columns], form, "id") == 0:
            typer.echo("Nothing found.", err=True)
            raise typer.Exit(NOTHING_FOUND)


def show(
    context: typer.Context,
    ids: Annotated[
        list[str],
        typer.Argument(metavar="LOG_ID...|FILE...", help="Log ids, de-identified files, @FILE, -."),
    ],
    reason: ReasonOption = "",
    form: FormatOption = None,
) -> None:
    """Show entries whole: what was removed, from which instances, and where they went.

    A de-identified file shows the entry that it belongs to.

    \b
    deid-hooks show 65774D086757457C9DCF96E762803606
    deid-hooks show delivered/image.dcm
    deid-hooks search @terms.txt --format ids | deid-hooks show - --format json
    """
    from deid_hooks.cli.entries import print_entries

    wanted = chosen(form)
    with looking(context, "show", reason) as looker:
        recorder = looker.recorder
        log_ids, unknown = _log_ids(recorder, arguments_of(ids))
        looker.record(" ".join(log_ids), log_ids)
        if wanted is Format.IDS:
            shown = [entry.log_id for entry in recorder.entries(log_ids)]
            print("\n".join(shown))
        else:
            shown = print_entries(recorder, log_ids, wanted)
        for log_id in log_ids:
            if log_id not in shown:
                typer.echo(_why_not(recorder, log_id), err=True)
    for file in unknown:
        typer.echo(f"The log has no entry for {file}.", err=True)
    if unknown or len(shown) < len(log_ids):
        raise typer.Exit(NOTHING_FOUND)


def pending(context: typer.Context, form: FormatOption = None) -> None:
    """List what was sent or about to be sent, and nobody said what became of it.

    Run the upload again: what has arrived is not sent twice where the destination can tell.

    \b
    deid-hooks pending --format csv
    """
    with hooks_of(context) as hooks:
        rows = [
            {
                "id": event.log_id,
                "cleared": event.at,
                "destination": event.destination,
                "uploader": event.uploader,
            }
            for event in hooks.recorder.pending()
        ]
    if write_rows(rows, ["id", "cleared", "destination", "uploader"], form, "id") == 0:
        typer.echo("Nothing is pending.", err=True)


def _rows(
    recorder: Recorder, ids: Iterable[str], columns: dict[str, Term]
) -> Iterator[dict[str, Any]]:
    from deid_hooks.matching import values_of

    if not columns:
        yield from ({"id": log_id} for log_id in ids)
        return
    for entry in recorder.entries(ids):
        values = {name: _plain(values_of(term, entry)) for name, term in columns.items()}
        yield {"id": entry.log_id, **values}


def _plain(values: Sequence[str | None]) -> str | list[str] | None:
    distinct = list(dict.fromkeys(value for value in values if value is not None))
    return distinct if len(distinct) > 1 else distinct[0] if distinct else None


def _why_not(recorder: Recorder, log_id: str) -> str:
    stone = recorder.tombstone(log_id)
    if stone is None:
        return f"The log has no entry for {log_id}."
    by = f"{stone.erasure.who} at {stone.erasure.at}: {stone.erasure.reason}"
    sent = f" It had gone to {', '.join(stone.destinations)}." if stone.destinations else ""
    return f"{log_id} was forgotten by {by}.{sent}"


def _log_ids(recorder: Recorder, words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Log ids of ids and files, in order and once each; and the files that no entry knows."""
    from deid_hooks.entry import parse_log_id

    log_ids: dict[str, None] = {}
    unknown = []
    for word in words:
        if log_id := parse_log_id(word):
            log_ids[log_id] = None
        elif Path(word).is_file():
            found = _ids_of_file(recorder, Path(word))
            log_ids.update(dict.fromkeys(found))
            unknown += [] if found else [word]
        else:
            raise typer.BadParameter("one of them is neither a log id (32 hex digits) nor a file")
    return list(log_ids), unknown


def _ids_of_file(recorder: Recorder, path: Path) -> list[str]:
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    from deid_hooks.terms import parse

    try:
        dataset = dcmread(path, stop_before_pixels=True, specific_tags=["SOPInstanceUID"])
        uid = str(dataset.SOPInstanceUID)
    except (InvalidDicomError, AttributeError, OSError):
        raise typer.BadParameter(f"{path} is not a DICOM file with a SOPInstanceUID") from None
    return list(recorder.search(parse([f"deid:SOPInstanceUID=={uid}"])))
