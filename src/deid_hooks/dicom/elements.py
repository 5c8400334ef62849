"""Read the elements of a DICOM file byte by byte: where each value stands, and nothing decoded.

It is strict (PS3.5, section 7; PS3.10, section 7): a file either is read to its last byte, or is
refused with the name of the element where that ends. It shares nothing with pydicom but the data
dictionary, so that what pydicom reads and writes can be checked against it. A value is skipped, so
that its size takes no memory.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from io import SEEK_END, BytesIO
from typing import BinaryIO, NamedTuple, NoReturn

from deid_hooks.dicom import dictionary
from deid_hooks.dicom.dictionary import (
    PIXELS,
    SOP_CLASS_UID,
    TRANSFER_SYNTAX_UID,
    name_element,
)
from deid_hooks.errors import UnusableDataset

UNDEFINED_LENGTH = 0xFFFFFFFF
CUT_SHORT = "the file is cut short"
TOO_LARGE = "it would take too much memory: it is deflated, or has too many items"

_LONG_VRS = frozenset(
    (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
)
"""Value representations with a length of 32 bits (PS3.5, section 7.1.2)."""
_SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
_VRS = {vr: vr.decode() for vr in _LONG_VRS | _SHORT_VRS}
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_ITEM_TAGS = {True: b"\xfe\xff\x00\xe0", False: b"\xff\xfe\xe0\x00"}

_PREFIX_ENDS = 132
_BLOCK = 1 << 20
_MOST_INFLATED = 256 * 1024 * 1024
_MOST_SEQUENCE_ITEMS = 250_000  # each takes some 1,600 bytes once pydicom has read it
_DEEPEST = 50
"""Sequences in each other that are read: pydicom and engines call themselves for each."""
_HEADERS = 1 << 14
"""Bytes that are read at a time to find headers in."""

IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
_NATIVE = (IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG, DEFLATED)
_DEFLATED_ELSEWHERE = ("1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205")
STANDARD_ROOT = "1.2.840.10008."
_ENCAPSULATED_ROOTS = (
    "1.2.840.10008.1.2.1.98",
    "1.2.840.10008.1.2.4.",
    "1.2.840.10008.1.2.5",
    "1.2.840.10008.1.2.8.",
)
_REFERENCED = ("1.2.840.10008.1.2.4.94", "1.2.840.10008.1.2.4.204")
"""JPIP: the pixels are elsewhere."""


class Kind(Enum):
    """What was found: a value, a sequence, one of its items, encapsulated data, or a fragment."""

    LEAF = 1
    SEQUENCE = 2
    ITEM = 3
    ENCAPSULATED = 4
    FRAGMENT = 5


class Found(NamedTuple):
    """An element, an item or a fragment, and where its value stands.

    ``path`` is ``00081140.0.00081155``, with the numbers of items and fragments from 0. ``vr`` is
    None in implicit VR. What contains others is found behind them; its ``length`` is that of what
    it contains, without a delimiter, and ``undefined`` says that it had no length of its own.
    """

    path: str
    tag: int
    vr: str | None
    offset: int
    length: int
    kind: Kind
    undefined: bool = False


_make_found = tuple.__new__
"""Makes a Found in half the time that its own constructor takes."""


class Header(NamedTuple):
    """How a file begins. ``start`` is where its dataset does; ``syntax`` is ``""`` without one.

    ``implicit`` and ``little_endian`` are what the dataset is; ``contradicts`` says that the
    transfer syntax says something else.
    """

    meta: tuple[Found, ...]
    syntax: str
    start: int
    implicit: bool
    little_endian: bool
    contradicts: bool = False

    @property
    def encoding(self) -> tuple[bool, bool]:
        """Whether the dataset is in implicit VR, and whether in little endian."""
        return self.implicit, self.little_endian


class Layout(NamedTuple):
    """Every element of a file by its path, and the bytes that the offsets count."""

    header: Header
    found: Mapping[str, Found]
    data: BinaryIO


def read_layout(file: BinaryIO) -> Layout:
    """Return where everything in a file stands.

    Raises UnusableDataset, which names the element, for what can't be read to its end.
    """
    header = read_header(file)
    data = open_dataset(file, header)
    found = {each.path: each for each in header.meta}
    for each in walk(data, header):
        found[each.path] = each
    _check_pixels(header, found)
    return Layout(header, found, data)


def read_header(file: BinaryIO) -> Header:
    """Return how a file begins, with the transfer syntax that its file meta information names.

    A file without the prefix ``DICM``, or without file meta information, may be one all the same.
    Raises UnusableDataset where the dataset can't be read: file meta information that names a
    thing twice, a transfer syntax that the bytes contradict in their byte order.
    """
    file.seek(0)
    at = _PREFIX_ENDS if file.read(_PREFIX_ENDS)[128:] == b"DICM" else 0
    meta, start = _read_meta(file, at)
    syntax = ""
    for each in meta:
        if each.tag == TRANSFER_SYNTAX_UID:
            file.seek(each.offset)
            syntax = file.read(each.length).decode("latin-1").strip(" \0")
    if syntax in _DEFLATED_ELSEWHERE:
        raise UnusableDataset(f"nothing here reads its transfer syntax {syntax}")
    if syntax == DEFLATED:
        return Header(meta, syntax, start, False, True)
    file.seek(start)
    first = file.read(6)
    if len(first) < 6:
        raise UnusableDataset(CUT_SHORT if first else "it holds no dataset")
    return _tell_encoding(meta, syntax, start, first)


def walk(file: BinaryIO, header: Header) -> Iterator[Found]:
    """Return what the dataset of a file holds, in the order in which it ends.

    Items in implicit VR are read within explicit VR, too: scanners write them. Raises
    UnusableDataset, which names the element, for what can't be read to its end.
    """
    return _Walk(file, _make_top(file, header)).run()


def read_values(
    file: BinaryIO, header: Header, tags: Collection[int], needed: Collection[int]
) -> dict[int, bytes]:
    """Return the values of some elements of a dataset, without the ones that it doesn't have.

    It reads on behind their places, in the order of tags, only for ``needed`` ones that were not
    found there. Raises UnusableDataset where reading ends before.
    """
    data = open_dataset(file, header)
    last, missing = max(tags), set(needed)
    values: dict[int, bytes] = {}
    for each in walk(data, header):
        if each.tag > last and not missing:
            break
        if each.tag in tags and "." not in each.path:
            data.seek(each.offset)
            values[each.tag] = data.read(each.length)
            missing.discard(each.tag)
    return values


def leads_to_sop_class(file: BinaryIO) -> bool:
    """Return whether elements, of commands too, lead from the first byte to a SOP Class UID."""
    try:
        top = _make_top(file, read_header(file))
        return any(each.tag == SOP_CLASS_UID for each in _Walk(file, top, commands=True).run())
    except UnusableDataset:
        return False


def open_dataset(file: BinaryIO, header: Header) -> BinaryIO:
    """Return what the offsets of a file count: the file, or what it is when it is inflated."""
    return _inflate(file, header.start) if header.syntax == DEFLATED else file


def _make_top(file: BinaryIO, header: Header) -> _Level:
    file.seek(0, SEEK_END)
    top = _Level(Kind.ITEM, "", 0, None, header.start, file.tell())
    top.implicit, top.little_endian = header.implicit, header.little_endian
    return top


def make_header(tag: int, vr: str | None, length: int, little_endian: bool) -> bytes | None:
    """Return what stands before a value of this length; ``vr`` is None in implicit VR.

    None where there is no such header (PS3.5, section 7.1.2).
    """
    order = "<" if little_endian else ">"
    if vr is None:
        return struct.pack(order + "HHI", tag >> 16, tag & 0xFFFF, length)
    code = vr.encode("ascii")
    if code in _LONG_VRS:
        return struct.pack(order + "HH2sHI", tag >> 16, tag & 0xFFFF, code, 0, length)
    if code in _SHORT_VRS and length <= 0xFFFF:
        return struct.pack(order + "HH2sH", tag >> 16, tag & 0xFFFF, code, length)
    return None


def make_sequence_end(little_endian: bool) -> bytes:
    """Return the delimiter behind a value of undefined length."""
    order = "<" if little_endian else ">"
    return struct.pack(order + "HHI", _SEQUENCE_END >> 16, _SEQUENCE_END & 0xFFFF, 0)


def is_encapsulated(syntax: str) -> bool | None:
    """Return whether a transfer syntax has encapsulated pixels; None where that isn't known."""
    if syntax in _NATIVE:
        return False
    if syntax not in _REFERENCED and syntax.startswith(_ENCAPSULATED_ROOTS):
        return True
    return None


def name_path(path: str) -> str:
    """Return how messages name an element: ``ReferencedSOPInstanceUID in SourceImageSequence``."""
    tags = [int(part, 16) for part in path.split(".")[::2]]
    names = list(dict.fromkeys((name_element(tags[-1]), name_element(tags[0]))))
    return " in ".join(names)


def is_vr(two: bytes) -> bool:
    """Return whether two bytes are a value representation."""
    return two in _VRS


def _read_meta(file: BinaryIO, at: int) -> tuple[tuple[Found, ...], int]:
    """Return the elements of group 0002, and where what follows begins."""
    file.seek(0, SEEK_END)
    end = file.tell()
    file.seek(at)
    first = file.read(6)
    if first[:2] != b"\x02\x00":
        return (), at
    level = _Level(Kind.ITEM, "", 0, None, at, end)
    level.implicit = not is_vr(first[4:6])
    found: dict[int, Found] = {}
    walk = _Walk(file, level)
    while walk.begins_with(b"\x02\x00"):
        each = walk.read_element(level)
        if not isinstance(each, Found):
            raise UnusableDataset("its file meta information holds a sequence")
        found[each.tag] = each
    return tuple(found.values()), walk.at


def _tell_encoding(meta: tuple[Found, ...], syntax: str, start: int, first: bytes) -> Header:
    """Compare what the transfer syntax says with the first six bytes of the dataset."""
    explicit = is_vr(first[4:6])
    little_endian = syntax != EXPLICIT_BIG
    if not syntax:  # only a group that is written in big endian seems as high as that
        little_endian = not (explicit and int.from_bytes(first[:2], "little") >= 0x0400)
    elif not first[0 if little_endian else 1] and first[1 if little_endian else 0]:
        raise UnusableDataset("its bytes are in another order than its transfer syntax says")
    if syntax and syntax.startswith(STANDARD_ROOT) and explicit == (syntax == IMPLICIT_LITTLE):
        if syntax not in (IMPLICIT_LITTLE, EXPLICIT_LITTLE):
            raise UnusableDataset(
                "its elements have no value representation, which its transfer syntax asks for"
            )
        return Header(meta, syntax, start, not explicit, little_endian, contradicts=True)
    return Header(meta, syntax, start, not explicit, little_endian)


def _inflate(file: BinaryIO, start: int) -> BinaryIO:
    """Return a file with its dataset inflated (PS3.5, section A.5)."""
    file.seek(0)
    data = BytesIO(file.read(start))
    data.seek(start)
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        while block := inflater.unconsumed_tail or file.read(_BLOCK):
            data.write(inflater.decompress(block, _BLOCK))
            if data.tell() - start > _MOST_INFLATED:
                raise UnusableDataset(TOO_LARGE)
        data.write(inflater.flush())
    except zlib.error:
        raise UnusableDataset("it can't be inflated as its transfer syntax says") from None
    if not inflater.eof:
        raise UnusableDataset(CUT_SHORT)
    # A byte makes the length even; some writers add the checksum and length of RFC 1952.
    if len(inflater.unused_data) > 8:
        raise UnusableDataset("bytes follow what was deflated")
    return data


def _check_pixels(header: Header, found: Mapping[str, Found]) -> None:
    """Raise UnusableDataset for pixels that nobody could read by the transfer syntax."""
    syntax = header.syntax
    pixels = found.get("7FE00010")
    expected = is_encapsulated(syntax)
    if pixels is None or expected is None:
        return
    if expected and pixels.kind is not Kind.ENCAPSULATED:
        raise UnusableDataset(
            f"PixelData is not encapsulated, as its transfer syntax {syntax} asks for"
        )
    if not expected and pixels.kind is not Kind.LEAF:
        raise UnusableDataset(
            f"PixelData is encapsulated, which its transfer syntax {syntax} does not have"
        )


@dataclass(slots=True)
class _Level:
    """A dataset or item, a sequence, or encapsulated data, while it is read.

    ``end`` is where it ends, or of undefined length, where it can't be longer.
    """

    kind: Kind
    path: str
    tag: int
    vr: str | None
    start: int
    end: int
    undefined: bool = False
    implicit: bool = False
    little_endian: bool = True
    number: int = 0
    last: int = 0
    seen: set[int] = field(default_factory=set)


_FORMATS = {
    little_endian: (
        struct.Struct(order + "HH2sH").unpack_from,
        struct.Struct(order + "HHI").unpack_from,
        struct.Struct(order + "I").unpack_from,
    )
    for little_endian, order in ((True, "<"), (False, ">"))
}


@lru_cache(maxsize=4096)
def _write_tag(tag: int) -> str:
    return f"{tag:08X}"


class _Walk:
    """Reads on from level to level; ``at`` is where the next header begins.

    ``commands``: elements of group 0000 are read, too.
    """

    def __init__(self, file: BinaryIO, top: _Level, commands: bool = False) -> None:
        self.commands = commands
        self.file, self.size, self.at = file, top.end, top.start
        self.levels = [top]
        self._items = 0
        self._block, self._block_at = b"", 0

    def run(self) -> Iterator[Found]:
        levels = self.levels
        while levels:
            level = levels[-1]
            if self.at == level.end:
                if level.undefined:
                    self._refuse_end(level.tag)
                levels.pop()
                if levels:
                    yield _close(level, self.at)
                continue
            is_item = level.kind is Kind.ITEM
            found = self.read_element(level) if is_item else self._read_item(level)
            if type(found) is _Level:
                levels.append(found)
                if len(levels) > 2 * _DEEPEST + 1:
                    name = name_element(levels[1].tag)
                    raise UnusableDataset(f"{name} is nested more than {_DEEPEST} sequences deep")
            else:
                yield found  # type: ignore[misc]

    def begins_with(self, group: bytes) -> bool:
        """Return whether an element of this group comes next."""
        if self.size - self.at < len(group):
            return False
        start = self._find_header(len(group), self.levels[0])
        return self._block.startswith(group, start)

    def read_element(self, level: _Level) -> Found | _Level:
        """Read the header of an element, or the delimiter that ends an item."""
        start = self._find_header(8, level)
        unpack, _, unpack_length = _FORMATS[level.little_endian]
        group, number, code, length = unpack(self._block, start)
        tag = group << 16 | number
        at = self.at + 8
        if group == 0xFFFE or (group == 0 and not self.commands):
            self.at = at
            return self._read_delimiter(level, tag, self._block[start : start + 8])
        vr: str | None = None
        if level.implicit:
            (length,) = unpack_length(self._block, start + 4)
        else:
            vr = _VRS.get(code)
            if vr is None:
                self._refuse_vr(level, tag)
            if code in _LONG_VRS:
                start = self._find_header(12, level)
                (length,) = unpack_length(self._block, start + 8)
                at += 4
        if tag in level.seen:
            name = name_path(f"{level.path}{tag:08X}")
            raise UnusableDataset(f"{name} stands twice in it, and only one value could be logged")
        level.seen.add(tag)
        if group == 2 and level.last >> 16 > 2:
            raise UnusableDataset("file meta information (group 0002) stands once more in it")
        level.last = tag
        self.at = at
        if length == UNDEFINED_LENGTH:
            return self._enter(level, tag, vr, level.end, undefined=True)
        if length > level.end - at:
            self._refuse_length(level, tag, at + length)
        if vr == "SQ" or (vr is None and self._holds_items(tag, length, level)):
            return self._enter(level, tag, vr, at + length, undefined=False)
        self.at = at + length
        path = level.path + _write_tag(tag)
        return _make_found(Found, (path, tag, vr, at, length, Kind.LEAF, False))

    def _enter(self, level: _Level, tag: int, vr: str | None, end: int, undefined: bool) -> _Level:
        kind, implicit, little_endian = Kind.SEQUENCE, level.implicit, level.little_endian
        if undefined and (vr in ("OB", "OW") or (vr is None and tag in PIXELS)):
            kind = Kind.ENCAPSULATED
        elif undefined and vr == "UN":  # its items are in implicit VR, PS3.5, section 6.2.2
            implicit, little_endian = True, True
        elif vr not in ("SQ", None):
            name = name_path(f"{level.path}{tag:08X}")
            raise UnusableDataset(f"{name} has an undefined length, which its VR can't have")
        path = f"{level.path}{tag:08X}"
        return _Level(kind, path, tag, vr, self.at, end, undefined, implicit, little_endian)

    def _holds_items(self, tag: int, length: int, level: _Level) -> bool:
        """Return whether a value in implicit VR is a sequence, and not only in the dictionary."""
        if dictionary.lookup_vr(tag) != "SQ":
            return False
        if length < 4:
            return not length
        start = self._find_header(4, level)
        return self._block.startswith(_ITEM_TAGS[level.little_endian], start)

    def _read_item(self, level: _Level) -> Found | _Level:
        """Read the header of an item or fragment, or the delimiter that ends their sequence."""
        start = self._find_header(8, level)
        group, number, length = _FORMATS[level.little_endian][1](self._block, start)
        self.at += 8
        tag = group << 16 | number
        if tag == _SEQUENCE_END and level.undefined:
            self.levels.pop()
            return _close(level, self.at - 8)
        if tag != _ITEM:
            raise UnusableDataset(f"{name_path(level.path)} holds something that is no item")
        path = f"{level.path}.{level.number}"
        level.number += 1
        at = self.at
        undefined = length == UNDEFINED_LENGTH
        if not undefined and length > level.end - at:
            self._refuse_length(level, level.tag, at + length)
        if level.kind is Kind.ENCAPSULATED:
            if undefined:
                raise UnusableDataset(f"a fragment of {name_path(level.path)} has no length")
            self.at = at + length
            return Found(path, tag, None, at, length, Kind.FRAGMENT)
        self._items += 1
        if self._items > _MOST_SEQUENCE_ITEMS:
            raise UnusableDataset(TOO_LARGE)
        end = level.end if undefined else at + length
        item = _Level(Kind.ITEM, path + ".", level.tag, level.vr, at, end, undefined)
        item.implicit, item.little_endian = level.implicit, level.little_endian
        if (level.vr in ("SQ", "UN")) and end - at >= 8:
            start = self._find_header(8, item)
            first, _, code, _ = _FORMATS[item.little_endian][0](self._block, start)
            if first != 0xFFFE:
                item.implicit = not is_vr(code)
        return item

    def _read_delimiter(self, level: _Level, tag: int, header: bytes) -> Found:
        if tag == _ITEM_END and level.undefined and len(self.levels) > 1:
            self.levels.pop()
            return _close(level, self.at - 8)
        behind = f"after {name_path(f'{level.path}{level.last:08X}')}" if level.last else "first"
        if not any(header):
            raise UnusableDataset(f"{behind} come zero bytes, which are no element")
        if tag >> 16 == 0:
            raise UnusableDataset("it holds elements of a command (group 0000), which no file has")
        raise UnusableDataset(f"{behind} comes a delimiter, where no item or sequence is open")

    def _find_header(self, count: int, level: _Level) -> int:
        """Return where in the block the next header stands, of which so many bytes are there."""
        if count > level.end - self.at:
            self._refuse_end(level.last or level.tag)
        start = self.at - self._block_at
        if not 0 <= start <= len(self._block) - count:
            self.file.seek(self.at)
            self._block, self._block_at, start = self.file.read(_HEADERS), self.at, 0
            if len(self._block) < count:  # it became shorter while it was read
                self._refuse_end(level.last or level.tag)
        return start

    def _refuse_end(self, tag: int) -> NoReturn:
        where = f": what follows {name_element(tag)} is no whole element" if tag else ""
        raise UnusableDataset(CUT_SHORT + where)

    def _refuse_length(self, level: _Level, tag: int, end: int) -> NoReturn:
        name = name_path(f"{level.path}{tag:08X}" if level.kind is Kind.ITEM else level.path)
        if end > self.size:
            raise UnusableDataset(f"{CUT_SHORT}, or the length of {name} is wrong")
        raise UnusableDataset(f"the length of {name} is more than that of what it is in")

    def _refuse_vr(self, level: _Level, tag: int) -> NoReturn:
        name = name_path(f"{level.path}{tag:08X}")
        behind = f", after {name_element(level.last)}," if level.last else ""
        raise UnusableDataset(f"{name}{behind} has a value representation that DICOM does not have")


def _close(level: _Level, end: int) -> Found:
    path = level.path.rstrip(".")
    vr = "implicit" if level.kind is Kind.ITEM and level.implicit else level.vr
    length = end - level.start
    return Found(path, level.tag, vr, level.start, length, level.kind, level.undefined)
