"""The commands ``show`` and ``pending``: entries as they are."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deid_hooks.cli.context import (
    NOTHING_FOUND,
    SOME_REFUSED,
    ReasonOption,
    open_access,
    open_hooks,
    read_arguments,
    stop_if_altered,
)
from deid_hooks.cli.output import (
    Format,
    FormatOption,
    OutputOption,
    choose_format,
    make_visible,
    put,
    say,
    write_rows,
    write_to,
)
from deid_hooks.dicom.dictionary import join_name_groups

if TYPE_CHECKING:
    from deid_hooks.log import Log
    from deid_hooks.records.model import Entry, UploadEvent


def show(
    context: typer.Context,
    ids: Annotated[
        list[str],
        typer.Argument(metavar="LOG_ID...|FILE...", help="Log ids, de-identified files, @FILE, -."),
    ],
    reason: ReasonOption = "",
    output: OutputOption = None,
    form: FormatOption = None,
) -> None:
    """Show entries whole: what was removed, from which instances, and where they went.

    A de-identified file shows the entry that it belongs to.

    \b
    deid-hooks show 65774D086757457C9DCF96E762803606
    deid-hooks show delivered/image.dcm
    deid-hooks search @terms.txt --format ids | deid-hooks show - --format json
    """
    with open_access(context, "show", reason) as access:
        log_ids, unknown = _find_log_ids(access.log, read_arguments(ids))
        access.record(" ".join(log_ids), log_ids)
        malformed: list[str] = []
        with write_to(output):
            shown = _print_entries(access.log, log_ids, choose_format(form), malformed)
        for log_id in log_ids:
            if log_id not in (*shown, *malformed):
                say(_explain_absence(access.log, log_id))
    say(*(f"The log has no entry for {file}." for file in unknown))
    if unknown or len(shown) + len(malformed) < len(log_ids):
        raise typer.Exit(NOTHING_FOUND)
    if malformed:
        raise typer.Exit(SOME_REFUSED)


def pending(context: typer.Context, form: FormatOption = None) -> None:
    """List what was sent or about to be sent, and of which no outcome is known.

    Run the upload again: what has arrived is not sent twice where the destination can tell.

    \b
    deid-hooks pending --format csv
    """
    with open_hooks(context) as hooks:
        log = hooks.gate.open_log()
        rows = [
            {
                "id": event.log_id,
                "cleared": event.at,
                "destination": event.destination,
                "uploader": event.uploader,
            }
            for event in log.pending()
        ]
    if write_rows(rows, ["id", "cleared", "destination", "uploader"], form, "id") == 0:
        say("Nothing is pending.")
    stop_if_altered(log)


def _explain_absence(log: Log, log_id: str) -> str:
    stone = log.tombstone(log_id)
    if stone is None:
        return f"The log has no entry for {log_id}."
    by = f"{stone.erasure.who} at {stone.erasure.at}: {stone.erasure.reason}"
    sent = f" It had gone to {', '.join(stone.destinations)}." if stone.destinations else ""
    return f"{log_id} was forgotten by {by}.{sent}"


def _find_log_ids(log: Log, words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the log ids of ids and files, in order and once each; and files without an entry."""
    from deid_hooks.records.model import parse_log_id

    log_ids: dict[str, None] = {}
    unknown = []
    for word in words:
        if log_id := parse_log_id(word):
            log_ids[log_id] = None
        elif os.path.isfile(word):  # noqa: PTH113 - Path.is_file raises for what is too long
            found = _find_ids_of_file(log, Path(word))
            log_ids.update(dict.fromkeys(found))
            unknown += [] if found else [word]
        else:
            raise typer.BadParameter("one of them is neither a log id (32 hex digits) nor a file")
    return list(log_ids), unknown


def _find_ids_of_file(log: Log, path: Path) -> list[str]:
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    from deid_hooks.query.parser import parse_terms

    try:
        dataset = dcmread(path, stop_before_pixels=True, specific_tags=["SOPInstanceUID"])
        uid = str(dataset.SOPInstanceUID)
    except (InvalidDicomError, AttributeError, OSError):
        raise typer.BadParameter(f"{path} is not a DICOM file with a SOPInstanceUID") from None
    return list(log.search(parse_terms([f"deid:SOPInstanceUID=={uid}"])))


def _print_entries(log: Log, log_ids: list[str], form: Format, malformed: list[str]) -> list[str]:
    """Print the entries, one after the other, and return the ids of those that were printed.

    One that can't be read is named, and its id added to ``malformed``.
    """
    from deid_hooks.admin.export_log import ENTRY_COLUMNS
    from deid_hooks.query.conditions import warn_of_malformed

    uploads: dict[str, list[UploadEvent]] = {}
    for event in log.uploads(log_ids):
        uploads.setdefault(event.log_id, []).append(event)
    shown: list[str] = []

    def documents() -> Iterator[dict[str, Any]]:
        for entry in log.entries(log_ids):
            try:
                document = _make_document(entry, uploads.get(entry.log_id, []))
            except ValueError:
                warn_of_malformed(entry.log_id)
                malformed.append(entry.log_id)
                continue
            shown.append(entry.log_id)
            yield {**document, "altered": log.altered.get(entry.log_id)}

    if form is Format.TABLE:
        for document in documents():
            if document["altered"]:
                put(f"ALTERED: {document['altered']}")
            _print_readable(document, ENTRY_COLUMNS)
    elif form is Format.CSV:
        nested = ["fields", "deid", "uploads"]  # as JSON in their cell
        rows = (
            {**each, **{name: json.dumps(each[name], ensure_ascii=False) for name in nested}}
            for each in documents()
        )
        write_rows(rows, [*ENTRY_COLUMNS, *nested, "altered"], form, "id")
    else:
        nested = ["fields", "deid", "originals", "instances", "uids", "uploads", "altered"]
        write_rows(documents(), [*ENTRY_COLUMNS, *nested], form, "id")
    return shown


def _make_document(entry: Entry, uploads: Sequence[UploadEvent]) -> dict[str, Any]:
    """Return an entry as a JSON document; originals keep the DICOM JSON model.

    Raises ValueError if they are no such model.
    """
    from deid_hooks.admin.export_log import describe_entry
    from deid_hooks.records.json_codec import decode_originals

    def unwrap(values: Mapping[str, Sequence[str]]) -> dict[str, str | list[str]]:
        return {key: each[0] if len(each) == 1 else list(each) for key, each in values.items()}

    return {
        **describe_entry(entry),
        "fields": unwrap(entry.fields),
        "deid": unwrap(entry.deid),
        "originals": decode_originals(entry.originals),
        "instances": [
            {
                "SOPInstanceUID": instance.uid,
                "deid_SOPInstanceUID": instance.deid_uid,
                "originals": decode_originals(instance.originals),
            }
            for instance in entry.instances
        ],
        "uids": [{"deid_uid": deid_uid, "uid": uid} for deid_uid, uid in entry.uids],
        "uploads": [
            {name: getattr(event, name) for name in ("at", "event", "destination", "uploader")}
            for event in uploads
        ],
    }


def _print_readable(document: Mapping[str, Any], columns: Sequence[str]) -> None:
    for column in columns:
        put(f"{column:<10} {make_visible(str(document[column] or ''))}".rstrip())
    for upload in document["uploads"]:
        destination = make_visible(upload["destination"])
        put(f"{'upload':<10} {upload['at']}  {upload['event']:<8}  {destination}")
    put("originals of all instances")
    _print_originals(document["originals"], document["deid"])
    for instance in document["instances"]:
        put(f"instance {instance['SOPInstanceUID']}")
        put(f"  de-identified {instance['deid_SOPInstanceUID']}")
        _print_originals(instance["originals"], {})
    put()


def _print_originals(originals: Mapping[str, Any], deid: Mapping[str, Any]) -> None:
    for path, element in sorted(originals.items()):
        name = _name_path(path)
        now = f"  -> {make_visible(str(deid[name]))}" if name in deid else ""
        put(f"  {name} = {make_visible(_describe_element(element))}{now}")


def _name_path(path: str) -> str:
    """Turn ``00081140.0.00081155`` into ``ReferencedImageSequence[0].ReferencedSOPInstanceUID``."""
    from deid_hooks.dicom.dictionary import lookup_keyword

    name = ""
    for part in path.split("."):
        if len(part) == 8 and all(c in "0123456789ABCDEF" for c in part):
            keyword = lookup_keyword(int(part, 16)) or f"({part[:4]},{part[4:]})"
            name += f".{keyword}" if name else keyword
        else:
            name += f"[{part}]" if name else part
    return name


def _describe_element(element: Mapping[str, Any] | None) -> str:
    if element is None:
        return "(not in the original)"
    if "InlineBinary" in element:
        return f"({len(element['InlineBinary']) * 3 // 4} bytes)"
    if "digest" in element:
        return f"({element.get('length', 0)} bytes, kept apart)"
    if "length" in element:
        return "(not kept)"
    values = element.get("Value", [])
    if element["vr"] == "SQ":
        return f"({len(values)} items)"
    return "\\".join(map(join_name_groups, values))
