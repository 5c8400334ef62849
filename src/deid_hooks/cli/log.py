"""Looking into the log: ``show`` and ``pending``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deid_hooks.cli.context import ReasonOption, arguments_of, hooks_of, looking
from deid_hooks.cli.failures import NOTHING_FOUND
from deid_hooks.cli.output import Format, FormatOption, chosen, write_rows

if TYPE_CHECKING:
    from deid_hooks.recorder import Recorder


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
        elif os.path.isfile(word):  # noqa: PTH113 - Path.is_file raises for what is too long
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
