"""Comparison: which elements of a dataset are no longer what was captured, leaf by leaf.

The test is one-sided: an element is left out only where what will be written is provably the same
bytes under the same value representation; everything else is logged.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any

from pydicom.dataelem import DataElement, RawDataElement

from deid_hooks.dicom import encoding as dicomjson
from deid_hooks.dicom.capture import (
    PIXELS,
    SOP_INSTANCE_UID,
    SPECIFIC_CHARACTER_SET,
    WITH_BYTES,
    Captured,
    Items,
    Snapshot,
    list_elements,
    name_element,
    read_encodings,
    read_items,
)
from deid_hooks.dicom.encoding import encode_plain, encode_value
from deid_hooks.records.keys import write_canonical_json

LARGE = 64 * 1024
"""Bytes above which a value is kept once per digest, beside the originals."""
TOO_LARGE = 1024 * 1024
"""Bytes above which only its length and digest are kept."""

ABSENT = "null"
_UID_VRS = ("UI", None)

_CACHED_BYTES = 256
_WITHOUT_CHARACTERS = frozenset(
    (*dicomjson.NUMBER_FORMATS, "AT", "OB", "OD", "OF", "OL", "OV", "OW", "SQ")
)
TELLING_GROUPS = frozenset((0x0018, 0x0020, 0x0028))
_UIDS_OF_THEIR_OWN = frozenset((0x0020000D, 0x0020000E, SOP_INSTANCE_UID))


class Comparison:
    """Gathers what differs between a snapshot and a dataset, item by item."""

    def __init__(self) -> None:
        self.originals: dict[str, str] = {}
        self.uids: dict[tuple[str, str], None] = {}
        self.large: dict[str, bytes | None] = {}
        self.not_kept: list[str] = []
        self.unchanged: list[tuple[int, Captured]] = []

    def compare(
        self,
        prefix: str,
        before: Snapshot,
        after: dict[int, Any],
        inherited_before: tuple[str, ...],
        inherited_after: tuple[str, ...],
    ) -> None:
        """Take in what differs between ``before`` and ``after``, the elements of a dataset."""
        elements = before.elements
        was = read_encodings(elements.get(SPECIFIC_CHARACTER_SET)) or inherited_before
        encodings = read_encodings(after.get(SPECIFIC_CHARACTER_SET)) or inherited_after
        same_charset = was == encodings
        little_endian = before.little_endian
        telling = not prefix
        gone = 0
        for tag, original in elements.items():
            now = after.get(tag)
            if now is original:
                same = same_charset or tag in PIXELS or _is_written_as_it_is(now)
            elif now is None:
                same = False
                gone += 1
            elif (
                now.VR == original.VR
                and (plain := encode_plain(now.VR, now.value, little_endian)) is not None
            ):
                # Most elements, so without further ado. No Items: a sequence is not plain.
                same = plain == original.value  # type: ignore[union-attr]
            else:
                same = self._same(prefix, tag, before, original, now, was, encodings)
            if same:
                if telling and tag >> 16 in TELLING_GROUPS:
                    self.unchanged.append((tag, original))
            elif tag & 0xFFFF:  # group lengths are the writer's business
                self.log(tag, before, original, was, prefix)
                if now is not None and now.VR in _UID_VRS:
                    self._pair(tag, before, original, now, encodings, not prefix)
        if len(after) > len(elements) - gone:
            added = (tag for tag in after.keys() - elements.keys() if tag & 0xFFFF)
            self.originals.update({prefix + _path(tag): ABSENT for tag in added})

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
        vr = now.VR
        if vr != original.VR and vr is not None and original.VR is not None:
            return False
        if vr == "SQ" and isinstance(now, DataElement):
            return self._same_items(prefix, tag, before, original, now, was, encodings)
        if isinstance(original, Items):
            return False
        if tag in PIXELS:
            return bool(now.value == original.value)
        if isinstance(now, RawDataElement):
            if now.value is None and vr == "UN":
                return False  # pydicom takes an empty one for deferred, and writes a known VR
            same_bytes = (now.value or b"") == (original.value or b"")
            return same_bytes and (was == encodings or _is_written_as_it_is(now))
        return encode_value(now, encodings, before.little_endian) == (original.value or b"")

    def _same_items(
        self,
        prefix: str,
        tag: int,
        before: Snapshot,
        original: Captured,
        now: DataElement,
        was: tuple[str, ...],
        encodings: tuple[str, ...],
    ) -> bool:
        items = read_items(before, original)
        if items is None or len(items) != len(now.value):
            return False
        for number, (item, item_now) in enumerate(zip(items, now.value, strict=True)):
            inside = f"{prefix}{_path(tag)}.{number}."
            self.compare(inside, item, list_elements(item_now), was, encodings)
        return True

    def log(
        self,
        tag: int,
        before: Snapshot,
        original: Captured,
        was: tuple[str, ...] = dicomjson.DEFAULT_ENCODINGS,
        prefix: str = "",
    ) -> None:
        """Keep an original element."""
        if tag in PIXELS or isinstance(original, DataElement):
            self.not_kept.append(name_element(tag))
        self.originals[prefix + _path(tag)] = self._json(tag, before, original, was)

    def _json(
        self, tag: int, before: Snapshot, original: Captured, encodings: tuple[str, ...]
    ) -> str:
        vr = original.VR or before.vr(tag, original)
        if tag in PIXELS:
            return f'{{"length":{getattr(original, "length", 0)},"vr":"OW"}}'
        if vr == "SQ" and (items := read_items(before, original)) is not None:
            texts = [self._item_json(item, encodings) for item in items]
            return f'{{"Value":[{",".join(texts)}],"vr":"SQ"}}' if texts else '{"vr":"SQ"}'
        assert not isinstance(original, Items | DataElement)
        value = original.value or b""
        if len(value) > LARGE:
            return self._large(tag, vr, value)
        creator = before.creator(tag) if tag & 0x00010000 else None
        leaf_vr = "UN" if vr == "SQ" else vr
        return encode_leaf(leaf_vr, value, encodings, before.little_endian, creator)

    def _item_json(self, item: Snapshot, inherited: tuple[str, ...]) -> str:
        own = read_encodings(item.elements.get(SPECIFIC_CHARACTER_SET)) or inherited
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
            self.not_kept.append(name_element(tag))
        return write_canonical_json({"vr": vr, "length": len(value), "digest": digest})

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
        if top and (tag in _UIDS_OF_THEIR_OWN or tag >> 16 == 0x0002):
            return
        if before.vr(tag, original) != "UI" or not isinstance(original, WITH_BYTES):
            return
        value = now.value if isinstance(now, RawDataElement) else encode_value(now, encodings, True)
        self.uids.update(_pairs(original.value or b"", value or b""))


@lru_cache(maxsize=1024)
def _pairs(original: bytes, deidentified: bytes) -> dict[tuple[str, str], None]:
    ours = dicomjson.read_text("UI", original).split("\\")
    theirs = dicomjson.read_text("UI", deidentified).split("\\")
    if len(ours) != len(theirs):
        return {}
    return {(b, a): None for a, b in zip(ours, theirs, strict=True) if a and b and a != b}


def encode_leaf(
    vr: str,
    value: bytes,
    encodings: tuple[str, ...],
    little_endian: bool,
    creator: str | None,
) -> str:
    """An element as JSON text. Short ones are cached: within a series most are the same."""
    make = _cached_json if len(value) <= _CACHED_BYTES else _make_json
    return make(vr, value, encodings or dicomjson.DEFAULT_ENCODINGS, little_endian, creator)


@lru_cache(maxsize=4096)
def _path(tag: int) -> str:
    return f"{tag:08X}"


def _make_json(
    vr: str,
    value: bytes,
    encodings: tuple[str, ...],
    little_endian: bool,
    creator: str | None,
) -> str:
    if not creator and (text := _plain_json(vr, value)):
        return text
    element = dicomjson.encode(vr, value, encodings, little_endian)
    if creator:
        element["creator"] = creator
    return write_canonical_json(element)


def _plain_json(vr: str, value: bytes) -> str | None:
    """What the codec makes of one short plain text, five times as fast; None for all else."""
    if vr not in dicomjson.TEXT_VRS or vr == "PN" or len(value) % 2 or not value.isascii():
        return None
    text = value.decode("ascii")
    if text[-1:] == ("\0" if vr == "UI" else " "):
        text = text[:-1]
    if not text or not text.isprintable() or "\\" in text or '"' in text:
        return None
    return f'{{"Value":["{text}"],"vr":"{vr}"}}'


_cached_json = lru_cache(maxsize=4096)(_make_json)


def _is_written_as_it_is(element: Captured) -> bool:
    """Whether pydicom writes an element untouched though the character set was changed.

    It decodes and encodes all text again then, and UN becomes what the dictionary says.
    """
    return isinstance(element, RawDataElement) and element.VR in _WITHOUT_CHARACTERS
