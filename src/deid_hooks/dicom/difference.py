"""Difference: what an engine changed in one instance, as the originals that bring it back."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from deid_hooks.dicom import encoding
from deid_hooks.dicom.capture import (
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
from deid_hooks.dicom.comparison import ABSENT, TELLING_GROUPS, Comparison, encode_leaf
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
from deid_hooks.errors import UnusableDataset
from deid_hooks.records.fields import DEID_FIELDS, INDEXED_FIELDS

PREAMBLE = "preamble"
FINGERPRINT = "fingerprint"
"""Two keys of the originals that are no path: the 128 bytes before the file meta, and what tells
instances of one SOP Instance UID apart."""
_LONGEST_TELLING = 64


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
    """Names of what changed but is not in the log: pixel data, and values over TOO_LARGE."""


def changes(
    original: Dataset | Snapshot,
    deidentified: Dataset,
    fields: Sequence[str] = INDEXED_FIELDS,
) -> Changes:
    """Return what differs between an original and what an engine made of it.

    ``original`` is a dataset that is not the de-identified one, or what :func:`capture` kept of it.
    ``fields`` are the indexed fields. Raises UnusableDataset where the instance can't be logged:
    a DICOMDIR, no SOP Instance UID on either side, a value that can't be read.
    """
    before = original if isinstance(original, Snapshot) else capture(original)
    _refuse_what_is_no_instance(before)
    after = list_elements(deidentified)
    difference = Comparison()
    difference.compare("", before, after, (before.encodings, before.encodings))
    _compare_file_meta(difference, before, deidentified)
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
