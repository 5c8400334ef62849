"""Scan a folder: the series to upload, and every file that is left out, with the reason.

Only paths and UIDs are kept, some 200 bytes a file.
"""

from __future__ import annotations

import stat
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

from pydicom.dataset import FileDataset
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag

from deid_hooks import normalise_identity
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


def scan(source: Path) -> Scan:
    """Scan a folder, or one file. Hidden files count; links are followed, loops are not.

    Nothing that is found raises: what can't be read is left out, with the reason.
    """
    series: dict[tuple[str, str], list[str]] = {}
    patients: dict[tuple[str, str], set[tuple[str, str]]] = {}
    left_out: list[LeftOut] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's quote values
        for found in _list_files(source):
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


def _list_files(source: Path) -> Iterator[Path | LeftOut]:
    """Yield the files below, those of each folder in the order of their names."""
    waiting, seen = [source], set()
    while waiting:
        path = waiting.pop()
        try:
            status = path.stat()
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
        with path.open("rb") as file:
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


def explain_os_error(error: OSError) -> str:
    """Return why a file can't be read, without the path that the error quotes."""
    return f"it can't be read: {str(error.strerror).lower()}"
