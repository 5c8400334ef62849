"""DICOM files made by hand, byte by byte, so that what pydicom would put right stays wrong."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
ROOT = "1.2.826.0.1.3680043.10.543."
IMPLICIT, EXPLICIT, BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
JPEG_2000 = "1.2.840.10008.1.2.4.90"
_LONG = ["OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"]

Encoder = Callable[..., bytes]


def explicit(
    tag: int, vr: str, value: bytes | str = b"", length: int | None = None, order: str = "<"
) -> bytes:
    """An element in explicit VR with the bytes of its value as they are; nothing is padded."""
    value = value.encode() if isinstance(value, str) else value
    size = len(value) if length is None else length
    head = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF) + vr.encode("latin-1")
    if vr in _LONG:
        return head + b"\0\0" + struct.pack(order + "I", size) + value
    return head + struct.pack(order + "H", size) + value


def implicit(
    tag: int, vr: str, value: bytes | str = b"", length: int | None = None, order: str = "<"
) -> bytes:
    """An element in implicit VR; ``vr`` is for the reader only."""
    value = value.encode() if isinstance(value, str) else value
    size = len(value) if length is None else length
    return struct.pack(order + "HHI", tag >> 16, tag & 0xFFFF, size) + value


UNDEFINED = 0xFFFFFFFF
ITEM_END = implicit(0xFFFEE00D, "")
SEQUENCE_END = implicit(0xFFFEE0DD, "")


def item(value: bytes, length: int | None = None) -> bytes:
    """An item of a sequence, or a fragment of encapsulated data."""
    return implicit(0xFFFEE000, "", value, length)


def even(text: str, pad: str = " ") -> str:
    """A value with the pad that makes its length even."""
    return text + pad * (len(text) % 2)


def uid(number: str) -> str:
    """A UID of our own."""
    return ROOT + number


def meta(syntax: str = EXPLICIT, instance: str = "3", more: bytes = b"") -> bytes:
    """The preamble, ``DICM``, and file meta information."""
    body = (
        explicit(0x00020001, "OB", b"\0\1")
        + explicit(0x00020002, "UI", even(SECONDARY_CAPTURE, "\0"))
        + explicit(0x00020003, "UI", even(uid(instance), "\0"))
        + explicit(0x00020010, "UI", even(syntax, "\0"))
        + explicit(0x00020012, "UI", even("1.2.3.4", "\0"))
        + more
    )
    return bytes(128) + b"DICM" + explicit(0x00020000, "UL", struct.pack("<I", len(body))) + body


def identity(
    encode: Encoder = explicit,
    name: str = "Testcase^Canary",
    instance: str = "3",
    series: str = "2",
    more_8: bytes = b"",
    more_10: bytes = b"",
    birth: str = "19610203",
    study_date: str = "20240229",
) -> bytes:
    """What identifies an image: groups 0008, 0010 and 0020."""
    return (
        encode(0x00080016, "UI", even(SECONDARY_CAPTURE, "\0"))
        + encode(0x00080018, "UI", even(uid(instance), "\0"))
        + encode(0x00080020, "DA", even(study_date))
        + encode(0x00080030, "TM", "101112")
        + encode(0x00080050, "SH", "ACCCANARY1")
        + encode(0x00080060, "CS", "OT")
        + encode(0x00080090, "PN", even("Refer^Canary"))
        + more_8
        + encode(0x00100010, "PN", even(name))
        + encode(0x00100020, "LO", even("CANARY-77"))
        + encode(0x00100030, "DA", even(birth))
        + encode(0x00100040, "CS", "F ")
        + more_10
        + encode(0x0020000D, "UI", even(uid("1"), "\0"))
        + encode(0x0020000E, "UI", even(uid(series), "\0"))
        + encode(0x00200013, "IS", "1 ")
    )


def description(encode: Encoder = explicit, order: str = "<") -> bytes:
    """The attributes of pixels of 8 by 8, a byte each: group 0028."""
    number = partial(struct.pack, order + "H")
    return (
        encode(0x00280002, "US", number(1))
        + encode(0x00280004, "CS", "MONOCHROME2 ")
        + encode(0x00280010, "US", number(8))
        + encode(0x00280011, "US", number(8))
        + encode(0x00280100, "US", number(8))
        + encode(0x00280101, "US", number(8))
        + encode(0x00280102, "US", number(7))
        + encode(0x00280103, "US", number(0))
    )


PIXELS = explicit(0x7FE00010, "OW", bytes(range(64)))
"""Native pixels in explicit VR."""


def encapsulated(*fragments: bytes) -> bytes:
    """Pixel data in fragments, the first of which is the offset table (PS3.5, section A.4)."""
    return explicit(0x7FE00010, "OB", b"".join(map(item, fragments)), UNDEFINED) + SEQUENCE_END


def image(**values: str | bytes) -> bytes:
    """A whole file in explicit VR, with these changes of :func:`identity`."""
    instance = str(values.get("instance", "3"))
    return meta(instance=instance) + identity(**values) + description() + PIXELS  # type: ignore[arg-type]
