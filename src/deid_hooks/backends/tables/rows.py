"""Make rows of records and records of rows, for any database: cells, folded words, parts.

A text is given as the record has it; how a database keeps a NUL or a lone surrogate is its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, assert_never

from deid_hooks.backends.tables.columns import FIRST_FIELDS
from deid_hooks.dicom.names import split_name_words
from deid_hooks.query.conditions import find_vr, make_comparable, split_forms
from deid_hooks.records.fields import DEID_FIELDS, INDEXED_FIELDS, LATER_FIELDS
from deid_hooks.records.model import (
    AccessRow,
    Block,
    Entry,
    Erasure,
    Instance,
    Tombstone,
    UploadEvent,
    fold,
)

Small = UploadEvent | AccessRow | Tombstone | Block
"""A record that is one row of a table of its own."""

Cell = str | int

RECORD_TABLES: dict[type[Any], str] = {
    UploadEvent: "deid_log_upload",
    AccessRow: "deid_log_access",
    Tombstone: "deid_log_tombstone",
    Block: "deid_log_block",
}

_FIELDS = 5
_DEID = _FIELDS + len(FIRST_FIELDS)
_REST = _DEID + len(DEID_FIELDS)
_LATER = _REST + 4
"""Where the fields, the de-identified values, what follows them and later fields begin in
``ENTRY_TEXTS``."""

_RANGED_VRS = ("DA", "DT", "TM")


def list_cells(record: Small) -> tuple[Cell, ...]:
    """Return the row of a record in the order of its table's columns, without ``seq``."""
    match record:
        case UploadEvent():
            of_event = (record.event, record.destination, record.uploader, record.id)
            return record.log_id, record.at, *of_event
        case AccessRow():
            asked = (record.asked, join_texts(record.log_ids), record.reason)
            chain = (record.salt, record.commitment)
            return record.id, record.at, record.who, record.where, record.action, *asked, *chain
        case Tombstone():
            erasure = (record.erasure.at, record.erasure.who, record.erasure.reason)
            sent_to = join_texts(record.destinations)
            return record.log_id, record.created, sent_to, *erasure, record.project
        case Block():
            whom = (record.patient, record.project)
            return record.id, record.at, *whom, record.who, record.reason, int(record.lifted)
        case _:
            assert_never(record)


def make_event(cells: Sequence[Any]) -> UploadEvent:
    """Return the upload event that :func:`list_cells` was given."""
    return UploadEvent(*cells)


def make_access(cells: Sequence[Any]) -> AccessRow:
    """Return the access row that :func:`list_cells` was given."""
    id_, at, who, where, action, asked, log_ids, *rest = cells
    return AccessRow(id_, at, who, where, action, asked, split_texts(log_ids), *rest)


def make_tombstone(cells: Sequence[Any]) -> Tombstone:
    """Return the tombstone that :func:`list_cells` was given."""
    log_id, created, destinations, *erasure, project = cells
    return Tombstone(log_id, created, split_texts(destinations), Erasure(*erasure), project)


def make_block(cells: Sequence[Any]) -> Block:
    """Return the block that :func:`list_cells` was given."""
    id_, at, patient, project, who, reason, lifted = cells
    return Block(id_, at, patient, project, who, reason, bool(lifted))


RECORD_MAKERS: dict[str, Callable[[Sequence[Any]], Small]] = {
    "deid_log_upload": make_event,
    "deid_log_access": make_access,
    "deid_log_tombstone": make_tombstone,
    "deid_log_block": make_block,
}
"""What makes a record of the cells of a row, by its table."""


def join_texts(texts: tuple[str, ...]) -> str:
    """Return several texts as one, which :func:`split_texts` takes apart again."""
    return json.dumps(texts, ensure_ascii=False)  # escapes would join a pair of lone surrogates


def split_texts(text: str) -> tuple[str, ...]:
    """Return the texts that :func:`join_texts` was given."""
    return tuple(json.loads(text))


def list_entry_texts(entry: Entry) -> list[str | None]:
    """Return the texts of an entry's row in ``deid_log``, in the order of ``ENTRY_TEXTS``."""
    patients = " ".join(entry.patients)
    return [
        *(entry.log_id, entry.created, entry.uploader, entry.project, entry.timestamp),
        *_list_first(entry.fields, FIRST_FIELDS),
        *_list_first(entry.deid, DEID_FIELDS),
        *(entry.digest, entry.key, patients, entry.originals),
        *_list_first(entry.fields, LATER_FIELDS),
    ]


def list_further_values(entry: Entry) -> Iterator[tuple[str, str | None]]:
    """Yield column and value of what the columns don't hold, for ``deid_value`` with part = 0.

    A keyword without any value is a row without one.
    """
    sides = (("", entry.fields, INDEXED_FIELDS), ("deid_", entry.deid, DEID_FIELDS))
    for prefix, mapping, with_column in sides:
        for keyword in sorted(mapping):
            values = mapping[keyword]
            if not values:
                yield prefix + keyword, None
            for value in values[1:] if keyword in with_column else values:
                yield prefix + keyword, value


def list_parts(entry: Entry) -> Iterator[tuple[str, str]]:
    """Yield column and text wherever a term may have a form that is not the whole value.

    Such as one of several values that stand in one element, or a date written with dots: the rows
    of ``deid_value`` with part = 1.
    """
    for prefix, mapping in (("", entry.fields), ("deid_", entry.deid)):
        for keyword, values in mapping.items():
            for part in _split_parts(_find_ranged_vr(keyword), values):
                yield prefix + keyword, part
    texts: dict[str, Iterable[str]] = {
        "id": (entry.log_id,),
        "project": (entry.project,),
        "created": (entry.created,),
        "timestamp": (entry.timestamp or "",),
        "SOPInstanceUID": (instance.uid for instance in entry.instances),
        "deid_SOPInstanceUID": (instance.deid_uid for instance in entry.instances),
        "deid_uid": (deid_uid for deid_uid, _ in entry.uids),
    }
    for name, those in texts.items():
        for part in _split_parts("", those):
            yield name, part


def collect_words(names: Iterable[str]) -> set[str]:
    """Return the words of patient's names, as the reference makes them of a name and its forms."""
    words: set[str] = set()
    for name in names:
        words |= split_name_words(name)
        if not name.isascii():
            words |= split_name_words(fold(name))
    return words


def list_names(entry: Entry) -> tuple[str, ...]:
    """Return the patient's names, original and de-identified."""
    return (*entry.fields.get("PatientName", ()), *entry.deid.get("PatientName", ()))


def list_instance_texts(instance: Instance) -> tuple[str, str, str | None]:
    """Return the texts of an instance's row in ``deid_instance``."""
    own = None if instance.originals == "{}" else instance.originals
    return instance.uid, instance.deid_uid, own


def make_instance(texts: Sequence[Any]) -> Instance:
    """Return the instance that :func:`list_instance_texts` was given."""
    uid, deid_uid, originals = texts
    return Instance(uid, deid_uid, "{}" if originals is None else originals)


def make_entry(
    texts: Sequence[Any],
    values: Iterable[Sequence[Any]],
    instances: Iterable[Instance],
    uids: Iterable[Sequence[Any]],
    large: Mapping[str, bytes],
) -> Entry:
    """Return the entry that rows hold: ``texts`` as :func:`list_entry_texts` made them, ``values``
    as :func:`list_further_values` did, each in the order in which it was written."""
    log_id, created, uploader, project, timestamp = texts[:_FIELDS]
    digest, key, patients, originals = texts[_REST:_LATER]
    fields = _take_first(FIRST_FIELDS, texts[_FIELDS:_DEID])
    fields |= _take_first(LATER_FIELDS, texts[_LATER:])
    deid = _take_first(DEID_FIELDS, texts[_DEID:_REST])
    for keyword, value in values:
        side, name = (deid, keyword[5:]) if keyword.startswith("deid_") else (fields, keyword)
        side.setdefault(name, []).extend([] if value is None else [value])
    return Entry(
        log_id=log_id,
        created=created,
        uploader=uploader,
        project=project,
        timestamp=timestamp,
        fields={keyword: tuple(those) for keyword, those in fields.items()},
        deid={keyword: tuple(those) for keyword, those in deid.items()},
        originals=originals,
        instances=tuple(instances),
        uids=tuple((deid_uid, uid) for deid_uid, uid in uids),
        large=large,
        digest=digest,
        key=key,
        patients=tuple(patients.split()),
    )


def _take_first(keywords: tuple[str, ...], texts: Sequence[Any]) -> dict[str, list[str]]:
    # An entry that a server wrote before a later field was added has fewer texts.
    pairs = zip(keywords, texts, strict=False)
    return {keyword: [text] for keyword, text in pairs if text is not None}


def _list_first(
    mapping: Mapping[str, tuple[str, ...]], keywords: Iterable[str]
) -> list[str | None]:
    return [values[0] if (values := mapping.get(keyword)) else None for keyword in keywords]


def _split_parts(ranged_vr: str, values: Iterable[str]) -> Iterator[str]:
    for value in values:
        if ranged_vr or "\\" in value or not value.isascii() or "\0" in value:
            yield from _list_forms(ranged_vr, value)  # for few values


@lru_cache(maxsize=1024)
def _list_forms(ranged_vr: str, value: str) -> tuple[str, ...]:
    found = set(split_forms("", value))
    if ranged_vr:
        found |= {form for each in found if (form := make_comparable(ranged_vr, each)) is not None}
    return tuple(sorted(found - {value}))


@lru_cache(maxsize=1024)
def _find_ranged_vr(keyword: str) -> str:
    vr = find_vr(keyword)
    return vr if vr in _RANGED_VRS else ""
