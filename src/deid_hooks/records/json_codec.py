"""Records as JSON objects, for stores and exports: what is read back equals what was written.

A string that Unicode has no encoding for, because of lone surrogates, is written as
``{"utf-8": HEX}``, so that any JSON reader can take it; bytes are base64 (RFC 4648, section 4).
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from typing import Any

from deid_hooks.records.model import (
    AccessRow,
    Block,
    Entry,
    Erasure,
    Instance,
    Record,
    Tombstone,
    UploadEvent,
)

Json = dict[str, Any]


def encode_record(record: Record) -> Json:
    """A JSON object with the member ``record``, which tells its kind, and one for each field."""
    return {"record": _KINDS[type(record)], **_WRITERS[type(record)](record)}


def decode_record(document: Mapping[str, Any]) -> Record:
    """The record that :func:`encode_record` wrote.

    Raises ValueError, which quotes no value, for anything else.
    """
    try:
        members = dict(document)
        return _READERS[members.pop("record")](members)
    except (TypeError, KeyError, ValueError, AttributeError, LookupError):
        raise ValueError("this is no record of the log") from None


def _entry(entry: Entry) -> Json:
    return {
        "log_id": encode_text(entry.log_id),
        "created": encode_text(entry.created),
        "uploader": encode_text(entry.uploader),
        "project": encode_text(entry.project),
        "timestamp": None if entry.timestamp is None else encode_text(entry.timestamp),
        "fields": _columns(entry.fields),
        "deid": _columns(entry.deid),
        "originals": encode_text(entry.originals),
        "instances": [
            [encode_text(i.uid), encode_text(i.deid_uid), encode_text(i.originals)]
            for i in entry.instances
        ],
        "uids": [[encode_text(deid_uid), encode_text(uid)] for deid_uid, uid in entry.uids],
        "large": [
            [encode_text(key), b64encode(value).decode()] for key, value in entry.large.items()
        ],
        "digest": encode_text(entry.digest),
        "key": encode_text(entry.key),
        "patients": _texts(entry.patients),
    }


def _entry_of(members: Json) -> Entry:
    timestamp = members.pop("timestamp")
    fields, deid = _columns_of(members.pop("fields")), _columns_of(members.pop("deid"))
    instances = tuple(Instance(*_texts_of(row, 3)) for row in _rows(members.pop("instances")))
    uids = tuple(_pair(row) for row in _rows(members.pop("uids")))
    large = {
        decode_text(key): b64decode(value, validate=True)
        for key, value in _rows(members.pop("large"))
    }
    patients = _texts_of(members.pop("patients"))
    return Entry(
        timestamp=None if timestamp is None else decode_text(timestamp),
        fields=fields,
        deid=deid,
        instances=instances,
        uids=uids,
        large=large,
        patients=patients,
        **_plain(members),
    )


def _event(event: UploadEvent) -> Json:
    names = ("log_id", "at", "event", "destination", "uploader")
    return {name: encode_text(getattr(event, name)) for name in names}


def _access(row: AccessRow) -> Json:
    names = ("id", "at", "who", "where", "action", "asked", "reason")
    texts = {name: encode_text(getattr(row, name)) for name in (*names, "salt", "commitment")}
    return {**texts, "log_ids": _texts(row.log_ids)}


def _access_of(members: Json) -> AccessRow:
    log_ids = _texts_of(members.pop("log_ids"))
    return AccessRow(log_ids=log_ids, **_plain(members))


def _tombstone(stone: Tombstone) -> Json:
    return {
        "log_id": encode_text(stone.log_id),
        "created": encode_text(stone.created),
        "destinations": _texts(stone.destinations),
        "at": encode_text(stone.erasure.at),
        "who": encode_text(stone.erasure.who),
        "reason": encode_text(stone.erasure.reason),
    }


def _tombstone_of(members: Json) -> Tombstone:
    destinations = _texts_of(members.pop("destinations"))
    erasure = Erasure(**{name: decode_text(members.pop(name)) for name in ("at", "who", "reason")})
    return Tombstone(destinations=destinations, erasure=erasure, **_plain(members))


def _block(block: Block) -> Json:
    names = ("id", "at", "patient", "project", "who", "reason")
    return {**{name: encode_text(getattr(block, name)) for name in names}, "lifted": block.lifted}


def _block_of(members: Json) -> Block:
    lifted = members.pop("lifted")
    if not isinstance(lifted, bool):
        raise TypeError
    return Block(lifted=lifted, **_plain(members))


def encode_text(text: str) -> str | Json:
    """A text as a JSON value that every JSON reader can take."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return {"utf-8": text.encode("utf-8", "surrogatepass").hex()}
    return text


def decode_text(value: object) -> str:
    """The text that :func:`encode_text` wrote; TypeError or ValueError for anything else."""
    if isinstance(value, str):
        return value
    if not isinstance(value, dict) or value.keys() != {"utf-8"}:
        raise TypeError
    return bytes.fromhex(value["utf-8"]).decode("utf-8", "surrogatepass")


def _texts(texts: tuple[str, ...]) -> list[str | Json]:
    return [encode_text(text) for text in texts]


def _texts_of(values: object, count: int | None = None) -> tuple[str, ...]:
    if not isinstance(values, list) or count not in (None, len(values)):
        raise TypeError
    for value in values:
        if type(value) is not str:  # hardly ever: so plain texts cost next to nothing
            return tuple([decode_text(value) for value in values])
    return tuple(values)


def _rows(values: object) -> list[Any]:
    if not isinstance(values, list):
        raise TypeError
    return values


def _pair(values: object) -> tuple[str, str]:
    first, second = _texts_of(values, 2)
    return first, second


def _columns(columns: Mapping[str, tuple[str, ...]]) -> Json:
    return {keyword: _texts(values) for keyword, values in columns.items()}


def _columns_of(columns: Json) -> dict[str, tuple[str, ...]]:
    return {keyword: _texts_of(values) for keyword, values in columns.items()}


def _plain(members: Json) -> dict[str, Any]:
    for name, value in members.items():
        if type(value) is not str:
            members[name] = decode_text(value)
    return members


_KINDS: dict[type[Any], str] = {
    Entry: "entry",
    UploadEvent: "upload",
    AccessRow: "access",
    Tombstone: "tombstone",
    Block: "block",
}

_WRITERS: dict[type[Any], Callable[[Any], Json]] = {
    Entry: _entry,
    UploadEvent: _event,
    AccessRow: _access,
    Tombstone: _tombstone,
    Block: _block,
}

_READERS: dict[str, Callable[[Json], Record]] = {
    "entry": _entry_of,
    "upload": lambda members: UploadEvent(**_plain(members)),
    "access": _access_of,
    "tombstone": _tombstone_of,
    "block": _block_of,
}
