"""Difference: what an engine changed, leaf by leaf, as the originals that bring it back.

The test is one-sided: an element is left out only where what will be written is provably the same
bytes under the same value representation; everything else is logged.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset

from deid_hooks import dicomjson
from deid_hooks.attributes import (
    MEDIA_STORAGE_DIRECTORY,
    MEDIA_STORAGE_SOP_INSTANCE_UID,
    PIXELS,
    SOP_INSTANCE_UID,
    SPECIFIC_CHARACTER_SET,
    Captured,
    Items,
    Snapshot,
    capture,
    encodings_in,
    items_of,
    name_of,
    written,
)
from deid_hooks.dictionary import tag_of, vr_of
from deid_hooks.entry import DEID_FIELDS, INDEXED_FIELDS
from deid_hooks.errors import UnusableDataset
from deid_hooks.patient import Patient, patient_of
from deid_hooks.timestamp import timestamp_of

LARGE = 64 * 1024
"""Bytes above which a value is kept once per digest, beside the originals."""
TOO_LARGE = 1024 * 1024
"""Bytes above which only its length and digest are kept."""

PREAMBLE = "preamble"
FINGERPRINT = "fingerprint"
"""Two keys of the originals that are no path: the 128 bytes before the file meta, and what tells
instances of one SOP Instance UID apart."""

ABSENT = "null"

_CACHED_BYTES = 256

_SERIES_LEVEL_UIDS = frozenset((0x0020000D, 0x0020000E, SOP_INSTANCE_UID))


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
    difference = _Difference()
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


def telling(tag: int, element: Captured) -> tuple[bytes, ...]:
    """The value of an element that counts for the fingerprint: a short one about the image."""
    if tag >> 16 not in (0x0018, 0x0020, 0x0028) or isinstance(element, Items | DataElement):
        return ()
    value = element.value
    if not value or len(value) > 64 or (element.VR or vr_of(tag)) == "SQ":
        return ()
    return (value,)


def _is_ascii(element: Captured) -> bool:
    return isinstance(element, RawDataElement) and (element.value or b"").isascii()


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


def _compare_file_meta(difference: _Difference, before: Snapshot, after: Dataset) -> None:
    """Group 2 and the preamble. The Media Storage UID is logged only where it isn't the SOP's."""
    meta = getattr(after, "file_meta", None)
    path = f"{MEDIA_STORAGE_SOP_INSTANCE_UID:08X}"
    if before.meta is not None:
        snapshot = Snapshot(before.meta, dicomjson.DEFAULT_ENCODINGS, False, True)
        part = _Difference()
        encodings = dicomjson.DEFAULT_ENCODINGS
        part.compare("", snapshot, meta if meta is not None else Dataset(), encodings, encodings)
        if (
            path in part.originals
            and snapshot.text(MEDIA_STORAGE_SOP_INSTANCE_UID) == before.text(SOP_INSTANCE_UID)
            and meta is not None
            and MEDIA_STORAGE_SOP_INSTANCE_UID in meta
        ):
            del part.originals[path]
        difference.originals.update(part.originals)
        difference.large.update(part.large)
        difference.not_kept += part.not_kept
    elif meta is not None:  # it was made by the engine
        difference.originals.update({f"{tag:08X}": ABSENT for tag in meta if tag & 0xFFFF})
    preamble = getattr(after, "preamble", None)
    if before.preamble != preamble:
        difference.originals[PREAMBLE] = (
            ABSENT if before.preamble is None else _leaf_json("OB", before.preamble, (), True, None)
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


class _Difference:
    """Gathers what differs between a snapshot and a dataset, item by item."""

    def __init__(self) -> None:
        self.originals: dict[str, str] = {}
        self.uids: dict[tuple[str, str], None] = {}
        self.large: dict[str, bytes | None] = {}
        self.not_kept: list[str] = []
        self.unchanged: list[bytes] = []

    def compare(
        self,
        prefix: str,
        before: Snapshot,
        after: Dataset,
        inherited_before: tuple[str, ...],
        inherited_after: tuple[str, ...],
    ) -> None:
        left: dict[int, Any] = dict(zip(map(int, after.keys()), after.values(), strict=True))
        was = encodings_in(before.elements.get(SPECIFIC_CHARACTER_SET)) or inherited_before
        encodings = encodings_in(left.get(SPECIFIC_CHARACTER_SET)) or inherited_after
        top = not prefix
        for tag, original in before.elements.items():
            now = left.pop(tag, None)
            if tag & 0xFFFF == 0:  # group lengths are the writer's business
                continue
            if now is original:
                if was == encodings or tag in PIXELS or _is_ascii(now):
                    if top:
                        self.unchanged += telling(tag, original)
                    continue
            elif now is not None and self._same(prefix, tag, before, original, now, was, encodings):
                if top:
                    self.unchanged += telling(tag, original)
                continue
            self._log(prefix, tag, before, original, was)
            if now is not None:
                self._pair(tag, before, original, now, encodings, top)
        for tag in left:
            if tag & 0xFFFF:
                self.originals[f"{prefix}{tag:08X}"] = ABSENT

    def _same(
        self,
        prefix: str,
        tag: int,
        before: Snapshot,
        original: Captured,
        now: Any,
        was: tuple[str, ...],
        encodings: tuple[str, ...],
    ) -> bool:
        """Whether the element is dealt with: nothing changed, or its changed leaves are logged."""
        if original.VR is not None and now.VR is not None and original.VR != now.VR:
            return False
        if tag in PIXELS:
            return not isinstance(original, Items) and now.value == original.value
        if isinstance(now, RawDataElement):
            return not isinstance(original, Items) and (now.value or b"") == (original.value or b"")
        if now.VR == "SQ":
            items = items_of(before, original)
            if items is None or len(items) != len(now.value):
                return False
            for number, (item, item_now) in enumerate(zip(items, now.value, strict=True)):
                self.compare(f"{prefix}{tag:08X}.{number}.", item, item_now, was, encodings)
            return True
        if isinstance(original, Items):
            return False
        return written(now, encodings, before.little_endian) == (original.value or b"")

    def _log(
        self, prefix: str, tag: int, before: Snapshot, original: Captured, was: tuple[str, ...]
    ) -> None:
        if tag in PIXELS or isinstance(original, DataElement):
            self.not_kept.append(name_of(tag))
        self.originals[f"{prefix}{tag:08X}"] = self._json(tag, before, original, was)

    def _json(
        self, tag: int, before: Snapshot, original: Captured, encodings: tuple[str, ...]
    ) -> str:
        vr = before.vr(tag, original)
        if tag in PIXELS:
            return f'{{"length":{getattr(original, "length", 0)},"vr":"OW"}}'
        if vr == "SQ" and (items := items_of(before, original)) is not None:
            texts = [self._item_json(item, encodings) for item in items]
            return f'{{"Value":[{",".join(texts)}],"vr":"SQ"}}' if texts else '{"vr":"SQ"}'
        assert not isinstance(original, Items | DataElement)
        value = original.value or b""
        if len(value) > LARGE:
            return self._large(tag, vr, value)
        creator = before.creator(tag)
        return _leaf_json(
            "UN" if vr == "SQ" else vr, value, encodings, before.little_endian, creator
        )

    def _item_json(self, item: Snapshot, inherited: tuple[str, ...]) -> str:
        own = encodings_in(item.elements.get(SPECIFIC_CHARACTER_SET)) or inherited
        elements = [
            f'"{tag:08X}":{self._json(tag, item, element, own)}'
            for tag, element in sorted(item.elements.items())
            if tag & 0xFFFF
        ]
        return "{" + ",".join(elements) + "}"

    def _large(self, tag: int, vr: str, value: bytes) -> str:
        digest = hashlib.sha256(value).hexdigest()
        kept = len(value) <= TOO_LARGE
        self.large[digest] = value if kept else None
        if not kept:
            self.not_kept.append(name_of(tag))
        return dicomjson.dumps({"vr": vr, "length": len(value), "digest": digest})

    def _pair(
        self,
        tag: int,
        before: Snapshot,
        original: Captured,
        now: Any,
        encodings: tuple[str, ...],
        top: bool,
    ) -> None:
        """Note which de-identified UID stands for which original one."""
        if now.VR not in ("UI", None) or before.vr(tag, original) != "UI":
            return
        if (top and tag in _SERIES_LEVEL_UIDS) or isinstance(original, Items | DataElement):
            return
        value = now.value if isinstance(now, RawDataElement) else written(now, encodings, True)
        ours = dicomjson.text_of("UI", original.value or b"").split("\\")
        theirs = dicomjson.text_of("UI", value or b"").split("\\")
        if len(ours) == len(theirs):
            self.uids.update(
                {(b, a): None for a, b in zip(ours, theirs, strict=True) if a and b and a != b}
            )


def _leaf_json(
    vr: str,
    value: bytes,
    encodings: tuple[str, ...],
    little_endian: bool,
    creator: str | None,
) -> str:
    """An element as JSON text. Short ones are cached: within a series most are the same."""
    make = _cached_json if len(value) <= _CACHED_BYTES else _make_json
    return make(vr, value, encodings or dicomjson.DEFAULT_ENCODINGS, little_endian, creator)


def _make_json(
    vr: str,
    value: bytes,
    encodings: tuple[str, ...],
    little_endian: bool,
    creator: str | None,
) -> str:
    element = dicomjson.encode(vr, value, encodings, little_endian)
    if creator:
        element["creator"] = creator
    return dicomjson.dumps(element)


_cached_json = lru_cache(maxsize=4096)(_make_json)
