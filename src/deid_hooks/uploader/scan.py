"""Scan a folder: the series to upload, and every file that is left out, with the reason.

Only paths and UIDs are kept, some 200 bytes a file.
"""

from __future__ import annotations

import os
import stat
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BufferedReader, FileIO
from pathlib import Path
from typing import BinaryIO, Literal

from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileDataset
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag

from deid_hooks import UnusableDataset, normalise_identity
from deid_hooks.dicom.dictionary import (
    ISSUER_OF_PATIENT_ID,
    PATIENT_ID,
    SERIES_INSTANCE_UID,
    SOP_CLASS_UID,
    SOP_INSTANCE_UID,
    SPECIFIC_CHARACTER_SET,
    STUDY_INSTANCE_UID,
)

Kind = Literal["refused", "no DICOM"]

_DIRECTORY_STORAGE = "1.2.840.10008.1.3.10"  # Media Storage Directory Storage: a DICOMDIR
_UIDS = (SOP_CLASS_UID, SOP_INSTANCE_UID, STUDY_INSTANCE_UID, SERIES_INSTANCE_UID)
_PATIENT = (PATIENT_ID, ISSUER_OF_PATIENT_ID)
_WANTED: list[BaseTag | int] = [SPECIFIC_CHARACTER_SET, *_UIDS, *_PATIENT]
# Groups 0002 and 0008, little and big endian: what a file without a prefix would begin with.
_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00", b"\x00\x02", b"\x00\x08")
NO_DICOM = "it doesn't begin as DICOM does"
_LINK_OUT = "a link out of the folder, which --follow-links follows"
_MOST_INFLATED = 256 * 1024 * 1024
_MOST_SEQUENCE_ITEMS = 250_000  # each takes some 1,600 bytes once it is read
_ITEMS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")
_INFLATED_AT_ONCE = 1024 * 1024
_HEAD = 4096
_DEFLATED = b"1.2.840.10008.1.2.1.99"
TOO_LARGE = "it would take too much memory: it is deflated, or has too many items"


@dataclass(frozen=True, slots=True)
class Series:
    """The files of one series, wherever they lie, in the order of their paths.

    ``patients`` holds every (PatientID, IssuerOfPatientID) in them.
    """

    study_uid: str = field(repr=False)
    series_uid: str = field(repr=False)
    files: tuple[str, ...] = field(repr=False)
    patients: frozenset[tuple[str, str]] = field(repr=False, default=frozenset())

    @property
    def paths(self) -> tuple[Path, ...]:
        # Made when asked for: as Path objects a million files take three times the memory.
        return tuple(map(Path, self.files))


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file that is not uploaded: ``no DICOM``, or ``refused`` where it is, or may be, DICOM."""

    path: Path
    kind: Kind
    reason: str


@dataclass(frozen=True, slots=True)
class Scan:
    """Every file below a folder is in exactly one of the two."""

    series: tuple[Series, ...]
    left_out: tuple[LeftOut, ...]


def scan(source: Path, follow_links: bool = False) -> Scan:
    """Scan a folder, or one file. Hidden files count; links within are followed, loops are not.

    Links out of the folder are followed only if that is asked for: who fills it chooses them.
    Nothing that is found raises: what can't be read is left out, with the reason.
    """
    series: dict[tuple[str, str], list[str]] = {}
    patients: dict[tuple[str, str], set[tuple[str, str]]] = {}
    left_out: list[LeftOut] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's quote values
        for found in _list_files(source, follow_links):
            known = found if isinstance(found, LeftOut) else _read_series(found)
            if isinstance(known, LeftOut):
                left_out.append(known)
            else:
                study, uid, *patient = known
                series.setdefault((study, uid), []).append(str(found))
                patients.setdefault((study, uid), set()).add(normalise_identity(*patient))
    return Scan(
        tuple(
            Series(study, uid, tuple(files), frozenset(patients[study, uid]))
            for (study, uid), files in series.items()
        ),
        tuple(left_out),
    )


def _list_files(source: Path, follow_links: bool) -> Iterator[Path | LeftOut]:
    """Yield the files below, those of each folder in the order of their names."""
    root = source.resolve()
    waiting, seen = [source], set()
    while waiting:
        path = waiting.pop()
        try:
            status = path.lstat()
            if stat.S_ISLNK(status.st_mode):
                status = path.stat()
                if not (follow_links or path.resolve().is_relative_to(root)):
                    yield LeftOut(path, "refused", _LINK_OUT)
                    continue
            if stat.S_ISREG(status.st_mode):
                yield path
            elif not stat.S_ISDIR(status.st_mode):
                yield LeftOut(path, "no DICOM", "neither a file nor a folder")
            elif (folder := (status.st_dev, status.st_ino)) in seen:
                yield LeftOut(path, "no DICOM", "a link to a folder that is searched anyway")
            else:
                seen.add(folder)
                waiting.extend(sorted(path.iterdir(), reverse=True))
        except OSError as error:
            yield LeftOut(path, "refused", explain_os_error(error))


def _read_series(path: Path) -> tuple[str, str, str, str] | LeftOut:
    """Return Study and Series Instance UID, PatientID and issuer, or why there is no series."""
    has_prefix = False
    try:
        with _open(path) as file:
            head = file.read(132)
            has_prefix = _has_prefix(head)
            if not begins_as_dicom(head):
                return LeftOut(path, "no DICOM", NO_DICOM)
            dataset = _read_header(file)
        sop_class, sop_instance, study, series = (_read_text(dataset, tag) for tag in _UIDS)
        patient_id, issuer = (_read_text(dataset, tag) for tag in _PATIENT)
        media_class = str(dataset.file_meta.get("MediaStorageSOPClassUID") or "")
    except OSError as error:
        return LeftOut(path, "refused", explain_os_error(error))
    except UnusableDataset as error:
        return LeftOut(path, "refused", str(error))
    except Exception:  # noqa: BLE001 - whatever pydicom meets in a broken file
        if has_prefix:
            return LeftOut(path, "refused", "it is not valid DICOM")
        return LeftOut(path, "no DICOM", NO_DICOM)
    if _DIRECTORY_STORAGE in (media_class, sop_class):
        return LeftOut(path, "refused", "a DICOMDIR, not an image")
    if not has_prefix and not (sop_class and sop_instance):
        return LeftOut(path, "no DICOM", NO_DICOM)
    for uid, level in ((sop_instance, "SOP"), (study, "Study"), (series, "Series")):
        if not uid:
            return LeftOut(path, "refused", f"no {level}InstanceUID")
    return study, series, patient_id, issuer


def _open(path: Path) -> BufferedReader:
    """Open a file: one that could take very much more memory than it has bytes with bounds."""
    file = path.open("rb")
    if os.fstat(file.fileno()).st_size <= 8 * _MOST_SEQUENCE_ITEMS:
        head = file.read(_HEAD)
        file.seek(0)
        if _ends_file_meta(head) and _DEFLATED not in head:
            return file
    file.close()
    return _BoundedFile(FileIO(path))


def _ends_file_meta(head: bytes) -> bool:
    """Return whether the file meta, in which a file is called deflated, ends in these bytes.

    It is explicit VR little endian (PS3.10, section 7.1); anything else is not followed.
    """
    at = 132 if _has_prefix(head[:132]) else 0
    while head[at : at + 2] == b"\x02\x00":
        vr = head[at + 4 : at + 6]
        if vr in (b"OB", b"UN", b"UT"):
            at += 12 + int.from_bytes(head[at + 8 : at + 12], "little")
        elif vr in (b"UI", b"UL", b"SH", b"AE"):
            at += 8 + int.from_bytes(head[at + 6 : at + 8], "little")
        else:
            return False
    return at + 2 <= len(head)


class _BoundedFile(BufferedReader):
    """A file that is refused where reading it would take very much more memory than it has bytes.

    Reading raises UnusableDataset then. pydicom reads all that is left in order to inflate it
    (PS3.5, section A.5). It takes longer than another file does.
    """

    _items = 0

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0:
            start = self.tell()
            self._inflate()
            self.seek(start)
            return super().read()
        part = super().read(size)
        self._count_items(part)
        return part

    def _inflate(self) -> None:
        inflating, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while part := inflating.unconsumed_tail or super().read(_HEAD):
            inflated = inflating.decompress(part, _INFLATED_AT_ONCE)
            self._count_items(inflated)
            size += len(inflated)
            if size > _MOST_INFLATED:
                raise UnusableDataset(TOO_LARGE)

    def _count_items(self, part: bytes) -> None:
        self._items += max(part.count(tag) for tag in _ITEMS)
        if self._items > _MOST_SEQUENCE_ITEMS:
            raise UnusableDataset(TOO_LARGE)


def begins_as_dicom(head: bytes) -> bool:
    """Return whether a file of these first 132 bytes may be DICOM, with a prefix or without."""
    return _has_prefix(head) or head[:2] in _FIRST_GROUPS


def _has_prefix(head: bytes) -> bool:
    return head[128:] == b"DICM"


def _read_header(file: BinaryIO) -> FileDataset:
    """Read the attributes up to Series Instance UID: reading further doubles the time."""
    file.seek(0)
    return read_partial(
        file,
        stop_when=lambda tag, vr, length: tag > SERIES_INSTANCE_UID,
        force=True,
        specific_tags=_WANTED,
    )


def _read_text(dataset: FileDataset, tag: BaseTag | int) -> str:
    return str(dataset[tag].value or "") if tag in dataset else ""


CUT_SHORT = "the file is cut short"
_UNDEFINED_LENGTH = 0xFFFFFFFF


def read(path: Path) -> FileDataset:
    """Return the dataset of a file that :func:`scan` found, with its pixels.

    Raises UnusableDataset for a file that ends before its data do, of which pydicom keeps what is
    there, and for one that can't be read.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they quote values
        # This is how pydicom reports a value of undefined length that has no end.
        warnings.filterwarnings("error", message=r"(?s).* in file ", category=UserWarning)
        try:
            with _open(path) as file:
                dataset = dcmread(file, force=True)
        except UnusableDataset:
            raise
        except UserWarning:
            raise UnusableDataset(CUT_SHORT) from None
        except OSError as error:
            raise UnusableDataset(explain_os_error(error)) from None
        except Exception:  # noqa: BLE001 - whatever pydicom meets in a broken file
            raise UnusableDataset("it is not valid DICOM") from None
    if any(_ends_early(element) for element in dataset.values()):
        raise UnusableDataset(CUT_SHORT)
    return dataset


def explain_os_error(error: OSError) -> str:
    """Return why a file can't be read, without the path that the error quotes."""
    if isinstance(error.__context__, UnusableDataset):  # raised within pydicom
        return str(error.__context__)
    if error.errno is None:  # pydicom's own, for a sequence without an end
        return CUT_SHORT
    return f"it can't be read: {str(error.strerror).lower()}"


def _ends_early(element: object) -> bool:
    return (
        isinstance(element, RawDataElement)
        and element.length != _UNDEFINED_LENGTH
        and len(element.value or b"") < element.length
    )
