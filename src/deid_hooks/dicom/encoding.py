"""Encoding: the bytes that are written for a decoded value, by which values are compared."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from io import BytesIO
from typing import Any

from pydicom.charset import encode_string
from pydicom.dataelem import DataElement
from pydicom.filebase import DicomFileLike
from pydicom.filewriter import write_data_element
from pydicom.multival import MultiValue
from pydicom.uid import UID
from pydicom.valuerep import IS, DSfloat, PersonName

from deid_hooks.dicom.json_codec import (
    CHARSET_VRS,
    DEFAULT_ENCODINGS,
    NUMBER_FORMATS,
    TEXT_VRS,
    pad,
)

_PACKERS = {
    little_endian: {vr: struct.Struct(order + code).pack for vr, code in NUMBER_FORMATS.items()}
    for little_endian, order in ((True, "<"), (False, ">"))
}


def plain_bytes(vr: str | None, value: Any, little_endian: bool) -> bytes | None:
    """What pydicom would write of plain ASCII text or of one integer; None for all else."""
    kind = type(value)
    if kind is int:
        return _packed(vr, value, little_endian)
    if kind is MultiValue:
        texts = [_plain_text(part) for part in value]
        text = None if None in texts else "\\".join(texts)  # type: ignore[arg-type]
    else:
        text = _plain_text(value)
    if text is None or vr not in TEXT_VRS or not text.isascii():
        return None
    encoded = text.encode("ascii")
    if len(encoded) % 2:
        encoded += b"\0" if vr == "UI" else b" "
    return encoded


def written(element: DataElement, encodings: Sequence[str], little_endian: bool) -> bytes | None:
    """The value bytes that pydicom would write for a decoded element; None if it can't."""
    vr, value = element.VR, element.value
    try:
        if value is None:
            return b""
        if (plain := plain_bytes(vr, value, little_endian)) is not None:
            return plain
        if vr in TEXT_VRS:
            return pad(_text_bytes(vr, value, encodings), vr)
        if code := NUMBER_FORMATS.get(vr):
            order = "<" if little_endian else ">"
            if isinstance(value, int | float):
                return struct.pack(order + code, value)
            return struct.pack(f"{order}{len(value)}{code}", *value)
        if isinstance(value, bytes):
            return value + b"\0" if len(value) % 2 else value
        return _written_by_pydicom(element, encodings, little_endian)
    except Exception:  # noqa: BLE001 - its text would quote the value; None says enough
        return None


def _text_bytes(vr: str, value: Any, encodings: Sequence[str]) -> bytes:
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
        return _plain(value).encode("ascii")
    return b"\\".join([_text_bytes(vr, part, encodings) for part in value])


def _plain_text(value: Any) -> str | None:
    kind = type(value)
    if kind is str or kind is UID:
        return value  # type: ignore[no-any-return]
    if kind is DSfloat or kind is IS:
        return getattr(value, "original_string", None) or str(value)
    return None


def _packed(vr: str | None, value: int, little_endian: bool) -> bytes | None:
    pack = _PACKERS[little_endian].get(vr or "")
    try:
        return pack(value) if pack else None
    except struct.error:  # it does not fit
        return None


def _is_list(value: Any) -> bool:
    return not isinstance(value, str | bytes) and hasattr(value, "__iter__")


def _plain(value: Any) -> str:
    return getattr(value, "original_string", None) or str(value)


def _written_by_pydicom(
    element: DataElement, encodings: Sequence[str], little_endian: bool
) -> bytes:
    buffer = BytesIO()
    fp = DicomFileLike(buffer)
    fp.is_implicit_VR, fp.is_little_endian = True, little_endian
    write_data_element(fp, element, list(encodings))
    return buffer.getvalue()[8:]
