"""Read and write whole DICOM files (PS3.10), and see that nothing was lost on the way."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Collection, Mapping
from copy import deepcopy
from typing import BinaryIO

from pydicom import dcmread
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO, DicomIO
from pydicom.filewriter import write_data_element, write_dataset, write_file_meta_info
from pydicom.tag import BaseTag
from pydicom.uid import UID

from deid_hooks.dicom.capture import Snapshot, Whole, capture, list_elements, read_items
from deid_hooks.dicom.comparison import PADS
from deid_hooks.dicom.dictionary import (
    MEDIA_STORAGE_SOP_INSTANCE_UID,
    PIXELS,
    lookup_vr,
    name_element,
)
from deid_hooks.dicom.difference import ENCODING, META_ENCODING, Changes
from deid_hooks.dicom.elements import (
    DEFLATED,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    UNDEFINED_LENGTH,
    Found,
    Header,
    Kind,
    Layout,
    is_encapsulated,
    make_header,
    make_sequence_end,
    name_path,
    read_layout,
)
from deid_hooks.dicom.encoding import TEXT_VRS, pad_pixels
from deid_hooks.errors import UnusableDataset
from deid_hooks.records.json_codec import write_canonical_json

_NOT_VALID = "it is not valid DICOM"


def read_dicom(file: BinaryIO) -> tuple[FileDataset, Layout]:
    """Return the dataset of a file, with its pixels, and where everything stands in the file.

    Raises UnusableDataset, which names the element, for a file that can't be read to its end, and
    OSError.
    """
    layout = read_layout(file)
    file.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they quote values
        try:
            dataset = dcmread(file, force=True)
        except OSError as error:
            if error.errno:  # without a number it is pydicom's own
                raise
            raise UnusableDataset(_NOT_VALID) from None
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001 - its text may quote values
            raise UnusableDataset(_NOT_VALID) from None
    # As it is, where its transfer syntax says something else or nothing.
    dataset.set_original_encoding(layout.header.implicit, layout.header.little_endian)
    if layout.header.implicit:
        _keep_text_from_becoming_items(dataset, layout)
    return dataset, layout


def refuse_without_pixels(layout: Layout) -> None:
    """Raise UnusableDataset for an image whose pixels are missing: it may end before them.

    The Image Pixel module (PS3.3, section C.7.6.3) has them, or a URL where they are.
    """
    if layout.found.keys() >= _DESCRIPTION_OF_PIXELS and not layout.found.keys() & _PIXELS:
        raise UnusableDataset(
            "it describes pixels and has none: it is cut short before them, or they were removed"
        )


_DESCRIPTION_OF_PIXELS = frozenset(("00280010", "00280011", "00280100"))
_PIXELS = frozenset((*(f"{tag:08X}" for tag in PIXELS), "00287FE0"))


def _keep_text_from_becoming_items(dataset: Dataset, layout: Layout) -> None:
    """Take what only a dictionary calls a sequence for bytes: in implicit VR nothing says more."""
    for each in layout.found.values():
        if each.vr is None and each.kind is Kind.LEAF and lookup_vr(each.tag) == "SQ":
            holder, tag = _find_holder(dataset, each.path)
            element = holder.get_item(tag) if holder is not None and tag in holder else None
            if isinstance(element, RawDataElement) and holder is not None:
                holder._dict[BaseTag(tag)] = element._replace(VR="OB")  # noqa: SLF001


def capture_file(dataset: Dataset, layout: Layout) -> Snapshot:
    """Capture a dataset just read from a file, with what pydicom would encode in another way.

    These are sequences in VR UN, those with items in implicit VR where the rest is explicit, and
    those with group lengths inside. Raises UnusableDataset for a value that can't be read.
    """
    snapshot = capture(dataset)
    for tag in _list_rewritten(layout):
        element, found = snapshot.elements.get(tag), layout.found[f"{tag:08X}"]
        if element is not None:
            layout.data.seek(found.offset)
            value = layout.data.read(found.length)
            items = read_items(snapshot, element)
            snapshot.elements[tag] = Whole(found.vr or "SQ", value, found.undefined, items)
    return snapshot


def _list_rewritten(layout: Layout) -> set[int]:
    """Return the tags of the sequences that pydicom would encode in another way."""
    explicit = not layout.header.implicit
    rewritten = set()
    for each in layout.found.values():
        if each.kind is Kind.LEAF:
            found = not each.tag & 0xFFFF and "." in each.path
        else:
            found = (each.kind is Kind.SEQUENCE and each.vr == "UN") or (
                explicit and each.kind is Kind.ITEM and each.vr == "implicit"
            )
        if found:
            rewritten.add(int(each.path[:8], 16))
    return rewritten


def correct_syntax(dataset: Dataset, header: Header) -> None:
    """Name the transfer syntax that the bytes of a dataset have, if the file named another."""
    if header.contradicts:
        dataset.file_meta.TransferSyntaxUID = UID(_name_true_syntax(header))


def note_encoding(changes: Changes, header: Header) -> None:
    """Keep with the changes in which encoding a file was that is not written again as it was.

    It named another transfer syntax, or had its file meta information in implicit VR.
    """
    if header.contradicts:
        changes.originals[ENCODING] = _make_uid(_name_true_syntax(header))
    if any(each.vr is None for each in header.meta):
        changes.originals[META_ENCODING] = _make_uid(IMPLICIT_LITTLE)


def _make_uid(uid: str) -> str:
    return write_canonical_json({"vr": "UI", "Value": [uid]})


def _name_true_syntax(header: Header) -> str:
    return IMPLICIT_LITTLE if header.implicit else EXPLICIT_LITTLE


def pad_odd(dataset: Dataset, source: Layout) -> None:
    """Give values that have an odd length in the source the pad of PS3.5, section 6.2.

    What an engine put in the place of one is left to the writer. Raises UnusableDataset for
    fragments of pixels that can't get one.
    """
    for each in source.found.values():
        if each.length % 2 and each.kind in _WITH_BYTES:
            path = each.path if each.kind is Kind.LEAF else each.path.rpartition(".")[0]
            holder, tag = _find_holder(dataset, path)
            element = holder.get_item(tag) if holder is not None and tag in holder else None
            if isinstance(element, RawDataElement | DataElement) and holder is not None:
                _pad_element(holder, tag, element)


def _find_holder(dataset: Dataset, path: str) -> tuple[Dataset | None, int]:
    """Return the dataset or item that holds the element of a path; None if it is gone."""
    *way, last = path.split(".")
    holder: Dataset = dataset.file_meta if path.startswith("0002") else dataset
    for tag, number in zip(way[::2], way[1::2], strict=True):
        element = holder.get(int(tag, 16), None)
        items = element.value if element is not None and element.VR == "SQ" else ()
        if int(number) >= len(items):
            return None, 0
        holder = items[int(number)]
    return holder, int(last, 16)


def _pad_element(holder: Dataset, tag: int, element: RawDataElement | DataElement) -> None:
    value = element.value
    if not isinstance(value, bytes):
        return
    undefined = (
        element.length == UNDEFINED_LENGTH
        if isinstance(element, RawDataElement)
        else element.is_undefined_length
    )
    if undefined:
        try:
            value, _ = pad_pixels(value, undefined)
        except ValueError as error:
            raise UnusableDataset(f"{name_element(tag)} can't be padded: {error}") from None
    else:
        value = _pad_value(element.VR or lookup_vr(tag), value)
    if isinstance(element, RawDataElement):
        length = UNDEFINED_LENGTH if undefined else len(value)
        padded = element._replace(value=value, length=length)
        holder._dict[BaseTag(tag)] = padded  # noqa: SLF001 - __setitem__ would decode it
    else:
        element.value = value


def _pad_value(vr: str, value: bytes) -> bytes:
    text = vr in TEXT_VRS and vr != "UI"
    return value + (b" " if text else b"\0") if len(value) % 2 else value


def write_dicom(dataset: Dataset, file: BinaryIO, encoding: tuple[bool, bool]) -> None:
    """Write a dataset as PS3.10, section 7, has it, with the length of its file meta information.

    ``encoding`` is implicit VR and little endian. It counts, whatever the transfer syntax says:
    pydicom takes private syntaxes for explicit, and refuses those that are newer than itself.
    Raises whatever pydicom raises for a value that can't be written.
    """
    preamble: bytes | None = getattr(dataset, "preamble", None)
    meta: FileMetaDataset = deepcopy(getattr(dataset, "file_meta", None) or FileMetaDataset())
    syntax = str(meta.get("TransferSyntaxUID") or "")
    if preamble:
        file.write(preamble + b"DICM")
    if meta:
        meta.FileMetaInformationGroupLength = 0  # the right one is put there
        write_file_meta_info(DicomIO(file), meta, enforce_standard=False)
    for tag in PIXELS:
        element = dataset.get_item(tag) if tag in dataset else None
        if isinstance(element, DataElement) and is_encapsulated(syntax) is not None:
            element.is_undefined_length = bool(is_encapsulated(syntax))
    if syntax != DEFLATED:
        _write_elements(dataset, DicomIO(file), encoding)
        return
    plain = DicomBytesIO()
    _write_elements(dataset, plain, encoding)
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)  # PS3.5, section A.5
    packed = packer.compress(plain.getvalue()) + packer.flush()
    file.write(packed + bytes(len(packed) % 2))


def _write_elements(dataset: Dataset, target: DicomIO, encoding: tuple[bool, bool]) -> None:
    """Write what was read and not touched as it is, which pydicom does in four times the time."""
    target.is_implicit_VR, target.is_little_endian = encoding
    character_set = dataset._character_set  # noqa: SLF001 - as pydicom compares them
    if dataset.original_encoding != encoding or dataset.original_character_set != character_set:
        write_dataset(target, dataset)
        return
    for tag, element in sorted(list_elements(dataset).items()):
        if not tag & 0xFFFF and tag >> 16 > 6:  # group lengths are retired, PS3.5, section 7.2
            continue
        header = _make_header(tag, element, encoding)
        if header is None:
            write_data_element(target, element, character_set)
            continue
        target.write(header + (element.value or b""))
        if element.length == UNDEFINED_LENGTH:
            target.write(make_sequence_end(encoding[1]))


def _make_header(
    tag: int, element: RawDataElement | DataElement, encoding: tuple[bool, bool]
) -> bytes | None:
    """Return the header of an element that was read and not touched; None for any other."""
    implicit, little_endian = encoding
    if not isinstance(element, RawDataElement) or (element.value is None and element.length):
        return None
    length = element.length if element.length == UNDEFINED_LENGTH else len(element.value or b"")
    return make_header(tag, None if implicit else element.VR or "", length, little_endian)


_NOT_COMPARED = frozenset(("00020000", f"{MEDIA_STORAGE_SOP_INSTANCE_UID:08X}"))
_BLOCK = 1 << 20
_BEGINNING = 1 << 16


def refuse_invalid(written: Layout) -> None:
    """Raise UnusableDataset for a written file that others could not read.

    One without a transfer syntax, or with another than its bytes have; with values of odd length,
    at which archives abort an association, or with items in implicit VR where the rest is explicit.
    """
    if not written.header.syntax or written.header.contradicts:
        raise UnusableDataset("it would be written without its transfer syntax")
    for each in written.found.values():
        if each.kind in _WITH_BYTES and each.length % 2:
            raise UnusableDataset(f"{name_path(each.path)} would be written with an odd length")
        if each.kind is Kind.ITEM and each.vr == "implicit" and not written.header.implicit:
            raise UnusableDataset(
                f"an item of {name_path(each.path)} would be written without value representations"
            )


def refuse_altered(source: Layout, written: Layout, changed: Collection[str]) -> None:
    """Raise UnusableDataset if a file that was written is not its source but for ``changed``.

    ``changed`` holds paths; all below them counts as changed too. Everything else has the value
    bytes of the source, but for the pad of an odd length, and there is nothing else.
    """
    changes = _Changed(changed)
    values = _Values(source), _Values(written)
    for path, each in source.found.items():
        if path in _NOT_COMPARED or not each.tag & 0xFFFF or changes.cover(each):
            continue
        other = written.found.get(path)
        if other is None:
            raise UnusableDataset(f"{name_path(path)} would be lost")
        if not _are_equal(each, other, *values):
            raise UnusableDataset(f"{name_path(path)} would be written with another value")
    for path, each in written.found.items():
        if path in source.found or path in _NOT_COMPARED or not each.tag & 0xFFFF:
            continue
        if not changes.cover(each):
            raise UnusableDataset(f"{name_path(path)} would be written, which is not in it")


def list_changed(originals: Mapping[str, str]) -> set[str]:
    """Return the paths at which the log holds originals, but for those of which it holds pads."""
    return {path for path, text in originals.items() if f'"{PADS}":' not in text}


class _Changed:
    """The paths that an engine changed, as the log has them."""

    def __init__(self, paths: Collection[str]) -> None:
        self._paths = paths
        self._tops = {path[:8] for path in paths}
        self._nested = [path for path in paths if "." in path]

    def cover(self, found: Found) -> bool:
        """Return whether something was changed there, in what holds it, or inside of a value."""
        path = found.path
        if path in self._paths:
            return True
        if path[:8] not in self._tops:
            return False
        parts = path.split(".")
        if any(".".join(parts[:end]) in self._paths for end in range(1, len(parts) + 1, 2)):
            return True
        inside = f"{path}."
        # What only a dictionary calls a sequence is a value in the file.
        return found.kind is Kind.LEAF and any(each.startswith(inside) for each in self._nested)


_WITH_BYTES = (Kind.LEAF, Kind.FRAGMENT)


class _Values:
    """The values of a file: most are small, and near to its beginning."""

    def __init__(self, layout: Layout) -> None:
        self._data = layout.data
        self._data.seek(0)
        self._beginning = self._data.read(_BEGINNING)

    def read(self, offset: int, length: int) -> bytes:
        if offset + length <= len(self._beginning):
            return self._beginning[offset : offset + length]
        self._data.seek(offset)
        return self._data.read(length)


def _are_equal(one: Found, other: Found, source: _Values, written: _Values) -> bool:
    if one.kind is not other.kind:
        return False
    if one.kind not in _WITH_BYTES:
        return True
    length = min(one.length, other.length)
    padded = length % 2 and max(one.length, other.length) == length + 1
    if (one.length != other.length and not padded) or (one.vr != other.vr and one.vr and other.vr):
        return False
    for done in range(0, length, _BLOCK):
        size = min(length - done, _BLOCK)
        if source.read(one.offset + done, size) != written.read(other.offset + done, size):
            return False
    return True
