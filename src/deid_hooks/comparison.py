"""Comparison: which elements of a dataset are no longer what was captured, leaf by leaf.

The test is one-sided: an element is left out only where what will be written is provably the same
bytes under the same value representation; everything else is logged.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any

from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset

from deid_hooks import dicomjson
from deid_hooks.attributes import (
    PIXELS,
    SOP_INSTANCE_UID,
    SPECIFIC_CHARACTER_SET,
    Captured,
    Items,
    Snapshot,
    encodings_in,
    items_of,
    name_of,
    plain_text,
    written,
)
from deid_hooks.dictionary import vr_of

LARGE = 64 * 1024
"""Bytes above which a value is kept once per digest, beside the originals."""
TOO_LARGE = 1024 * 1024
"""Bytes above which only its length and digest are kept."""

ABSENT = "null"

_CACHED_BYTES = 256
_WITHOUT_CHARACTERS = frozenset(
    (*dicomjson.NUMBER_FORMATS, "AT", "OB", "OD", "OF", "OL", "OV", "OW", "SQ")
)
_TELLING_GROUPS = (0x0018, 0x0020, 0x0028)
_SERIES_LEVEL_UIDS = frozenset((0x0020000D, 0x0020000E, SOP_INSTANCE_UID))


class Comparison:
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
        same_charset = was == encodings
        top = not prefix
        for tag, original in before.elements.items():
            now = left.pop(tag, None)
            if now is original:
                same = same_charset or tag in PIXELS or _is_written_as_it_is(now)
            elif now is None:
                same = False
            elif now.VR == original.VR and (text := plain_text(now.value)) is not None:
                # Most elements, so without further ado: what pydicom would write of plain text.
                encoded = text.encode("ascii")
                if len(encoded) % 2:
                    encoded += b"\0" if now.VR == "UI" else b" "
                same = encoded == original.value  # type: ignore[union-attr] # no Items: SQ is no text
            else:
                same = self._same(prefix, tag, before, original, now, was, encodings)
            if same:
                if top and tag >> 16 in _TELLING_GROUPS:
                    self.unchanged += telling(tag, original)
            elif tag & 0xFFFF:  # group lengths are the writer's business
                self.log(tag, before, original, was, prefix)
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
        return written(now, encodings, before.little_endian) == (original.value or b"")

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
        items = items_of(before, original)
        if items is None or len(items) != len(now.value):
            return False
        for number, (item, item_now) in enumerate(zip(items, now.value, strict=True)):
            self.compare(f"{prefix}{tag:08X}.{number}.", item, item_now, was, encodings)
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
        return leaf_json(
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


def leaf_json(
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
    if not creator and (text := _plain_json(vr, value)):
        return text
    element = dicomjson.encode(vr, value, encodings, little_endian)
    if creator:
        element["creator"] = creator
    return dicomjson.dumps(element)


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


def telling(tag: int, element: Captured) -> tuple[bytes, ...]:
    """The value of an element that counts for the fingerprint: a short one about the image."""
    if tag >> 16 not in _TELLING_GROUPS or isinstance(element, Items | DataElement):
        return ()
    value = element.value
    if not value or len(value) > 64 or (element.VR or vr_of(tag)) == "SQ":
        return ()
    return (value,)


def _is_written_as_it_is(element: Captured) -> bool:
    """Whether pydicom writes an element untouched though the character set was changed.

    It decodes and encodes all text again then, and UN becomes what the dictionary says.
    """
    return isinstance(element, RawDataElement) and element.VR in _WITHOUT_CHARACTERS
