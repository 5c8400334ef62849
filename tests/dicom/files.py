"""pydicom's own files, and what is compared of a dataset: every element, byte by byte."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileMetaDataset
from pydicom.tag import BaseTag
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

DATA = Path(pydicom.__file__).parent / "data"

_NO_DICOM = (
    "FileInfo.txt",
    "README",
    "README.txt",
    "crayons.icc",
    "no_meta.dcm",
    "rtplan.dump",
    "rtstruct.dump",
    "test1.json",
    "test_PN.json",
    "zipMR.gz",
)
FILES = sorted(
    path
    for folder in ("test_files", "charset_files")
    for path in (DATA / folder).rglob("*")
    if path.is_file() and path.name not in _NO_DICOM
)
DIRECTORIES = [path for path in FILES if path.name.startswith("DICOMDIR")]
WITHOUT_UID = [
    path
    for path in FILES
    if path.name
    in (
        "UN_sequence.dcm",
        "chrSQEncoding.dcm",
        "chrSQEncoding1.dcm",
        "empty_charset_LEI.dcm",
        "meta_missing_tsyntax.dcm",
        "nested_priv_SQ.dcm",
        "no_meta_group_length.dcm",
        "priv_SQ.dcm",
    )
]
INSTANCES = [path for path in FILES if path not in DIRECTORIES]

CT = DATA / "test_files" / "CT_small.dcm"

Leaves = dict[str, tuple[str | None, object]]


def read(path: Path) -> Dataset:
    """The dataset of a file; of one without SOP Instance UID, as if it had one."""
    dataset = dcmread(path, force=True)
    if path in WITHOUT_UID:
        put_raw(dataset, 0x00080018, "UI", b"1.2.3.4\0")
    return dataset


def sent(dataset: Dataset) -> Dataset:
    """What arrives elsewhere: ``dataset`` written and read."""
    buffer = BytesIO()
    dcmwrite(buffer, dataset)
    buffer.seek(0)
    return dcmread(buffer, force=True)


def made(transfer_syntax: str = ExplicitVRLittleEndian, **values: Any) -> Dataset:
    """A small dataset in memory with these values."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(transfer_syntax)
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = "1.2.3.4"
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def item(**values: Any) -> Dataset:
    """An item of a sequence with these values."""
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def put_raw(dataset: Dataset, tag: int, vr: str, value: bytes) -> None:
    """Put an element into ``dataset`` as if it had been read."""
    implicit, little_endian = dataset.original_encoding
    dataset._dict[BaseTag(tag)] = RawDataElement(
        BaseTag(tag),
        None if implicit else vr,
        len(value),
        value,
        0,
        bool(implicit),
        little_endian is not False,
    )


def raw(dataset: Dataset, tag: int) -> bytes:
    """The bytes of an element of a dataset that was read and not touched."""
    element = dataset.get_item(tag)
    assert isinstance(element, RawDataElement)
    return element.value or b""


def leaves(dataset: Dataset) -> Leaves:
    """Every element of a dataset just read: path to value representation and bytes.

    Nested, with file meta and preamble. Group lengths are left out: the writer makes its own.
    """
    found: Leaves = {"preamble": (None, getattr(dataset, "preamble", None))}
    _walk("", getattr(dataset, "file_meta", Dataset()), found)
    _walk("", dataset, found)
    return found


def differing(left: Leaves, right: Leaves) -> list[str]:
    """The paths where two datasets differ."""
    return sorted(path for path in {*left, *right} if left.get(path) != right.get(path))


def _walk(prefix: str, dataset: Dataset, found: Leaves) -> None:
    elements = {tag: element for tag, element in sorted(dataset.items()) if tag.element}
    for tag, element in elements.items():  # listed first: some are decoded on the way to others
        path = f"{prefix}{int(tag):08X}"
        items = _items(dataset, tag)
        if items is None:
            found[path] = (element.VR, element.value or b"")
            continue
        found[path] = ("SQ", len(items))
        for number, inner in enumerate(items):
            _walk(f"{path}.{number}.", inner, found)


def _items(dataset: Dataset, tag: BaseTag) -> Any:
    if dataset.get_item(tag).VR not in ("SQ", None):
        return None
    try:
        element = dataset[tag]
    except Exception:
        return None
    return element.value if element.VR == "SQ" else None
