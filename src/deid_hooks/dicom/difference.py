"""Difference: what an engine changed in one instance, and assembled in one entry for them all."""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from typing import Any, Literal

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from deid_hooks.dicom import encoding
from deid_hooks.dicom.capture import (
    KEYWORDS,
    WITH_BYTES,
    Captured,
    Patient,
    Snapshot,
    capture,
    find_timestamp,
    list_elements,
    read_encodings,
    read_patient,
    read_texts,
)
from deid_hooks.dicom.comparison import (
    ABSENT,
    LARGE_VALUES,
    PADS,
    TELLING_GROUPS,
    Comparison,
    encode_leaf,
)
from deid_hooks.dicom.dictionary import (
    DIRECTORY_RECORD_SEQUENCE,
    MEDIA_STORAGE_DIRECTORY,
    MEDIA_STORAGE_SOP_INSTANCE_UID,
    SOP_CLASS_UID,
    SOP_INSTANCE_UID,
    SPECIFIC_CHARACTER_SET,
    lookup_keyword,
    lookup_tag,
    lookup_vr,
)
from deid_hooks.dicom.encoding import encode_value
from deid_hooks.errors import UnableToLog, UnusableDataset
from deid_hooks.records.fields import DEID_FIELDS, INDEXED_FIELDS
from deid_hooks.records.json_codec import write_canonical_json
from deid_hooks.records.model import Entry, Instance, make_readable, read_clock

PREAMBLE = "preamble"
FINGERPRINT = "fingerprint"
ENCODING = "encoding"
META_ENCODING = "meta encoding"
"""Keys of the originals that are no path: the 128 bytes before the file meta, what tells instances
of one SOP Instance UID apart, the transfer syntax that the bytes had where the file named another,
and that of file meta information in implicit VR."""
_LONGEST_TELLING = 64


Policy = Literal["all", "identifying"]
NotKept = Literal["refuse", "log"]

_CHARACTER_SET = "00080005"


@dataclass(frozen=True, slots=True)
class Changes:
    """What an engine changed in one instance. Small, picklable; hides its values.

    ``originals`` maps a path to an element as JSON text, ``"null"`` where the original had none.
    ``large`` holds values too long for that by the plain SHA-256 that stands in their place until
    the acquisition puts its keyed digest there; None for those that are too large to keep.
    """

    source: str
    uid: str = field(repr=False)
    deid_uid: str
    originals: dict[str, str] = field(repr=False)
    fields: dict[str, str] = field(repr=False)
    deid: dict[str, str] = field(repr=False)
    uids: tuple[tuple[str, str], ...] = field(repr=False)
    large: dict[str, bytes | None] = field(repr=False)
    patient: Patient = field(repr=False)
    timestamp: str | None = field(repr=False)
    fingerprint: int = field(repr=False)
    not_kept: tuple[str, ...] = ()
    """Names of what changed but is not in the log: pixel data, and values over the limit."""


def changes(
    original: Dataset | Snapshot,
    deidentified: Dataset,
    fields: Sequence[str] = INDEXED_FIELDS,
    large_values: int = LARGE_VALUES,
    not_kept: NotKept = "refuse",
) -> Changes:
    """Return what differs between an original and what an engine made of it.

    ``original`` is a dataset that is not the de-identified one, or what :func:`capture` kept of it.
    ``fields`` are the indexed fields, ``large_values`` the bytes up to which a value is kept. With
    ``not_kept="log"`` what is larger is named in the result. Raises UnusableDataset where the
    instance can't be logged: a DICOMDIR, no SOP Instance UID on either side, a value that can't be
    read or is too large.
    """
    before = original if isinstance(original, Snapshot) else capture(original)
    _refuse_what_is_no_instance(before)
    after = list_elements(deidentified)
    difference = Comparison(large_values)
    difference.compare("", before, after, (before.encodings, before.encodings))
    _compare_file_meta(difference, before, deidentified)
    if difference.too_large and not_kept == "refuse":
        raise UnusableDataset(
            f"{difference.too_large[0]} is changed and has more bytes than the log keeps of a value"
            ' (see the settings large_values, and not_kept = "log" to send it all the same)'
        )
    (deid_uid,) = _read_texts_after(after, (SOP_INSTANCE_UID,))
    if not deid_uid:
        raise UnusableDataset("the de-identified dataset has no SOPInstanceUID")
    indexed, deid = _list_tags(tuple(fields)), _list_tags(DEID_FIELDS)
    return Changes(
        source=before.source,
        uid=before.text(SOP_INSTANCE_UID) or "",
        deid_uid=deid_uid,
        originals=difference.originals,
        fields=_name_values(indexed, before.texts(indexed)),
        deid=_name_values(deid, _read_texts_after(after, deid)),
        uids=tuple(difference.uids),
        large=difference.large,
        patient=read_patient(before),
        timestamp=find_timestamp(before),
        fingerprint=compute_fingerprint(difference.unchanged),
        not_kept=tuple(difference.not_kept),
    )


def compute_fingerprint(unchanged: Iterable[tuple[int, Captured]]) -> int:
    """Return a number that tells instances apart by what an engine left alone.

    It is made of short values about the image.
    """
    telling = [
        value
        for tag, element in unchanged
        if isinstance(element, WITH_BYTES)
        and tag >> 16 in TELLING_GROUPS
        and tag & 0xFFFF  # group lengths are not delivered
        and (value := element.value)
        and len(value) <= _LONGEST_TELLING
        and (element.VR or lookup_vr(tag)) != "SQ"
    ]
    return zlib.crc32(b"\\".join(telling))


def _refuse_what_is_no_instance(before: Snapshot) -> None:
    if (
        before.text(SOP_CLASS_UID) == MEDIA_STORAGE_DIRECTORY
        or DIRECTORY_RECORD_SEQUENCE in before.elements
    ):
        raise UnusableDataset("a DICOMDIR is no instance of a series")
    if not before.text(SOP_INSTANCE_UID):
        raise UnusableDataset("there is no SOPInstanceUID")


@lru_cache(maxsize=16)
def _list_tags(keywords: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(tag for keyword in keywords if (tag := lookup_tag(keyword)) is not None)


@lru_cache(maxsize=512)
def _name_values(tags: tuple[int, ...], texts: tuple[str | None, ...]) -> dict[str, str]:
    """Return values by keyword, without missing ones. Most instances of a series share them."""
    found = zip(tags, texts, strict=True)
    return {lookup_keyword(tag): text for tag, text in found if text is not None}


def _compare_file_meta(difference: Comparison, before: Snapshot, after: Dataset) -> None:
    """Group 2 and the preamble. The Media Storage UID is logged only where it isn't the SOP's."""
    meta = getattr(after, "file_meta", None)
    path = f"{MEDIA_STORAGE_SOP_INSTANCE_UID:08X}"
    if before.meta is not None:
        now = {} if meta is None else list_elements(meta)
        stored = before.meta.elements.get(MEDIA_STORAGE_SOP_INSTANCE_UID)
        encodings = encoding.DEFAULT_ENCODINGS
        difference.compare("", before.meta, now, (encodings, encodings))
        if stored is not None and MEDIA_STORAGE_SOP_INSTANCE_UID in now:
            if before.meta.text(MEDIA_STORAGE_SOP_INSTANCE_UID) == before.text(SOP_INSTANCE_UID):
                difference.originals.pop(path, None)
            else:
                difference.log(MEDIA_STORAGE_SOP_INSTANCE_UID, before.meta, stored)
    elif meta is not None:  # it was made by the engine
        difference.originals.update({f"{tag:08X}": ABSENT for tag in meta if tag & 0xFFFF})
    preamble = getattr(after, "preamble", None)
    if before.preamble != preamble:
        difference.originals[PREAMBLE] = (
            ABSENT
            if before.preamble is None
            else encode_leaf("OB", before.preamble, (), True, None)
        )


def _read_texts_after(elements: dict[int, Any], tags: tuple[int, ...]) -> tuple[str | None, ...]:
    """Return values of a de-identified dataset, decoded or not, as :meth:`Snapshot.texts` does."""
    encodings = read_encodings(elements.get(SPECIFIC_CHARACTER_SET)) or encoding.DEFAULT_ENCODINGS
    values: list[tuple[str | None, bytes] | None] = []
    for element in map(elements.get, tags):
        if element is None:
            values.append(None)
        elif isinstance(element, RawDataElement):
            values.append((element.VR, element.value or b""))
        else:
            values.append((element.VR, encode_value(element, encodings, True) or b""))
    return read_texts(tags, values, encodings)


def assemble(
    gathered: Sequence[Changes],
    log_id: str,
    project: str,
    uploader: str,
    fields: Sequence[str],
    policy: Policy = "all",
) -> Entry:
    """Return the entry of an acquisition. The order in which instances came makes no difference.

    It has no keyed digests yet: see :func:`~deid_hooks.records.keys.key_entry`.
    """
    originals = [_select_kept(each, fields, policy) for each in gathered]
    common = _find_common(originals)
    uid_counts = Counter(each.deid_uid for each in gathered)
    instances = [
        Instance(
            each.uid, each.deid_uid, _take_rest(each, own, common, uid_counts[each.deid_uid] > 1)
        )
        for each, own in zip(gathered, originals, strict=True)
    ]
    return Entry(
        log_id=log_id,
        created=read_clock(),
        uploader=uploader,
        project=project,
        timestamp=min((t for each in gathered if (t := each.timestamp)), default=None),
        fields=_list_distinct(each.fields for each in gathered),
        deid=_list_distinct(each.deid for each in gathered),
        originals=_encode_object(common),
        instances=tuple(sorted(instances, key=lambda i: (i.uid, i.deid_uid, i.originals))),
        uids=tuple(sorted(set(chain.from_iterable(each.uids for each in gathered)))),
        large={
            plain: value
            for each in gathered
            for plain, value in each.large.items()
            if value is not None and policy == "all"
        },
        digest="",
        key="",
    )


def list_patients(gathered: Iterable[Changes]) -> list[tuple[str, str]]:
    """Return the identities of the patients, (PatientID, issuer), that the instances are of."""
    return sorted({(each.patient.patient_id, each.patient.issuer) for each in gathered})


def refuse_mixed_patients(gathered: Iterable[Changes]) -> None:
    """Raise UnableToLog if the instances disagree about the patient, naming files and keywords."""
    first: Changes | None = None
    for each in gathered:
        if first is None:
            first = each
        elif each.patient != first.patient:
            differing = [
                keyword
                for keyword, a, b in zip(KEYWORDS, first.patient, each.patient, strict=True)
                if a != b
            ]
            raise UnableToLog(
                f"the instances disagree on {', '.join(differing)}: {first.source or 'the first'}"
                f" and {each.source or 'a later one'} are not of one patient",
                "send them as acquisitions of their own, or correct the files",
            )


def find_indistinguishable(gathered: Sequence[Changes]) -> list[tuple[Changes, Changes]]:
    """Return the instances that could not come back: each with the one before that it resembles.

    They share a de-identified SOP Instance UID and what the engine left alone, and differ in what
    it removed.
    """
    first: dict[tuple[str, int], Changes] = {}
    found = []
    for each in gathered:
        other = first.setdefault((each.deid_uid, each.fingerprint), each)
        if other is not each and _differ(other.originals, each.originals):
            found.append((other, each))
    return found


def refuse_indistinguishable(gathered: Sequence[Changes]) -> None:
    """Raise UnableToLog if two instances could not be told apart on the way back, naming files."""
    for first, later in find_indistinguishable(gathered):
        raise UnableToLog(
            f"{later.source or 'an instance'} {explain_indistinguishable(first)}",
            "correct the SOP Instance UIDs, or leave one of them out",
        )


def explain_indistinguishable(first: Changes) -> str:
    """Return what is wrong with an instance that resembles this one."""
    return (
        f"has the SOPInstanceUID of {first.source or 'another instance'} and differs from it in"
        " what is removed: it could not be brought back"
    )


def _differ(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    if one == other:
        return False
    read = [{path: json.loads(text) for path, text in each.items()} for each in (one, other)]
    return strip_wrapping(read[0]) != strip_wrapping(read[1])


def strip_wrapping(originals: Mapping[str, Any]) -> dict[str, Any]:
    """Return originals without what is around a dataset and says nothing about it.

    This is the preamble, the file meta information, and how values were padded or encoded.
    """
    return {
        path: _strip_padding(element)
        for path, element in originals.items()
        if not path.startswith("0002")
        and path not in (PREAMBLE, FINGERPRINT, ENCODING, META_ENCODING)
    }


def _strip_padding(element: Any) -> Any:
    """Return an element of the originals without the bytes beside its value."""
    if not isinstance(element, Mapping) or "Value" not in element:
        return element
    return {"vr": element["vr"], "Value": [_strip_value(one) for one in element["Value"]]}


def _strip_value(value: Any) -> Any:
    """Return one value of an element: an item, the groups of a name, text, or a number."""
    if isinstance(value, str):
        return value.rstrip(" \0")
    if isinstance(value, Mapping):
        return {
            key: _strip_value(inner) if isinstance(inner, str) else _strip_padding(inner)
            for key, inner in value.items()
        }
    return value


def _find_common(originals: Sequence[dict[str, str]]) -> dict[str, str]:
    """Return what all of them say alike."""
    common = originals[0]
    for other in originals[1:]:
        common = {path: text for path, text in common.items() if other.get(path) == text}
    return common


def _select_kept(each: Changes, fields: Sequence[str], policy: Policy) -> dict[str, str]:
    """Return what the policy keeps of its originals."""
    originals = each.originals
    if policy == "all":
        return originals
    wanted = {f"{tag:08X}" for keyword in fields if (tag := lookup_tag(keyword)) is not None}
    return {
        path: text if path in wanted or text == "null" else _drop_value_of_text(path, text)
        for path, text in originals.items()
    }


def _drop_value_of_text(path: str, text: str) -> str:
    tag = path.rpartition(".")[2]
    return write_canonical_json(_drop_value(tag, json.loads(text)))


def _drop_value(tag: str, element: dict[str, Any]) -> dict[str, Any]:
    """Return an element whose value is not kept, which restore names. UIDs stay, in sequences too.

    So do character sets, without which the indexed fields can't be read.
    """
    if element["vr"] == "UI" or tag == _CHARACTER_SET or set(element) <= {"vr", "creator"}:
        return element
    if PADS in element:  # how many bytes there were
        return element
    if element["vr"] != "SQ":
        return {"vr": element["vr"], "length": 0}
    if "raw" in element or "digest" in element:  # which would give back what is dropped
        return {"vr": "SQ", "length": 0}
    items = [
        {inner: _drop_value(inner, value) for inner, value in item.items()}
        for item in element["Value"]
    ]
    return {**element, "Value": items}


def _take_rest(each: Changes, own: dict[str, str], common: dict[str, str], shared_uid: bool) -> str:
    rest = {path: text for path, text in own.items() if path not in common}
    if shared_uid:
        rest[FINGERPRINT] = write_canonical_json({"vr": "UL", "Value": [each.fingerprint]})
    return _encode_object(rest)


def _encode_object(members: Mapping[str, str]) -> str:
    """Return a JSON object of members that are JSON text already."""
    return "{" + ",".join(f'"{path}":{text}' for path, text in sorted(members.items())) + "}"


def _list_distinct(rows: Iterable[Mapping[str, str]]) -> dict[str, tuple[str, ...]]:
    """Keyword to its distinct values, sorted: the first is the one in the column.

    An empty value comes last, so that it hides no other.
    """
    values: dict[str, set[str]] = {}
    for row in {id(row): row for row in rows}.values():  # most instances share one
        for keyword, value in row.items():
            values.setdefault(keyword, set()).add(make_readable(value))
    return {
        keyword: tuple(sorted(found, key=lambda value: (not value, value)))
        for keyword, found in sorted(values.items())
    }
