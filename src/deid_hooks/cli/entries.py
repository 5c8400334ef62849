"""Whole entries, for people to read and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from deid_hooks import dictionary
from deid_hooks.cli.output import Format, visible, write_rows
from deid_hooks.entry import Entry, UploadEvent
from deid_hooks.recorder import Recorder

_COLUMNS = ("id", "created", "project", "uploader", "timestamp")


def print_entries(recorder: Recorder, log_ids: list[str], form: Format) -> list[str]:
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
            keyword = dictionary.keyword_of(int(part, 16)) or f"({part[:4]},{part[4:]})"
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
