"""Restore the original from a de-identified dataset and its entry; stamp files with the log id."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, Literal, NamedTuple

from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.tag import BaseTag

from deid_hooks.dicom import dictionary, encoding
from deid_hooks.dicom.capture import Snapshot, capture, read_encodings
from deid_hooks.dicom.comparison import PADS
from deid_hooks.dicom.dictionary import (
    MEDIA_STORAGE_SOP_INSTANCE_UID,
    SOP_INSTANCE_UID,
    SPECIFIC_CHARACTER_SET,
    TRANSFER_SYNTAX_UID,
    name_element,
)
from deid_hooks.dicom.difference import (
    ENCODING,
    FINGERPRINT,
    META_ENCODING,
    PREAMBLE,
    Changes,
    assemble,
    compute_fingerprint,
    strip_wrapping,
)
from deid_hooks.dicom.elements import (
    EXPLICIT_BIG,
    IMPLICIT_LITTLE,
    STANDARD_ROOT,
    UNDEFINED_LENGTH,
)
from deid_hooks.errors import UnusableDataset
from deid_hooks.records.model import Entry, Instance, parse_log_id

_FILE_META_GROUP_LENGTH = 0x00020000
_IMPLICIT_FILE_META = "the implicit VR of the file meta information"


class Restored(NamedTuple):
    """The original, and the names of the elements that were not logged and stay as they are.

    ``encoding`` says whether it was in implicit VR, and whether in little endian, which its
    transfer syntax may contradict.
    """

    dataset: Dataset
    not_restored: tuple[str, ...]
    encoding: tuple[bool, bool]


def restore(deidentified: Dataset, entry: Entry) -> Restored:
    """Return the original of a de-identified dataset, equal to what was captured.
    ``deidentified`` is not changed. Elements that were not logged (pixel data that an engine
    altered, values over the limit) stay as they are and are named. Raises UnusableDataset if the
    entry has no such instance, or has several that can't be told apart.
    """
    stamped, deidentified = deidentified, _copy(deidentified)
    unstamp(deidentified)
    present = capture(deidentified)
    instance = _find_instance(present, entry)
    originals: dict[str, Any] = {**json.loads(entry.originals), **json.loads(instance.originals)}
    originals.pop(FINGERPRINT, None)
    restored = deidentified
    encoding_of_original = _find_original_encoding(originals, stamped)
    originals.pop(ENCODING, None)
    rewritten = [_IMPLICIT_FILE_META] if originals.pop(META_ENCODING, None) else []
    work = _Restoration(entry.large, *encoding_of_original)
    meta = {path: element for path, element in originals.items() if path.startswith("0002")}
    work.restore_file_meta(restored, meta, instance)
    if PREAMBLE in originals:
        work.restore_preamble(restored, originals.pop(PREAMBLE))
    dataset_paths = {path: element for path, element in originals.items() if path not in meta}
    work.restore_items(restored, _nest_paths(dataset_paths), encoding.DEFAULT_ENCODINGS)
    missing = tuple(dict.fromkeys(work.missing + rewritten))
    return Restored(restored, missing, encoding_of_original)


def _find_instance(present: Snapshot, entry: Entry) -> Instance:
    rows = list_instances(present, entry)
    if not rows:
        raise UnusableDataset(
            f"the entry {entry.log_id} holds no instance with this SOPInstanceUID"
        )
    # Of several that differ in what is around the dataset only, the first.
    if len({_describe(entry, row) for row in rows}) > 1:
        raise UnusableDataset(
            f"the entry {entry.log_id} holds several instances with this SOPInstanceUID"
            " that can't be told apart"
        )
    return rows[0]


def list_instances(present: Snapshot, entry: Entry) -> list[Instance]:
    """Return the instances of an entry that a de-identified file may be.

    They have its SOP Instance UID. Where several do, they also have what the engine left alone.
    """
    deid_uid = present.text(SOP_INSTANCE_UID)
    rows = [instance for instance in entry.instances if instance.deid_uid == deid_uid]
    if len({row.originals for row in rows}) > 1:
        rows = [row for row in rows if _is_of(present, entry, row)] or rows
    return rows


def is_ambiguous(deidentified: Dataset, gathered: Sequence[Changes]) -> bool:
    """Return whether a file could not be told from others of one acquisition on its way back."""
    entry = assemble(gathered, "", "", "", ())
    try:
        _find_instance(capture(deidentified), entry)
    except UnusableDataset:
        return True
    return False


def _describe(entry: Entry, row: Instance) -> str:
    originals = {**json.loads(entry.originals), **json.loads(row.originals)}
    return repr(sorted(strip_wrapping(originals).items()))


def _is_of(present: Snapshot, entry: Entry, row: Instance) -> bool:
    """Return whether the values that the engine left alone are those of this instance."""
    changed = {**json.loads(entry.originals), **json.loads(row.originals)}
    wanted = changed.pop(FINGERPRINT, None)
    unchanged = [
        (tag, element)
        for tag, element in sorted(present.elements.items())
        if f"{tag:08X}" not in changed
    ]
    return wanted is not None and wanted["Value"] == [compute_fingerprint(unchanged)]


def _copy(dataset: Dataset) -> FileDataset:
    """Return a copy that shares only what is never changed in place."""
    elements: dict[Any, Any] = {
        tag: element if _is_here(element) else deepcopy(dataset[tag])
        for tag, element in list(dataset.items())
    }
    meta = getattr(dataset, "file_meta", None)
    implicit, little_endian = dataset.original_encoding
    copy = FileDataset(
        "",
        elements,
        preamble=getattr(dataset, "preamble", None),
        file_meta=FileMetaDataset() if meta is None else deepcopy(meta),
        is_implicit_VR=bool(implicit),
        is_little_endian=little_endian is not False,
    )
    copy.set_original_encoding(implicit, little_endian, dataset.original_character_set)
    return copy


def _is_here(element: DataElement | RawDataElement) -> bool:
    """Return whether a raw element was read; one that was deferred is still in a file."""
    return isinstance(element, RawDataElement) and (element.value is not None or not element.length)


def _find_original_encoding(
    originals: Mapping[str, Any], deidentified: Dataset
) -> tuple[bool, bool]:
    """Implicit VR and little endian, of the original transfer syntax."""
    element = originals.get(ENCODING) or originals.get(f"{TRANSFER_SYNTAX_UID:08X}")
    if element:
        uid = encoding.read_text("UI", encoding.decode(element))
        if uid.startswith(STANDARD_ROOT):
            return uid == IMPLICIT_LITTLE, uid != EXPLICIT_BIG
    implicit, little_endian = deidentified.original_encoding
    return bool(implicit), little_endian is not False


def _nest_paths(paths: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``{"00081140.0.00081155": x}`` as ``{"00081140": {0: {"00081155": x}}}``."""
    tree: dict[str, Any] = {}
    for path, element in paths.items():
        tag, _, rest = path.partition(".")
        if rest:
            number, _, inner = rest.partition(".")
            tree.setdefault(tag, _Inside()).setdefault(int(number), {})[inner] = element
        else:
            tree[tag] = element
    return tree


class _Inside(dict[int, dict[str, Any]]):
    """Changed leaves inside a sequence, by item number; told apart from an element's own dict."""


class _Restoration:
    def __init__(self, large: Mapping[str, bytes], implicit: bool, little_endian: bool) -> None:
        self.large = large
        self.implicit, self.little_endian = implicit, little_endian
        self.missing: list[str] = []

    def restore_file_meta(
        self, dataset: Dataset, paths: Mapping[str, Any], instance: Instance
    ) -> None:
        meta = dataset.file_meta
        if f"{MEDIA_STORAGE_SOP_INSTANCE_UID:08X}" not in paths and (
            MEDIA_STORAGE_SOP_INSTANCE_UID in meta
        ):
            uid = {"vr": "UI", "Value": [instance.uid]}
            paths = {**paths, f"{MEDIA_STORAGE_SOP_INSTANCE_UID:08X}": uid}
        explicit_little = _Restoration(self.large, False, True)
        explicit_little.restore_items(meta, paths, encoding.DEFAULT_ENCODINGS)
        self.missing += explicit_little.missing
        if set(meta.keys()) <= {_FILE_META_GROUP_LENGTH}:  # there was none, or without elements
            del dataset.file_meta

    def restore_preamble(self, dataset: FileDataset, element: Any) -> None:
        preamble = (
            None if element is None else self._decode_value(element, encoding.DEFAULT_ENCODINGS)
        )
        if element is not None and preamble is None:
            self.missing.append(PREAMBLE)
        else:
            dataset.preamble = preamble

    def restore_items(
        self, dataset: Dataset, tree: Mapping[str, Any], inherited: Sequence[str]
    ) -> None:
        """Put leaves, removals and whole sequences in place, then what is inside of sequences.

        The character set comes first. Private creators, which tell sequences from bytes, are
        leaves.
        """
        charset = f"{SPECIFIC_CHARACTER_SET:08X}"
        if charset in tree:
            self._put(dataset, charset, tree[charset], inherited)
        own = (
            dataset.get_item(SPECIFIC_CHARACTER_SET) if SPECIFIC_CHARACTER_SET in dataset else None
        )
        encodings = read_encodings(own) or tuple(inherited)
        for path, element in tree.items():
            if not isinstance(element, _Inside) and path != charset:
                self._put(dataset, path, element, encodings)
        for path, element in tree.items():
            if isinstance(element, _Inside):
                self._enter(dataset, int(path, 16), element, encodings)
        implicit, little_endian = dataset.original_encoding
        dataset.set_original_encoding(
            self.implicit if implicit is None else implicit,
            self.little_endian if little_endian is None else little_endian,
            # As pydicom compares them, so that it writes raw bytes as they are.
            dataset._character_set,  # noqa: SLF001
        )

    def _enter(
        self, dataset: Dataset, tag: int, changed: _Inside, encodings: tuple[str, ...]
    ) -> None:
        items = dataset[tag].value if tag in dataset else ()
        if not isinstance(items, DicomSequence):
            items = ()
        for number, paths in changed.items():
            if number >= len(items):
                self.missing.append(name_element(tag))
                continue
            # It had the de-identified one.
            items[number]._parent_encoding = list(encodings)  # noqa: SLF001
            self.restore_items(items[number], _nest_paths(paths), encodings)

    def _put(self, dataset: Dataset, path: str, element: Any, encodings: Sequence[str]) -> None:
        tag = int(path, 16)
        if element is None:
            if tag in dataset:
                del dataset[tag]
        elif element["vr"] == "SQ" and not {"raw", "digest", "length"} & element.keys():
            items = [self._item(item, encodings) for item in element.get("Value", ())]
            # Where no VR is written and no dictionary has it, only an undefined length tells.
            unknown = self.implicit and dictionary.lookup_vr(tag) != "SQ"
            dataset[tag] = DataElement(
                BaseTag(tag), "SQ", DicomSequence(items), is_undefined_length=unknown
            )
        elif PADS in element:
            self._strip_pads(dataset, tag, element)
        elif (value := self._decode_value(element, encodings)) is None:
            self.missing.append(name_element(tag))
        else:
            # Past __setitem__, which decodes private elements and so turns UN into other VRs.
            vr, undefined = element.get("written", element["vr"]), bool(element.get("undefined"))
            raw = self._make_raw(tag, vr, value, undefined)
            dataset._dict[BaseTag(tag)] = raw  # noqa: SLF001

    def _strip_pads(self, dataset: Dataset, tag: int, element: Mapping[str, Any]) -> None:
        """Take the pads out of pixels, if they are still those that were delivered."""
        padded = dataset.get_item(tag) if tag in dataset else None
        value, pads = getattr(padded, "value", None), element[PADS]
        undefined = getattr(padded, "length", 0) == UNDEFINED_LENGTH
        if not isinstance(value, bytes) or len(value) != element["length"] + len(pads):
            self.missing.append(name_element(tag))
            return
        stripped = encoding.strip_pads(value, undefined, pads)
        raw = self._make_raw(tag, getattr(padded, "VR", None), stripped, undefined)
        dataset._dict[BaseTag(tag)] = raw  # noqa: SLF001

    def _item(self, elements: Mapping[str, Any], encodings: Sequence[str]) -> Dataset:
        item = Dataset(parent_encoding=list(encodings))
        self.restore_items(item, elements, encodings)
        return item

    def _decode_value(self, element: Mapping[str, Any], encodings: Sequence[str]) -> bytes | None:
        if "digest" in element:
            return self.large.get(element["digest"])
        if "length" in element:
            return None
        return encoding.decode(element, encodings, self.little_endian)

    def _make_raw(
        self, tag: int, vr: str | None, value: bytes, undefined: bool = False
    ) -> RawDataElement:
        length = UNDEFINED_LENGTH if undefined else len(value)
        return RawDataElement(BaseTag(tag), vr, length, value, 0, self.implicit, self.little_endian)


Stamp = Literal["none", "equipment", "private"]

_CONTRIBUTING_EQUIPMENT = 0x0018A001
_OURS = "deid-hooks"
_GROUP, _CREATOR = 0x0011, "DEID-HOOKS LOG ID"
_PREFIX = "de-id log id "
STAMPS = frozenset(
    (
        f"{_CONTRIBUTING_EQUIPMENT:08X}",
        *(f"{_GROUP:04X}00{block:02X}" for block in range(0x10, 0x100)),
        *(f"{_GROUP:04X}{block:02X}01" for block in range(0x10, 0x100)),
    )
)
"""The paths at which a stamp may stand."""


def stamp(dataset: Dataset, log_id: str, kind: Stamp) -> None:
    """Put the log id into a de-identified dataset, in place of one that is there.

    ``equipment``: an item of Contributing Equipment Sequence (0018,A001), whose purpose is
    De-identifying Equipment (PS3.3, section C.12.1.1.5; PS3.16, CID 7005, code 109104).
    ``private``: an element of a private block of ours in group 0011.
    """
    unstamp(dataset)
    if kind == "equipment":
        items = dataset.get("ContributingEquipmentSequence") or []
        dataset.ContributingEquipmentSequence = DicomSequence([*items, _make_equipment(log_id)])
    elif kind == "private":
        dataset.private_block(_GROUP, _CREATOR, create=True).add_new(0x01, "LO", log_id)


def unstamp(dataset: Dataset) -> str | None:
    """Take a stamp of ours out of a dataset, and return the log id that it held."""
    found: str | None = None
    if _CONTRIBUTING_EQUIPMENT in dataset:
        items = dataset.ContributingEquipmentSequence
        kept = [item for item in items if _log_id_in(item) is None]
        if len(kept) < len(items):
            found = next(filter(None, map(_log_id_in, items)))
            dataset.ContributingEquipmentSequence = DicomSequence(kept)
            if not kept:
                del dataset[_CONTRIBUTING_EQUIPMENT]
    try:
        block = dataset.private_block(_GROUP, _CREATOR)
    except KeyError:
        return found
    if 0x01 in block:
        found = parse_log_id(str(block[0x01].value))
        del block[0x01]
    del dataset[_GROUP, block.block_start >> 8]
    return found


def _make_equipment(log_id: str) -> Dataset:
    purpose = Dataset()
    purpose.CodeValue, purpose.CodingSchemeDesignator = "109104", "DCM"
    purpose.CodeMeaning = "De-identifying Equipment"
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = DicomSequence([purpose])
    item.Manufacturer = _OURS
    item.ContributionDescription = f"{_PREFIX}{log_id}"
    return item


def _log_id_in(item: Dataset) -> str | None:
    told = str(item.get("ContributionDescription", ""))
    if item.get("Manufacturer") != _OURS or not told.startswith(_PREFIX):
        return None
    return parse_log_id(told.removeprefix(_PREFIX))
