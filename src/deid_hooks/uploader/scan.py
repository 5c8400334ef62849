"""Scan a folder: the series to upload, and every file that is left out, with the reason.

Only paths and UIDs are kept, some 200 bytes a file.
"""

from __future__ import annotations

import stat
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from gzip import GzipFile
from pathlib import Path
from typing import BinaryIO, Literal

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
from deid_hooks.dicom.elements import Header, leads_to_sop_class, read_header, read_values
from deid_hooks.dicom.encoding import parse_encodings, read_text

Kind = Literal["refused", "no DICOM", "no image"]

_DIRECTORY_STORAGE = "1.2.840.10008.1.3.10"  # Media Storage Directory Storage: a DICOMDIR
_UIDS = (SOP_CLASS_UID, SOP_INSTANCE_UID, STUDY_INSTANCE_UID, SERIES_INSTANCE_UID)
_PATIENT = (PATIENT_ID, ISSUER_OF_PATIENT_ID)
_WANTED = frozenset((SPECIFIC_CHARACTER_SET, *_UIDS, *_PATIENT))
_NEEDED = (*_UIDS, PATIENT_ID)
_DIRECTORY = "a DICOMDIR, not an image"
_MEDIA_STORAGE_SOP_CLASS_UID = 0x00020002
_GZIP = b"\x1f\x8b"
_FIRST_GROUP = 0x0008
# Groups 0002 and 0008, little and big endian: what a file without a prefix would begin with.
_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00", b"\x00\x02", b"\x00\x08")
NO_DICOM = "it doesn't begin as DICOM does"
_LINK_OUT = "a link out of the folder, which --follow-links follows"


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
    """A file that is not uploaded: ``no DICOM``, ``no image``, or ``refused``.

    ``no image`` is a DICOMDIR, which lists the files beside it; ``refused`` what is DICOM, or may
    be.
    """

    path: Path
    kind: Kind
    reason: str


@dataclass(frozen=True, slots=True)
class Scan:
    """Every file below a folder is in exactly one of the two."""

    series: tuple[Series, ...]
    left_out: tuple[LeftOut, ...]


def scan(source: Path, destination: Path | None = None, follow_links: bool = False) -> Scan:
    """Scan a folder, or one file. Hidden files count; links within are followed, loops are not.

    Links out of the folder are followed only if that is asked for: who fills it chooses them.
    Nothing that is found raises: what can't be read is left out, with the reason; so is what leads
    to ``destination``, a folder whose files were delivered and are no originals.
    """
    series: dict[tuple[str, str], list[str]] = {}
    patients: dict[tuple[str, str], set[tuple[str, str]]] = {}
    left_out: list[LeftOut] = []
    delivered = _identify(destination) if destination else None
    for found in _list_files(source, delivered, follow_links):
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


def _list_files(
    source: Path, destination: _Identity | None, follow_links: bool
) -> Iterator[Path | LeftOut]:
    """Yield the files below, those of each folder in the order of their names."""
    root = source.resolve()
    waiting, seen = [source], set()
    while waiting:
        path = waiting.pop()
        try:
            status = path.stat()
            folder = status.st_dev, status.st_ino
            if destination and (folder == destination or _is_linked_into(path, destination)):
                yield LeftOut(path, "refused", "it leads to the destination, not to originals")
            elif path.is_symlink() and not (follow_links or path.resolve().is_relative_to(root)):
                yield LeftOut(path, "refused", _LINK_OUT)
            elif stat.S_ISREG(status.st_mode):
                yield path
            elif not stat.S_ISDIR(status.st_mode):
                yield LeftOut(path, "no DICOM", "neither a file nor a folder")
            elif folder in seen:
                yield LeftOut(path, "no DICOM", "a link to a folder that is searched anyway")
            else:
                seen.add(folder)
                waiting.extend(sorted(path.iterdir(), reverse=True))
        except OSError as error:
            yield LeftOut(path, "refused", explain_os_error(error))


_Identity = tuple[int, int]
"""Device and inode."""


def _identify(path: Path) -> _Identity | None:
    """Return what a folder is, by whatever name; None if it isn't there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _is_linked_into(path: Path, destination: _Identity) -> bool:
    """Return whether a link leads to something within the destination."""
    return path.is_symlink() and destination in map(_identify, path.resolve().parents)


def _read_series(path: Path) -> tuple[str, str, str, str] | LeftOut:
    """Return Study and Series Instance UID, PatientID and issuer, or why there is no series."""
    has_prefix = False
    try:
        with path.open("rb") as file:
            if wrong := find_wrong_beginning(file):
                return LeftOut(path, *wrong)
            file.seek(0)
            has_prefix = _has_prefix(file.read(132))
            header = read_header(file)
            if _read_media_class(file, header) == _DIRECTORY_STORAGE:
                return LeftOut(path, "no image", _DIRECTORY)
            values = read_values(file, header, _WANTED, _NEEDED)
    except OSError as error:
        return LeftOut(path, "refused", explain_os_error(error))
    except UnusableDataset as error:
        if has_prefix:
            return LeftOut(path, "refused", str(error))
        return LeftOut(path, "no DICOM", NO_DICOM)
    sop_class, sop_instance, study, series = (_read_uid(values, tag) for tag in _UIDS)
    if sop_class == _DIRECTORY_STORAGE:
        return LeftOut(path, "no image", _DIRECTORY)
    if not has_prefix and not (sop_class and sop_instance):
        return LeftOut(path, "no DICOM", NO_DICOM)
    for uid, level in ((sop_instance, "SOP"), (study, "Study"), (series, "Series")):
        if not uid:
            return LeftOut(path, "refused", f"no {level}InstanceUID")
    encodings = parse_encodings(values.get(SPECIFIC_CHARACTER_SET, b""))
    patient_id, issuer = (read_text("LO", values.get(tag, b""), encodings) for tag in _PATIENT)
    return study, series, patient_id, issuer


def find_wrong_beginning(file: BinaryIO) -> tuple[Kind, str] | None:
    """Return why a file is not read: ``refused`` if it may be DICOM all the same.

    None if it begins as DICOM does, with a prefix or without.
    """
    head = file.read(132)
    if _has_prefix(head) or head[:2] in _FIRST_GROUPS:
        return None
    if head[:4] == b"DICM":
        return "refused", "DICM stands at its first byte, not behind 128 others (PS3.10)"
    if head[:2] == _GZIP and _has_prefix(_unpack(file)):
        return "refused", "it is compressed with gzip: unpack it first"
    if int.from_bytes(head[:2], "little") < _FIRST_GROUP and leads_to_sop_class(file):
        return "refused", "it begins with another group than 0002 or 0008"
    return "no DICOM", NO_DICOM


def _unpack(file: BinaryIO) -> bytes:
    file.seek(0)
    try:
        with GzipFile(fileobj=file) as unpacked:
            return unpacked.read(132)
    except (OSError, EOFError, zlib.error):
        return b""


def _has_prefix(head: bytes) -> bool:
    return head[128:] == b"DICM"


def _read_uid(values: Mapping[int, bytes], tag: int) -> str:
    return read_text("UI", values.get(tag, b""))


def _read_media_class(file: BinaryIO, header: Header) -> str:
    for each in header.meta:
        if each.tag == _MEDIA_STORAGE_SOP_CLASS_UID:
            file.seek(each.offset)
            return read_text("UI", file.read(each.length))
    return ""


def explain_os_error(error: OSError) -> str:
    """Return why a file can't be read, without the path that the error quotes."""
    return f"it can't be read: {str(error.strerror).lower()}"
