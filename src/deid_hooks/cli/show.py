"""Looking into the log: ``show`` and ``pending``."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deid_hooks.cli.context import NOTHING_FOUND, ReasonOption, looking, open_hooks, read_arguments
from deid_hooks.cli.output import Format, FormatOption, chosen, visible, write_rows
from deid_hooks.dicom import dictionary
from deid_hooks.log import Log
from deid_hooks.records.model import Entry, UploadEvent

if TYPE_CHECKING:
    from deid_hooks.log import Log


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

    wanted = chosen(form)
    with looking(context, "show", reason) as looker:
        recorder = looker.recorder
        log_ids, unknown = _log_ids(recorder, read_arguments(ids))
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
    with open_hooks(context) as hooks:
        rows = [
            {
                "id": event.log_id,
                "cleared": event.at,
                "destination": event.destination,
                "uploader": event.uploader,
            }
            for event in hooks.open_log().pending()
        ]
    if write_rows(rows, ["id", "cleared", "destination", "uploader"], form, "id") == 0:
        typer.echo("Nothing is pending.", err=True)


def _why_not(recorder: Log, log_id: str) -> str:
    stone = recorder.tombstone(log_id)
    if stone is None:
        return f"The log has no entry for {log_id}."
    by = f"{stone.erasure.who} at {stone.erasure.at}: {stone.erasure.reason}"
    sent = f" It had gone to {', '.join(stone.destinations)}." if stone.destinations else ""
    return f"{log_id} was forgotten by {by}.{sent}"


def _log_ids(recorder: Log, words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Log ids of ids and files, in order and once each; and the files that no entry knows."""
    from deid_hooks.records.model import parse_log_id

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


def _ids_of_file(recorder: Log, path: Path) -> list[str]:
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    from deid_hooks.query.parser import parse_terms

    try:
        dataset = dcmread(path, stop_before_pixels=True, specific_tags=["SOPInstanceUID"])
        uid = str(dataset.SOPInstanceUID)
    except (InvalidDicomError, AttributeError, OSError):
        raise typer.BadParameter(f"{path} is not a DICOM file with a SOPInstanceUID") from None
    return list(recorder.search(parse_terms([f"deid:SOPInstanceUID=={uid}"])))


_COLUMNS = ("id", "created", "project", "uploader", "timestamp")


def print_entries(recorder: Log, log_ids: list[str], form: Format) -> list[str]:
    """Print the entries, one after the other, and return the ids of those there were."""
    uploads: dict[str, list[UploadEvent]] = {}
    for event in recorder.uploads(log_ids):
        uploads.setdefault(event.log_id, []).append(event)
    shown: list[str] = []

    def documents() -> Iterator[dict[str, Any]]:
        for entry in recorder.entries(log_ids):
            shown.append(entry.log_id)
            yield _document(entry, uploads.get(entry.log_id, []))

    if form is Format.TABLE:
        for document in documents():
            _print_readable(document)
    elif form is Format.CSV:
        write_rows(map(_flat, documents()), [*_COLUMNS, "fields", "deid", "uploads"], form, "id")
    else:
        columns = [*_COLUMNS, "fields", "deid", "originals", "instances", "uids", "uploads"]
        write_rows(documents(), columns, form, "id")
    return shown


def _document(entry: Entry, uploads: list[UploadEvent]) -> dict[str, Any]:
    """An entry as a JSON document; originals keep the DICOM JSON model."""
    return {
        "id": entry.log_id,
        "created": entry.created,
        "project": entry.project,
        "uploader": entry.uploader,
        "timestamp": entry.timestamp,
        "fields": {keyword: _one(values) for keyword, values in entry.fields.items()},
        "deid": {keyword: _one(values) for keyword, values in entry.deid.items()},
        "originals": json.loads(entry.originals),
        "instances": [
            {
                "SOPInstanceUID": instance.uid,
                "deid_SOPInstanceUID": instance.deid_uid,
                "originals": json.loads(instance.originals),
            }
            for instance in entry.instances
        ],
        "uids": [{"deid_uid": deid_uid, "uid": uid} for deid_uid, uid in entry.uids],
        "uploads": [
            {
                "at": event.at,
                "event": event.event,
                "destination": event.destination,
                "uploader": event.uploader,
            }
            for event in uploads
        ],
    }


def _one(values: tuple[str, ...]) -> str | list[str]:
    return values[0] if len(values) == 1 else list(values)


def _flat(document: Mapping[str, Any]) -> dict[str, Any]:
    """A row of a spreadsheet: nested parts as JSON in their cell."""
    nested = ("fields", "deid", "uploads")
    return {
        **{column: document[column] for column in _COLUMNS},
        **{column: json.dumps(document[column], ensure_ascii=False) for column in nested},
    }


def _print_readable(document: Mapping[str, Any]) -> None:
    for column in _COLUMNS:
        print(f"{column:<10} {visible(str(document[column] or ''))}".rstrip())
    for upload in document["uploads"]:
        print(
            f"{'upload':<10} {upload['at']}  {upload['event']:<8}  {visible(upload['destination'])}"
        )
    print("originals of all instances")
    _print_originals(document["originals"], document["deid"])
    for instance in document["instances"]:
        print(f"instance {instance['SOPInstanceUID']}")
        print(f"  de-identified {instance['deid_SOPInstanceUID']}")
        _print_originals(instance["originals"], {})
    print()


def _print_originals(originals: Mapping[str, Any], deid: Mapping[str, Any]) -> None:
    for path, element in sorted(originals.items()):
        name = _name(path)
        now = f"  -> {visible(str(deid[name]))}" if name in deid else ""
        print(f"  {name} = {visible(_value(element))}{now}")


def _name(path: str) -> str:
    """``00081140.0.00081155`` as ``ReferencedImageSequence[0].ReferencedSOPInstanceUID``."""
    name = ""
    for part in path.split("."):
        if len(part) == 8 and all(c in "0123456789ABCDEF" for c in part):
            keyword = dictionary.lookup_keyword(int(part, 16)) or f"({part[:4]},{part[4:]})"
            name += f".{keyword}" if name else keyword
        else:
            name += f"[{part}]" if name else part
    return name


def _value(element: Mapping[str, Any] | None) -> str:
    if element is None:
        return "(not in the original)"
    if "InlineBinary" in element:
        return f"({len(element['InlineBinary']) * 3 // 4} bytes)"
    if "digest" in element or "length" in element:
        return (
            f"({element.get('length', 0)} bytes, kept apart)"
            if "digest" in element
            else "(not kept)"
        )
    values = element.get("Value", [])
    if element["vr"] == "SQ":
        return f"({len(values)} items)"
    return "\\".join(_text(value) for value in values)


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        groups = (value.get(g, "") for g in ("Alphabetic", "Ideographic", "Phonetic"))
        return "=".join(groups).rstrip("=")
    return "" if value is None else str(value)
