"""Difference: what an engine changed in one instance, as the originals that bring it back."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from deid_hooks import dicomjson
from deid_hooks.attributes import (
    MEDIA_STORAGE_DIRECTORY,
    MEDIA_STORAGE_SOP_INSTANCE_UID,
    SOP_INSTANCE_UID,
    SPECIFIC_CHARACTER_SET,
    Snapshot,
    capture,
    encodings_in,
    written,
)
from deid_hooks.comparison import ABSENT, Comparison, leaf_json
from deid_hooks.dictionary import tag_of
from deid_hooks.entry import DEID_FIELDS, INDEXED_FIELDS
from deid_hooks.errors import UnusableDataset
from deid_hooks.patient import Patient, patient_of
from deid_hooks.timestamp import timestamp_of

PREAMBLE = "preamble"
FINGERPRINT = "fingerprint"
"""Two keys of the originals that are no path: the 128 bytes before the file meta, and what tells
instances of one SOP Instance UID apart."""


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
    """What differs between an original and what an engine made of it.

    ``original`` is a dataset that is not the de-identified one, or what :func:`capture` kept of it.
    ``fields`` are the indexed fields. Raises UnusableDataset where the instance can't be logged:
    a DICOMDIR, no SOP Instance UID on either side, a value that can't be read.
    """
    before = original if isinstance(original, Snapshot) else capture(original)
    _refuse_what_is_no_instance(before)
    difference = Comparison()
    difference.compare("", before, deidentified, before.encodings, before.encodings)
    _compare_file_meta(difference, before, deidentified)
    after = _Reader(deidentified)
    deid_uid = after.text(SOP_INSTANCE_UID)
    if not deid_uid:
        raise UnusableDataset("the de-identified dataset has no SOPInstanceUID")
    return Changes(
        source=before.source,
        uid=before.text(SOP_INSTANCE_UID) or "",
        deid_uid=deid_uid,
        originals=difference.originals,
        fields=_texts(fields, before.text),
        deid=_texts(DEID_FIELDS, after.text),
        uids=tuple(difference.uids),
        large=difference.large,
        patient=patient_of(before),
        timestamp=timestamp_of(before),
        fingerprint=fingerprint(difference.unchanged),
        not_kept=tuple(difference.not_kept),
    )


def fingerprint(values: Sequence[bytes]) -> int:
    """A number that tells instances apart by the values that an engine left alone."""
    return zlib.crc32(b"\\".join(values))


def _refuse_what_is_no_instance(before: Snapshot) -> None:
    if before.text(0x00080016) == MEDIA_STORAGE_DIRECTORY or 0x00041220 in before.elements:
        raise UnusableDataset("a DICOMDIR is no instance of a series")
    if not before.text(SOP_INSTANCE_UID):
        raise UnusableDataset("there is no SOPInstanceUID")


def _texts(keywords: Sequence[str], text: Callable[[int], str | None]) -> dict[str, str]:
    found = ((keyword, text(tag)) for keyword in keywords if (tag := tag_of(keyword)) is not None)
    return {keyword: value for keyword, value in found if value is not None}


def _compare_file_meta(difference: Comparison, before: Snapshot, after: Dataset) -> None:
    """Group 2 and the preamble. The Media Storage UID is logged only where it isn't the SOP's."""
    meta = getattr(after, "file_meta", None)
    path = f"{MEDIA_STORAGE_SOP_INSTANCE_UID:08X}"
    if before.meta is not None:
        snapshot = Snapshot(before.meta, dicomjson.DEFAULT_ENCODINGS, False, True)
        part = Comparison()
        encodings = dicomjson.DEFAULT_ENCODINGS
        part.compare("", snapshot, meta if meta is not None else Dataset(), encodings, encodings)
        stored = before.meta.get(MEDIA_STORAGE_SOP_INSTANCE_UID)
        if stored is not None and meta is not None and MEDIA_STORAGE_SOP_INSTANCE_UID in meta:
            if snapshot.text(MEDIA_STORAGE_SOP_INSTANCE_UID) == before.text(SOP_INSTANCE_UID):
                part.originals.pop(path, None)
            else:
                part.log(MEDIA_STORAGE_SOP_INSTANCE_UID, snapshot, stored)
        difference.originals.update(part.originals)
        difference.large.update(part.large)
        difference.not_kept += part.not_kept
    elif meta is not None:  # it was made by the engine
        difference.originals.update({f"{tag:08X}": ABSENT for tag in meta if tag & 0xFFFF})
    preamble = getattr(after, "preamble", None)
    if before.preamble != preamble:
        difference.originals[PREAMBLE] = (
            ABSENT if before.preamble is None else leaf_json("OB", before.preamble, (), True, None)
        )


class _Reader:
    """Text of top-level elements of a de-identified dataset, decoded or not."""

    def __init__(self, dataset: Dataset) -> None:
        self._elements: dict[int, Any] = dict(
            zip(map(int, dataset.keys()), dataset.values(), strict=True)
        )
        own = self._elements.get(SPECIFIC_CHARACTER_SET)
        self._encodings = encodings_in(own) or dicomjson.DEFAULT_ENCODINGS

    def text(self, tag: int) -> str | None:
        element = self._elements.get(tag)
        if element is None:
            return None
        if isinstance(element, RawDataElement):
            return dicomjson.text_of(element.VR or "LO", element.value or b"", self._encodings)
        value = written(element, self._encodings, True)
        return dicomjson.text_of(element.VR, value or b"", self._encodings)
