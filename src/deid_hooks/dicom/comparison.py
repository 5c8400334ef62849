"""Compare values (DS, text, UIDs, sequences): which elements are no longer what was captured.

The test is one-sided: an element is left out only where what will be written is provably the same
bytes under the same value representation; everything else is logged.
"""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from functools import lru_cache
from typing import Any, NamedTuple

from pydicom.dataelem import DataElement, RawDataElement

from deid_hooks.dicom import encoding
from deid_hooks.dicom.capture import (
    WITH_BYTES,
    Captured,
    Items,
    Snapshot,
    Whole,
    list_elements,
    read_encodings,
    read_items,
)
from deid_hooks.dicom.dictionary import (
    PIXELS,
    SERIES_INSTANCE_UID,
    SOP_INSTANCE_UID,
    SPECIFIC_CHARACTER_SET,
    STUDY_INSTANCE_UID,
    name_element,
)
from deid_hooks.dicom.elements import UNDEFINED_LENGTH
from deid_hooks.dicom.encoding import (
    DEFAULT_ENCODINGS,
    encode_plain,
    encode_value,
    pad_pixels,
)
from deid_hooks.records.json_codec import write_canonical_json

LARGE = 64 * 1024
"""Bytes above which a value is kept once per digest, beside the originals."""
LARGE_VALUES = 64 * 1024 * 1024
"""Bytes above which a value is not kept, unless the settings say otherwise."""

ABSENT = "null"
PADS = "pads"
"""Key of an element of which nothing but pads differs: the fragments that got one."""
_UID_VRS = ("UI", None)

_CACHED_BYTES = 256
_WITHOUT_CHARACTERS = frozenset(
    (*encoding.NUMBER_FORMATS, "AT", "OB", "OD", "OF", "OL", "OV", "OW", "SQ")
)
TELLING_GROUPS = frozenset((0x0018, 0x0020, 0x0028))
_UIDS_WITH_A_COLUMN = frozenset((STUDY_INSTANCE_UID, SERIES_INSTANCE_UID, SOP_INSTANCE_UID))


class _Level(NamedTuple):
    """One dataset or item: its path, its originals, and the character sets before and after."""

    path: str
    before: Snapshot
    was: tuple[str, ...]
    now: tuple[str, ...]


class Comparison:
    """Collects what differs between a snapshot and a dataset, item by item.

    ``largest`` is the length in bytes up to which a value is kept. ``not_kept`` names the elements
    of which the log doesn't hold the original: altered pixels, and those in ``too_large``.
    """

    def __init__(self, largest: int = LARGE_VALUES) -> None:
        self._largest = largest
        self.too_large: list[str] = []
        self.originals: dict[str, str] = {}
        self.uids: dict[tuple[str, str], None] = {}
        self.large: dict[str, bytes | None] = {}
        self.not_kept: list[str] = []
        self.unchanged: list[tuple[int, Captured]] = []

    def compare(
        self,
        path: str,
        before: Snapshot,
        after: dict[int, Any],
        inherited: tuple[tuple[str, ...], tuple[str, ...]],
    ) -> None:
        """Take in what differs between ``before`` and ``after``, the elements of a dataset.

        ``path`` leads to it, ``""`` for the dataset itself. ``inherited`` are the character sets of
        what it is in, before and after.
        """
        elements = before.elements
        was = read_encodings(elements.get(SPECIFIC_CHARACTER_SET)) or inherited[0]
        encodings = read_encodings(after.get(SPECIFIC_CHARACTER_SET)) or inherited[1]
        level = _Level(path, before, was, encodings)
        same_charset = was == encodings
        little_endian = before.little_endian
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
                same = self._is_same(level, tag, original, now)
            if same:
                if not path and tag >> 16 in TELLING_GROUPS:
                    self.unchanged.append((tag, original))
            elif tag & 0xFFFF:  # group lengths are the writer's business
                self._log(level, tag, original)
                if now is not None and now.VR in _UID_VRS:
                    self._pair_uids(level, tag, original, now)
        if len(after) > len(elements) - gone:
            added = (tag for tag in after.keys() - elements.keys() if tag & 0xFFFF)
            self.originals.update({path + _write_tag(tag): ABSENT for tag in added})

    def log(self, tag: int, before: Snapshot, original: Captured) -> None:
        """Keep an original element of the file meta information."""
        encodings = DEFAULT_ENCODINGS
        self._log(_Level("", before, encodings, encodings), tag, original)

    def _is_same(self, level: _Level, tag: int, original: Captured, now: Any) -> bool:
        """Return whether nothing changed, or the leaves that changed are logged already."""
        vr = now.VR
        if isinstance(original, Whole) or (original.VR == "UN" and vr == "SQ"):
            self._pair_uids_inside(level, original, now)
            return False
        if vr != original.VR and vr is not None and original.VR is not None:
            return False
        if vr == "SQ" and isinstance(now, DataElement):
            return self._compare_items(level, tag, original, now)
        if isinstance(original, Items):
            return False
        if tag in PIXELS and not level.path:
            return self._are_same_pixels(tag, original, now)
        if isinstance(now, RawDataElement):
            if now.value is None and vr == "UN":
                return False  # pydicom takes an empty one for deferred, and writes a known VR
            same_bytes = (now.value or b"") == (original.value or b"")
            return same_bytes and (level.was == level.now or _is_written_as_it_is(now))
        return encode_value(now, level.now, level.before.little_endian) == (original.value or b"")

    def _are_same_pixels(self, tag: int, original: Captured, now: Any) -> bool:
        """Return whether pixels are the same, or so but for pads, which are noted."""
        assert not isinstance(original, Items)
        if now.value == original.value:
            return True
        undefined = getattr(original, "length", 0) == UNDEFINED_LENGTH
        if not isinstance(original.value, bytes) or not isinstance(now.value, bytes):
            return False
        try:
            padded, pads = pad_pixels(original.value, undefined)
        except ValueError:
            return False
        if now.value != padded:
            return False
        element = {"vr": "OW", "length": len(original.value), PADS: list(pads)}
        self.originals[_write_tag(tag)] = write_canonical_json(element)
        return True

    def _compare_items(self, level: _Level, tag: int, original: Captured, now: DataElement) -> bool:
        items = read_items(level.before, original)
        if items is None or len(items) != len(now.value):
            return False
        for number, (item, item_now) in enumerate(zip(items, now.value, strict=True)):
            inside = f"{level.path}{_write_tag(tag)}.{number}."
            self.compare(inside, item, list_elements(item_now), (level.was, level.now))
        return True

    def _pair_uids_inside(self, level: _Level, original: Captured, now: Any) -> None:
        """Note the UIDs of a sequence that is logged whole."""
        if now.VR != "SQ" or not isinstance(now, DataElement):
            return
        inside = Comparison(self._largest)
        items = read_items(level.before, original) or ()
        for item, item_now in zip(items, now.value, strict=False):
            inside.compare("0.", item, list_elements(item_now), (level.was, level.now))
        self.uids.update(inside.uids)

    def _log(self, level: _Level, tag: int, original: Captured) -> None:
        path = level.path + _write_tag(tag)
        if tag in PIXELS and not level.path:
            self.originals[path] = self._note_pixels(tag, original)
        else:
            self.originals[path] = self._encode(tag, level.before, original, level.was)

    def _note_pixels(self, tag: int, original: Captured) -> str:
        self.not_kept.append(name_element(tag))
        return f'{{"length":{getattr(original, "length", 0)},"vr":"OW"}}'

    def _encode(
        self, tag: int, before: Snapshot, original: Captured, encodings: tuple[str, ...]
    ) -> str:
        """Return an element as JSON text; set aside a value that is too large for that."""
        if isinstance(original, DataElement):
            return self._note_pixels(tag, original)
        if isinstance(original, Whole):
            return self._encode_whole(tag, original, encodings)
        vr = original.VR or before.vr(tag, original)
        if vr == "SQ" and (items := read_items(before, original)) is not None:
            texts = [self._encode_item(item, encodings) for item in items]
            return f'{{"Value":[{",".join(texts)}],"vr":"SQ"}}' if texts else '{"vr":"SQ"}'
        assert not isinstance(original, Items)
        value = original.value or b""
        undefined = getattr(original, "length", 0) == UNDEFINED_LENGTH
        if len(value) > LARGE:
            return self._set_aside(tag, vr, value, undefined)
        creator = before.creator(tag) if tag & 0x00010000 else None
        leaf_vr = "UN" if vr == "SQ" else vr
        text = encode_leaf(leaf_vr, value, encodings, before.little_endian, creator)
        return _mark_undefined(text) if undefined else text

    def _encode_whole(self, tag: int, original: Whole, encodings: tuple[str, ...]) -> str:
        """Return a sequence as JSON text, with the bytes that bring it back beside its items."""
        element: dict[str, Any] = {"vr": "SQ", "written": original.VR}
        if original.undefined:
            element["undefined"] = True
        if len(original.value) > LARGE:
            element |= json.loads(self._set_aside(tag, "SQ", original.value, original.undefined))
        else:
            element["raw"] = b64encode(original.value).decode("ascii")
        items = [json.loads(self._encode_item(item, encodings)) for item in original.items or ()]
        return write_canonical_json({**element, "Value": items} if items else element)

    def _encode_item(self, item: Snapshot, inherited: tuple[str, ...]) -> str:
        own = read_encodings(item.elements.get(SPECIFIC_CHARACTER_SET)) or inherited
        elements = [
            f'"{tag:08X}":{self._encode(tag, item, element, own)}'
            for tag, element in sorted(item.elements.items())
            if tag & 0xFFFF
        ]
        return "{" + ",".join(elements) + "}"

    def _set_aside(self, tag: int, vr: str, value: bytes, undefined: bool) -> str:
        digest = hashlib.sha256(value).hexdigest()
        kept = len(value) <= self._largest
        self.large[digest] = value if kept else None
        if not kept:
            self.not_kept.append(name_element(tag))
            self.too_large.append(name_element(tag))
        text = write_canonical_json({"vr": vr, "length": len(value), "digest": digest})
        return _mark_undefined(text) if undefined else text

    def _pair_uids(self, level: _Level, tag: int, original: Captured, now: Any) -> None:
        """Note which de-identified UID stands for which original one."""
        if not level.path and (tag in _UIDS_WITH_A_COLUMN or tag >> 16 == 0x0002):
            return
        if level.before.vr(tag, original) != "UI" or not isinstance(original, WITH_BYTES):
            return
        raw = isinstance(now, RawDataElement)
        value = now.value if raw else encode_value(now, level.now, True)
        self.uids.update(_pair_values(original.value or b"", value or b""))


def _mark_undefined(text: str) -> str:
    """Add to an element that its length was undefined: encapsulated pixels of an icon."""
    return write_canonical_json({**json.loads(text), "undefined": True})


@lru_cache(maxsize=1024)
def _pair_values(original: bytes, deidentified: bytes) -> dict[tuple[str, str], None]:
    ours = encoding.read_text("UI", original).split("\\")
    theirs = encoding.read_text("UI", deidentified).split("\\")
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
    """Return an element as JSON text. Short ones are cached: within a series most are the same."""
    make = _encode_cached if len(value) <= _CACHED_BYTES else _encode_anew
    return make(vr, value, encodings or encoding.DEFAULT_ENCODINGS, little_endian, creator)


@lru_cache(maxsize=4096)
def _write_tag(tag: int) -> str:
    return f"{tag:08X}"


def _encode_anew(
    vr: str,
    value: bytes,
    encodings: tuple[str, ...],
    little_endian: bool,
    creator: str | None,
) -> str:
    if not creator and (text := _encode_plain_text(vr, value)):
        return text
    element = encoding.encode(vr, value, encodings, little_endian)
    if creator:
        element["creator"] = creator
    return write_canonical_json(element)


def _encode_plain_text(vr: str, value: bytes) -> str | None:
    """Return what the codec makes of one short plain text, five times as fast; None for others."""
    if vr not in encoding.TEXT_VRS or vr == "PN" or len(value) % 2 or not value.isascii():
        return None
    text = value.decode("ascii")
    if text[-1:] == ("\0" if vr == "UI" else " "):
        text = text[:-1]
    if not text or not text.isprintable() or "\\" in text or '"' in text:
        return None
    return f'{{"Value":["{text}"],"vr":"{vr}"}}'


_encode_cached = lru_cache(maxsize=4096)(_encode_anew)


def _is_written_as_it_is(element: Captured) -> bool:
    """Return whether pydicom writes an element untouched though the character set was changed.

    It decodes and encodes all text again then, and UN becomes what the dictionary says.
    """
    return isinstance(element, RawDataElement) and element.VR in _WITHOUT_CHARACTERS
