"""Capture: what a dataset holds as read, kept so that an engine that works in place can't touch it.

pydicom reads elements as immutable raw tuples and decodes them on access, so a reference to each is
enough. What is already decoded, sequences of undefined length above all, is live and is copied.
Pixel data is left out; only whether it changed is seen.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache
from typing import Any, NamedTuple

from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.values import convert_SQ

from deid_hooks.dicom import dictionary
from deid_hooks.dicom.dictionary import (
    ISSUER_OF_PATIENT_ID,
    PATIENT_BIRTH_DATE,
    PATIENT_ID,
    PATIENT_NAME,
    PIXELS,
    SPECIFIC_CHARACTER_SET,
    name_element,
)
from deid_hooks.dicom.encoding import (
    DEFAULT_ENCODINGS,
    encode_value,
    parse_encodings,
    read_text,
    render_value,
)
from deid_hooks.errors import UnusableDataset
from deid_hooks.records.model import fold

_CACHED_BYTES = 1024


class Value(NamedTuple):
    """An element that was captured decoded, as the bytes it stands for."""

    VR: str | None
    value: bytes


class Items(NamedTuple):
    """A sequence that was captured decoded."""

    VR: str
    items: tuple[Snapshot, ...]


class Whole(NamedTuple):
    """A sequence with its bytes: pydicom would encode it in another way.

    ``VR`` is what stands in the file, SQ or UN; ``undefined`` says that it had no length there.
    """

    VR: str
    value: bytes
    undefined: bool
    items: tuple[Snapshot, ...] | None


Captured = RawDataElement | Value | Items | Whole | DataElement
"""A DataElement only for pixel data in a buffer, of which nothing but its identity is kept."""

WITH_BYTES = (RawDataElement, Value)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The elements of one dataset or item as they were captured, by tag."""

    elements: dict[int, Captured] = field(repr=False)
    encodings: tuple[str, ...]
    implicit: bool
    little_endian: bool
    meta: Snapshot | None = field(repr=False, default=None)
    preamble: bytes | None = field(repr=False, default=None)
    source: str = ""

    def text(self, tag: int) -> str | None:
        """Return a top-level value as people read it; None without the element, or without text."""
        element = self.elements.get(tag)
        if element is None or isinstance(element, Items | Whole | DataElement):
            return None
        return _read_text(tag, element.VR, element.value or b"", self.encodings, self.little_endian)

    def texts(self, tags: tuple[int, ...]) -> tuple[str | None, ...]:
        """Return the values of several top-level elements, as :meth:`text` does."""
        found = [
            (element.VR, element.value or b"") if isinstance(element, WITH_BYTES) else None
            for element in map(self.elements.get, tags)
        ]
        return read_texts(tags, found, self.encodings, self.little_endian)

    def vr(self, tag: int, element: Captured) -> str:
        """Return the value representation of an element, the dictionary's if the file has none."""
        return element.VR or self._find_implied_vr(tag)

    def creator(self, tag: int) -> str | None:
        """Return the private creator of a private element (PS3.5 section 7.8.1)."""
        if not tag & 0x00010000 or tag & 0xFFFF < 0x1000:
            return None
        return self.text((tag & 0xFFFF0000) | ((tag & 0xFF00) >> 8))

    def _find_implied_vr(self, tag: int) -> str:
        creator = self.creator(tag)
        vr = _find_private_vr(tag, creator) if creator else dictionary.lookup_vr(tag)
        if tag & 0x00010000 and 0x0010 <= tag & 0xFFFF <= 0x00FF:
            vr = "LO"
        if tag & 0xFFFF == 0:
            vr = "UL"
        return "OW" if vr == "OB or OW" else vr if len(vr) == 2 else "UN"


def capture(dataset: Dataset) -> Snapshot:
    """Keep what ``dataset`` holds now, before an engine touches it.

    Costs some 30 microseconds for the header of a CT. Raises UnusableDataset for a value that can't
    be read, naming its keyword.
    """
    implicit, little_endian = dataset.original_encoding
    meta = getattr(dataset, "file_meta", None)
    return _take_snapshot(
        dataset,
        DEFAULT_ENCODINGS,
        bool(implicit),
        little_endian is not False,
        None if meta is None else _take_snapshot(meta, DEFAULT_ENCODINGS, False, True),
        getattr(dataset, "preamble", None),
        str(getattr(dataset, "filename", "") or ""),
    )


def list_elements(dataset: Dataset) -> dict[int, Any]:
    """Return the elements of a dataset by plain numbers: pydicom compares its tags in Python."""
    return dict(zip(map(int, dataset.keys()), dataset.values(), strict=True))


def read_items(snapshot: Snapshot, element: Captured) -> tuple[Snapshot, ...] | None:
    """Return the items of a captured sequence; None if its bytes are no sequence."""
    if isinstance(element, Items | Whole):
        return element.items
    if isinstance(element, DataElement):
        return None
    implicit = getattr(element, "is_implicit_VR", snapshot.implicit)
    value = element.value or b""
    parse = _parsed_again if len(value) <= _CACHED_BYTES else _parse_items
    return parse(value, implicit, snapshot.little_endian, snapshot.encodings)


def read_texts(
    tags: tuple[int, ...],
    values: Sequence[tuple[str | None, bytes] | None],
    encodings: tuple[str, ...],
    little_endian: bool = True,
) -> tuple[str | None, ...]:
    """Return values (VR and bytes) as people read them; None for what has no text."""
    # Within a series most are the same again.
    short = sum([len(found[1]) for found in values if found]) <= _CACHED_BYTES
    make = _texts_again if short else _decode_texts
    return make(tags, tuple(values), encodings, little_endian)


def _take_snapshot(
    dataset: Dataset,
    inherited: tuple[str, ...],
    implicit: bool,
    little_endian: bool,
    meta: Snapshot | None = None,
    preamble: bytes | None = None,
    source: str = "",
) -> Snapshot:
    elements = list_elements(dataset)
    encodings = read_encodings(elements.get(SPECIFIC_CHARACTER_SET)) or inherited
    snapshot = Snapshot(elements, encodings, implicit, little_endian, meta, preamble, source)
    for tag, element in [
        (tag, element)
        for tag, element in elements.items()
        if type(element) is not RawDataElement or element.value is None
    ]:
        if tag in PIXELS:
            if isinstance(element, DataElement) and isinstance(element.value, bytes):
                elements[tag] = Value(element.VR, element.value)
        elif isinstance(element, RawDataElement):
            elements[tag] = _read_deferred(dataset, tag, element)
        else:
            elements[tag] = _freeze(tag, element, snapshot)
    return snapshot


def _read_text(
    tag: int, vr: str | None, value: bytes, encodings: tuple[str, ...], little_endian: bool
) -> str | None:
    make = _text_again if len(value) <= _CACHED_BYTES else _decode_text
    return make(tag, vr, value, encodings, little_endian)


def _decode_text(
    tag: int, vr: str | None, value: bytes, encodings: tuple[str, ...], little_endian: bool
) -> str | None:
    known = dictionary.lookup_vr(tag)
    if not known:  # a private creator above all, which may stand there as UN
        return read_text(vr or "LO", value, encodings)
    return render_value(vr or known[:2] if " " in known else known, value, encodings, little_endian)


_text_again = lru_cache(maxsize=4096)(_decode_text)


def _decode_texts(
    tags: tuple[int, ...],
    values: tuple[tuple[str | None, bytes] | None, ...],
    encodings: tuple[str, ...],
    little_endian: bool,
) -> tuple[str | None, ...]:
    return tuple(
        found and _decode_text(tag, *found, encodings, little_endian)
        for tag, found in zip(tags, values, strict=True)
    )


_texts_again = lru_cache(maxsize=512)(_decode_texts)


def _parse_items(
    value: bytes, implicit: bool, little_endian: bool, encodings: tuple[str, ...]
) -> tuple[Snapshot, ...] | None:
    try:
        sequence = convert_SQ(value, implicit, little_endian, list(encodings))
        return tuple(_take_snapshot(item, encodings, implicit, little_endian) for item in sequence)
    except Exception:  # noqa: BLE001 - whatever is wrong inside, the bytes themselves are kept
        return None


_parsed_again = lru_cache(maxsize=512)(_parse_items)
"""Within a series the same references and codes come again and again; snapshots never change."""


def read_encodings(character_set: Captured | None) -> tuple[str, ...] | None:
    """Return the Python encodings that a Specific Character Set element names; None without one."""
    if character_set is None or isinstance(character_set, Items | Whole):
        return None
    if isinstance(character_set, DataElement):
        value = character_set.value or ""
        text = value if isinstance(value, str) else "\\".join(value)
        return parse_encodings(text.encode("latin-1", "replace"))
    return parse_encodings(character_set.value or b"")


def _freeze(tag: int, element: DataElement, snapshot: Snapshot) -> Captured:
    if element.VR == "SQ":
        return Items("SQ", tuple(_make_item(item, snapshot) for item in element.value))
    value = encode_value(element, snapshot.encodings, snapshot.little_endian)
    if value is None:
        raise UnusableDataset(f"the value of {name_element(tag)} can't be read")
    return Value(element.VR, value)


def _make_item(item: Dataset, parent: Snapshot) -> Snapshot:
    return _take_snapshot(item, parent.encodings, parent.implicit, parent.little_endian)


def _read_deferred(dataset: Dataset, tag: int, element: RawDataElement) -> Captured:
    if element.length in (0, None):
        return element._replace(value=b"")
    try:
        decoded = dataset[tag]  # pydicom reads the file again here
    except Exception:  # noqa: BLE001 - its text may quote the value
        raise UnusableDataset(f"the value of {name_element(tag)} can't be read") from None
    value = encode_value(decoded, dataset.original_character_set or DEFAULT_ENCODINGS, True)
    if value is None:
        raise UnusableDataset(f"the value of {name_element(tag)} can't be read")
    return Value(element.VR, value)


def _find_private_vr(tag: int, creator: str) -> str:
    from pydicom.datadict import private_dictionary_VR

    try:
        return private_dictionary_VR(tag, creator)
    except KeyError:
        return "UN"


KEYWORDS = ("PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientName")


class Patient(NamedTuple):
    """PatientID, its issuer, birth date, and the name in one spelling: see ``KEYWORDS``."""

    patient_id: str
    issuer: str
    birth_date: str
    name: str

    def __repr__(self) -> str:
        return "Patient(...)"


def read_patient(original: Snapshot) -> Patient:
    """Return whose instance this is. Case, spaces and empty parts of the name don't count."""
    return Patient(
        original.text(PATIENT_ID) or "",
        original.text(ISSUER_OF_PATIENT_ID) or "",
        original.text(PATIENT_BIRTH_DATE) or "",
        fold(original.text(PATIENT_NAME) or ""),
    )


_ACQUISITION_DATE_TIME = 0x0008002A
_FRAME_ACQUISITION_DATE_TIME = 0x00189074
_FRAME_CONTENT_SEQUENCE = 0x00209111
_PER_FRAME_SEQUENCE = 0x52009230
_DATES_AND_TIMES = (
    (0x00080022, 0x00080032),  # Acquisition
    (0x00080021, 0x00080031),  # Series
    (0x00080023, 0x00080033),  # Content
    (0x30060008, 0x30060009),  # Structure Set
    (0x300A0006, 0x300A0007),  # RT Plan
    (0x00080020, 0x00080030),  # Study
)

_DATE = re.compile(r"(\d{4})[.-]?(?:(\d\d)[.-]?(?:(\d\d))?)?")
_TIME = re.compile(r"(\d\d):?(?:(\d\d):?(?:(\d\d)(\.\d{1,6})?)?)?")


def find_timestamp(original: Snapshot) -> str | None:
    """Return the first date and time that the instance has, from the most to the least exact.

    ``2004-01-19T07:27:30.250000``, shorter where the data are less precise, None without a date.
    """
    moment = _format_date_time(original.text(_ACQUISITION_DATE_TIME)) or _find_frame_moment(
        original
    )
    if moment:
        return moment
    for day, time in _DATES_AND_TIMES:
        if found := format_iso(original.text(day), original.text(time)):
            return found
    return None


def _find_frame_moment(original: Snapshot) -> str | None:
    """Return the earliest Frame Acquisition DateTime of a multi-frame image (C.7.6.16.2.2)."""
    frames = original.elements.get(_PER_FRAME_SEQUENCE)
    if frames is None:
        return None
    moments = []
    for frame in read_items(original, frames) or ():
        content = frame.elements.get(_FRAME_CONTENT_SEQUENCE)
        for item in (read_items(frame, content) or ()) if content is not None else ():
            if moment := _format_date_time(item.text(_FRAME_ACQUISITION_DATE_TIME)):
                moments.append(moment)
    return min(moments, default=None)


def _format_date_time(text: str | None) -> str | None:
    """Return a DT value; its offset from UTC has a column of its own."""
    plain = (text or "").split("+")[0].split("-")[0]
    return format_iso(plain[:8], plain[8:])


def format_iso(day: str | None, time: str | None) -> str | None:
    """Return a DA and a TM value as one moment, ``2004-01-19T07:27:30``; None without a date."""
    numbers = _DATE.fullmatch((day or "").strip())
    if not numbers:
        return None
    year, month, day_of_month = numbers.groups()
    try:
        date(int(year), int(month or 1), int(day_of_month or 1))
    except ValueError:  # there is no such day
        return None
    written = "-".join(part for part in (year, month, day_of_month) if part)
    clock = _TIME.fullmatch((time or "").strip())
    if not clock or not day_of_month:
        return written
    hour, minute, second, fraction = clock.groups()
    if int(hour) > 23 or int(minute or 0) > 59 or int(second or 0) > 60:
        return written
    return f"{written}T{hour}:{minute or '00'}:{second or '00'}{fraction or ''}"
