"""DICOM files made of arbitrary elements, written without pydicom, for hypothesis to choose from."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from io import BytesIO

from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.charset import encode_string
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from deid_hooks.dicomjson import encodings_of

LONG_VRS = ("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV")
TEXT_VRS = ("LO", "LT", "PN", "SH", "ST", "UC", "UT")
SIZES = {"AT": 4, "FD": 8, "FL": 4, "SL": 4, "SS": 2, "SV": 8, "UL": 4, "US": 2, "UV": 8}

TAGS = {
    "AE": 0x00080054,
    "AS": 0x00101010,
    "AT": 0x00280009,
    "CS": 0x00080060,
    "DA": 0x00080020,
    "DS": 0x00181100,
    "DT": 0x0008002A,
    "FD": 0x00189087,
    "FL": 0x00089459,
    "IS": 0x00200013,
    "LO": 0x00100020,
    "LT": 0x00104000,
    "OB": 0x00420011,
    "OD": 0x00701A07,
    "OF": 0x00640009,
    "OL": 0x00660040,
    "OW": 0x00281201,
    "PN": 0x00100010,
    "SH": 0x00080050,
    "SL": 0x00186020,
    "SS": 0x00280107 - 1,
    "ST": 0x00080081,
    "SV": 0x00720082,
    "TM": 0x00080030,
    "UC": 0x00080119,
    "UI": 0x00081155,
    "UL": 0x00186016,
    "UN": 0x00100021,
    "UR": 0x00081190,
    "US": 0x00280010,
    "UT": 0x0040A160,
    "UV": 0x00720083,
}
"""One tag of each value representation; SS and UN stand where another one is expected."""

SEQUENCES = (0x00081140, 0x00400275)
CREATOR = 0x00090010
CHARACTER_SETS = (
    "ISO_IR 100",
    "ISO_IR 192",
    "ISO_IR 144",
    "GB18030",
    "\\ISO 2022 IR 87",
    "\\ISO 2022 IR 149",
    "ISO 2022 IR 13\\ISO 2022 IR 87",
)
SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian)

_PLAIN = {
    "AE": ("STORE", " A "),
    "AS": ("042Y", "x"),
    "CS": ("CT", "ORIGINAL\\PRIMARY"),
    "DA": ("20060801", "2006.08.01", "yesterday"),
    "DS": ("0 ", "-0.0", " 12.50 ", "1e5", "1.50\\2 \\", "much"),
    "DT": ("20060801120000.5+0100", "2006"),
    "IS": ("7", "007 ", "12\\13", "1A"),
    "TM": ("120000", "12", "noon"),
    "UI": ("1.2.3", "1.2.3\\1.2.4", "1.2.840 "),
    "UR": ("http://a.b/c", "a b"),
}


@dataclass(frozen=True)
class Element:
    """An element as it stands in a file; of a sequence, its items."""

    tag: int
    vr: str
    value: bytes = b""
    items: tuple[tuple[Element, ...], ...] = ()
    undefined_length: bool = False


@dataclass(frozen=True)
class File:
    """A file: its transfer syntax and its elements."""

    syntax: str
    elements: tuple[Element, ...]

    def read(self) -> Dataset:
        """The dataset, as pydicom reads it."""
        meta = _encoded((Element(0x00020010, "UI", _even(self.syntax, "\0")),), False, "<")
        implicit = self.syntax == ImplicitVRLittleEndian
        order = ">" if self.syntax == ExplicitVRBigEndian else "<"
        body = _encoded(self.elements, implicit, order)
        return dcmread(BytesIO(bytes(128) + b"DICM" + meta + body))


@st.composite
def files(draw: st.DrawFn) -> File:
    """Files with nested, private, empty and malformed elements, in any character set."""
    character_set = draw(st.sampled_from(("", *CHARACTER_SETS)))
    elements = {element.tag: element for element in draw(_elements(character_set, nested=2)) or ()}
    elements[0x00080018] = Element(0x00080018, "UI", b"1.2.3.4\0")
    if character_set:
        elements[0x00080005] = Element(0x00080005, "CS", _even(character_set))
    return File(draw(st.sampled_from(SYNTAXES)), tuple(elements[tag] for tag in sorted(elements)))


def values(vr: str, character_set: str = "") -> st.SearchStrategy[bytes]:
    """Values of a value representation, well formed or not."""
    # pydicom itself writes an empty UN under the VR that it knows for the tag.
    anything = st.binary(min_size=1 if vr == "UN" else 0, max_size=9)
    if vr == "UN":
        return anything
    if vr in TEXT_VRS:
        return st.one_of(texts(character_set).map(lambda text: _in(text, character_set)), anything)
    if vr in _PLAIN:
        return st.one_of(st.sampled_from(_PLAIN[vr]).map(_even), anything)
    size = SIZES.get(vr, 2)
    whole = st.integers(0, 3).flatmap(lambda n: st.binary(min_size=n * size, max_size=n * size))
    return st.one_of(whole, whole, anything)


def texts(character_set: str) -> st.SearchStrategy[str]:
    """Text that a character set can write, with the delimiters of DICOM."""
    alphabets = {
        "": "",
        "ISO_IR 100": "äÖß",
        "ISO_IR 144": "Дмитрий",
        "\\ISO 2022 IR 149": "김희중",
        "\\ISO 2022 IR 87": "山田太郎やまだ",
        "ISO 2022 IR 13\\ISO 2022 IR 87": "ﾔﾏﾀﾞ山田太郎",
    }
    return st.text("ab ^=\\" + alphabets.get(character_set, "äÖß山田太郎김희중Д"), max_size=8)


def _in(text: str, character_set: str) -> bytes:
    encodings = list(encodings_of(character_set.encode("ascii")))
    return b"\\".join(_padded(encode_string(part, encodings)) for part in text.split("\\"))


@st.composite
def _elements(draw: st.DrawFn, character_set: str, nested: int) -> tuple[Element, ...]:
    found = []
    for vr in draw(st.lists(st.sampled_from(sorted(TAGS)), max_size=5, unique=True)):
        found.append(Element(TAGS[vr], vr, draw(values(vr, character_set))))
    if draw(st.booleans()):
        found.append(Element(CREATOR, "LO", b"ACME 1.0"))
        for number in draw(st.lists(st.integers(0, 3), max_size=2, unique=True)):
            vr = draw(st.sampled_from(sorted(TAGS)))
            found.append(Element(0x00091000 + number, vr, draw(values(vr, character_set))))
    if nested:
        for tag in draw(st.lists(st.sampled_from((*SEQUENCES, 0x00091004)), max_size=2)):
            items = draw(st.lists(_elements(character_set, nested - 1), max_size=2))
            found.append(Element(tag, "SQ", b"", tuple(items), draw(st.booleans())))
    return tuple({element.tag: element for element in found}[tag] for tag in _tags(found))


def _tags(elements: list[Element]) -> list[int]:
    return sorted({element.tag for element in elements})


def _encoded(elements: tuple[Element, ...], implicit: bool, order: str) -> bytes:
    return b"".join(_element(element, implicit, order) for element in elements)


def _element(element: Element, implicit: bool, order: str) -> bytes:
    value = element.value
    length = len(value)
    if element.vr == "SQ":
        value = b"".join(_item(item, implicit, order) for item in element.items)
        length = len(value)
        if element.undefined_length:
            value += struct.pack(f"{order}HHL", 0xFFFE, 0xE0DD, 0)
            length = 0xFFFFFFFF
    head = struct.pack(f"{order}HH", element.tag >> 16, element.tag & 0xFFFF)
    if implicit:
        return head + struct.pack(f"{order}L", length) + value
    if element.vr in LONG_VRS:
        return head + element.vr.encode() + struct.pack(f"{order}HL", 0, length) + value
    return head + element.vr.encode() + struct.pack(f"{order}H", length) + value


def _item(elements: tuple[Element, ...], implicit: bool, order: str) -> bytes:
    value = _encoded(elements, implicit, order)
    return struct.pack(f"{order}HHL", 0xFFFE, 0xE000, len(value)) + value


def _even(text: str, pad: str = " ") -> bytes:
    return (text + pad * (len(text) % 2)).encode("ascii")


def _padded(value: bytes) -> bytes:
    return value + b" " * (len(value) % 2)
