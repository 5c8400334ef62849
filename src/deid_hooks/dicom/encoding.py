"""The bytes of a value: as DICOM JSON and back without loss, and as they are written and compared.

pydicom's own JSON (PS3.18, annex F) is for reading: numbers written as text go through float,
values that can't be decoded raise. Here text loses only the one pad character that PS3.5 adds, DS
and IS stay text, and whatever would not come back byte by byte carries its bytes beside the value,
base64 under ``raw``.
"""

from __future__ import annotations

import struct
import warnings
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from functools import lru_cache
from io import BytesIO
from typing import Any

from pydicom.charset import convert_encodings, decode_bytes, encode_string
from pydicom.dataelem import DataElement
from pydicom.filebase import DicomFileLike
from pydicom.filewriter import write_data_element
from pydicom.multival import MultiValue
from pydicom.uid import UID
from pydicom.valuerep import IS, DSfloat, PersonName

from deid_hooks.dicom.dictionary import NAME_GROUPS, join_name_groups

Element = dict[str, Any]
"""One element of the DICOM JSON model: ``{"vr": "LO", "Value": ["CHEST"]}``."""

CHARSET_VRS = frozenset(("LO", "LT", "PN", "SH", "ST", "UC", "UT"))
ASCII_VRS = frozenset(("AE", "AS", "CS", "DA", "DS", "DT", "IS", "TM", "UI", "UR"))
TEXT_VRS = CHARSET_VRS | ASCII_VRS
SINGLE_VALUED_VRS = frozenset(("LT", "ST", "UR", "UT"))
NUMBER_FORMATS = {
    "US": "H",
    "SS": "h",
    "UL": "I",
    "SL": "i",
    "UV": "Q",
    "SV": "q",
    "FL": "f",
    "FD": "d",
}

DEFAULT_ENCODINGS = ("iso8859",)
"""Where no character set is named: ISO-IR 6, read as Latin-1, as pydicom does."""

_DELIMITERS = {0x0A, 0x0C, 0x0D, 0x09}
_NAME_DELIMITERS = {*_DELIMITERS, 0x5E, 0x3D}


@lru_cache(maxsize=256)
def parse_encodings(specific_character_set: bytes) -> tuple[str, ...]:
    """Return the Python encodings of a (0008,0005) value as it stands in the file."""
    terms = specific_character_set.decode("latin-1").rstrip(" \0").split("\\")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return tuple(convert_encodings([term.strip() for term in terms]))
        except (LookupError, ValueError):
            return DEFAULT_ENCODINGS


def pad(value: bytes, vr: str) -> bytes:
    """To even length, as PS3.5 section 6.2 has it: NUL for UI, a space for other text."""
    if len(value) % 2 == 0:
        return value
    return value + (b"\0" if vr == "UI" else b" ")


_ITEM = b"\xfe\xff\x00\xe0"


def pad_pixels(value: bytes, encapsulated: bool) -> tuple[bytes, tuple[int, ...]]:
    """Return pixel data of even length, and the numbers of the fragments that got a pad.

    Native pixel data counts as one fragment (PS3.5, sections 8.1.1 and A.4). Raises ValueError for
    what is no fragments, and where an offset table counts fragments of odd length.
    """
    if not encapsulated:
        return (value + b"\0", (0,)) if len(value) % 2 else (value, ())
    fragments = _list_fragments(value)
    pads = tuple(number for number, each in enumerate(fragments) if len(each) % 2)
    if pads and fragments[0] and pads[0] < len(fragments) - 1:
        raise ValueError("its offset table counts fragments of odd length")
    return _join_fragments([each + bytes(len(each) % 2) for each in fragments]), pads


def strip_pads(value: bytes, encapsulated: bool, pads: Sequence[int]) -> bytes:
    """Return pixel data without the pads that :func:`pad_pixels` gave to these fragments.

    Raises ValueError for what has no such fragments.
    """
    fragments = _list_fragments(value) if encapsulated else [value]
    if not set(pads) <= set(range(len(fragments))):
        raise ValueError("there is no such fragment")
    kept = [each[:-1] if number in pads else each for number, each in enumerate(fragments)]
    return _join_fragments(kept) if encapsulated else kept[0]


def _list_fragments(value: bytes) -> list[bytes]:
    fragments, at = [], 0
    while at < len(value):
        length = int.from_bytes(value[at + 4 : at + 8], "little")
        if value[at : at + 4] != _ITEM or at + 8 + length > len(value):
            raise ValueError("these are no fragments")
        fragments.append(value[at + 8 : at + 8 + length])
        at += 8 + length
    return fragments


def _join_fragments(fragments: Sequence[bytes]) -> bytes:
    return b"".join(
        part for each in fragments for part in (_ITEM, len(each).to_bytes(4, "little"), each)
    )


def read_text(vr: str, value: bytes, encodings: Sequence[str] = DEFAULT_ENCODINGS) -> str:
    """Return the value as people read it: decoded, padding stripped.

    What its character set can't read is taken for Latin-1.
    """
    text = value.decode("ascii") if value.isascii() and b"\x1b" not in value else None
    if text is None:
        text = _decode(vr, value, encodings) or value.decode("latin-1")
    text = text.strip(" \0")
    return "\\".join(v.strip(" \0") for v in text.split("\\")) if "\\" in text else text


def render_value(
    vr: str, value: bytes, encodings: Sequence[str], little_endian: bool
) -> str | None:
    """Return a value as people read it, numbers as ``128`` or ``1\\2``; None if it has no text."""
    if vr in NUMBER_FORMATS or vr == "AT":
        values = _list_values(vr, value, encodings, little_endian)
        return None if values is None else "\\".join(map(str, values))
    return read_text(vr, value, encodings) if vr in TEXT_VRS else None


def encode(
    vr: str, value: bytes, encodings: Sequence[str] = DEFAULT_ENCODINGS, little_endian: bool = True
) -> Element:
    """Return an element's bytes as JSON. ``decode`` gives back exactly these bytes."""
    element: Element = {"vr": vr}
    if not value:
        return element
    values = _list_values(vr, value, encodings, little_endian)
    if values is None:
        element["InlineBinary"] = b64encode(value).decode("ascii")
        return element
    element["Value"] = values
    if _encode_bytes(vr, values, encodings, little_endian) != value:
        element["raw"] = b64encode(value).decode("ascii")
    return element


def decode(
    element: Mapping[str, Any],
    encodings: Sequence[str] = DEFAULT_ENCODINGS,
    little_endian: bool = True,
) -> bytes:
    """Return the bytes of an element that is no sequence.

    Raises ValueError if the element holds no value of its own (only a length and a digest).
    """
    for key in ("raw", "InlineBinary"):
        if key in element:
            return b64decode(element[key])
    if "Value" in element:
        value = _encode_bytes(element["vr"], element["Value"], encodings, little_endian)
        if value is None:
            raise ValueError("the value does not fit its VR")
        return value
    if "digest" in element or "length" in element:
        raise ValueError("only length and digest were kept")
    return b""


def _list_values(
    vr: str, value: bytes, encodings: Sequence[str], little_endian: bool
) -> list[Any] | None:
    """Return the JSON values, or None where bytes are the only honest form."""
    if vr in TEXT_VRS:
        text = _decode(vr, value, encodings)
        if text is None:
            text = value.decode("latin-1")
        if text and text[-1] == ("\0" if vr == "UI" else " ") and len(value) % 2 == 0:
            text = text[:-1]
        parts = [text] if vr in SINGLE_VALUED_VRS else text.split("\\")
        if vr == "PN":
            return [_name(part) if part else None for part in parts]
        return [part or None for part in parts]
    if vr == "AT" and len(value) % 4 == 0:
        numbers = struct.unpack(f"{'<' if little_endian else '>'}{len(value) // 2}H", value)
        return [f"{a:04X}{b:04X}" for a, b in zip(numbers[::2], numbers[1::2], strict=True)]
    if code := NUMBER_FORMATS.get(vr):
        size = struct.calcsize(f"={code}")
        if len(value) % size:
            return None
        order = "<" if little_endian else ">"
        unpacked = list(struct.unpack(f"{order}{len(value) // size}{code}", value))
        if code in "fd" and not all(v - v == 0 for v in unpacked):  # NaN and infinity: no JSON
            return None
        return unpacked
    return None


def _encode_bytes(
    vr: str, values: Sequence[Any], encodings: Sequence[str], little_endian: bool
) -> bytes | None:
    """Return what ``_list_values`` came from, if it can be told from them."""
    try:
        if vr == "PN":
            names = ["" if v is None else join_name_groups(v) for v in values]
            return _encode(vr, "\\".join(names), encodings)
        if vr in TEXT_VRS:
            return _encode(vr, "\\".join(v or "" for v in values), encodings)
        order = "<" if little_endian else ">"
        if vr == "AT":
            numbers = [int(v[i : i + 4], 16) for v in values for i in (0, 4)]
            return struct.pack(f"{order}{len(numbers)}H", *numbers)
        return struct.pack(f"{order}{len(values)}{NUMBER_FORMATS[vr]}", *values)
    except (UnicodeError, LookupError, struct.error, ValueError):
        return None


def _name(text: str) -> dict[str, str]:
    groups = text.split("=", 2)
    return {key: group for key, group in zip(NAME_GROUPS, groups, strict=False) if group}


def _decode(vr: str, value: bytes, encodings: Sequence[str]) -> str | None:
    """Text of the value with its padding, None if its character set can't read it."""
    if value.isascii() and b"\x1b" not in value:
        return value.decode("ascii")
    used = encodings if vr in CHARSET_VRS else DEFAULT_ENCODINGS
    if b"\x1b" not in value:
        try:
            return value.decode(used[0])
        except (UnicodeError, LookupError):
            return None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            # Delimiters, the backslash among them, bring back the first character set.
            delimiters = _NAME_DELIMITERS if vr == "PN" else _DELIMITERS
            parts = value.split(b"\\")
            return "\\".join(decode_bytes(part, list(used), delimiters) for part in parts)
        except (UserWarning, UnicodeError, LookupError, ValueError):
            return None


def _encode(vr: str, text: str, encodings: Sequence[str]) -> bytes:
    if text.isascii():
        return pad(text.encode("ascii"), vr)
    if vr not in CHARSET_VRS:
        return pad(text.encode(DEFAULT_ENCODINGS[0]), vr)
    if len(encodings) == 1:
        return pad(text.encode(encodings[0]), vr)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            # Names switch character sets a component group at a time (PS3.5 section 6.2.1.2).
            parts = [
                b"=".join(
                    b"^".join(encode_string(c, list(encodings)) for c in group.split("^"))
                    for group in part.split("=")
                )
                if vr == "PN"
                else encode_string(part, list(encodings))
                for part in text.split("\\")
            ]
        except UserWarning:
            raise UnicodeError from None
        return pad(b"\\".join(parts), vr)


_PACKERS = {
    little_endian: {vr: struct.Struct(order + code).pack for vr, code in NUMBER_FORMATS.items()}
    for little_endian, order in ((True, "<"), (False, ">"))
}


def encode_plain(vr: str | None, value: Any, little_endian: bool) -> bytes | None:
    """Return what pydicom would write of plain ASCII text or of one integer; None for all else."""
    kind = type(value)
    if kind is int:
        return _pack(vr, value, little_endian)
    if kind is MultiValue:
        texts = [_decode_plain_text(part) for part in value]
        text = None if None in texts else "\\".join(texts)  # type: ignore[arg-type]
    else:
        text = _decode_plain_text(value)
    if text is None or vr not in TEXT_VRS or not text.isascii():
        return None
    encoded = text.encode("ascii")
    if len(encoded) % 2:
        encoded += b"\0" if vr == "UI" else b" "
    return encoded


def encode_value(
    element: DataElement, encodings: Sequence[str], little_endian: bool
) -> bytes | None:
    """Return the value bytes that pydicom would write for a decoded element; None if it can't."""
    vr, value = element.VR, element.value
    try:
        if value is None:
            return b""
        if (plain := encode_plain(vr, value, little_endian)) is not None:
            return plain
        if vr in TEXT_VRS:
            return pad(_encode_text(vr, value, encodings), vr)
        if code := NUMBER_FORMATS.get(vr):
            order = "<" if little_endian else ">"
            if isinstance(value, int | float):
                return struct.pack(order + code, value)
            return struct.pack(f"{order}{len(value)}{code}", *value)
        if isinstance(value, bytes):
            return value + b"\0" if len(value) % 2 else value
        return _write_by_pydicom(element, encodings, little_endian)
    except Exception:  # noqa: BLE001 - its text would quote the value; None says enough
        return None


def _encode_text(vr: str, value: Any, encodings: Sequence[str]) -> bytes:
    if isinstance(value, str):
        if value.isascii():
            return value.encode("ascii")
        if vr in CHARSET_VRS:
            return encode_string(value, list(encodings))
        return value.encode(DEFAULT_ENCODINGS[0])
    if isinstance(value, PersonName):
        return value.encode(list(encodings))
    if isinstance(value, bytes):
        return value
    if isinstance(value, int | float) or not _is_list(value):
        return _make_plain(value).encode("ascii")
    return b"\\".join([_encode_text(vr, part, encodings) for part in value])


def _decode_plain_text(value: Any) -> str | None:
    kind = type(value)
    if kind is str or kind is UID:
        return value  # type: ignore[no-any-return]
    if kind is DSfloat or kind is IS:
        return getattr(value, "original_string", None) or str(value)
    return None


def _pack(vr: str | None, value: int, little_endian: bool) -> bytes | None:
    pack = _PACKERS[little_endian].get(vr or "")
    try:
        return pack(value) if pack else None
    except struct.error:  # it does not fit
        return None


def _is_list(value: Any) -> bool:
    return not isinstance(value, str | bytes) and hasattr(value, "__iter__")


def _make_plain(value: Any) -> str:
    return getattr(value, "original_string", None) or str(value)


def _write_by_pydicom(element: DataElement, encodings: Sequence[str], little_endian: bool) -> bytes:
    buffer = BytesIO()
    fp = DicomFileLike(buffer)
    fp.is_implicit_VR, fp.is_little_endian = True, little_endian
    write_data_element(fp, element, list(encodings))
    return buffer.getvalue()[8:]
