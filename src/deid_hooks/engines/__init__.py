"""Engines: what de-identifies a dataset, how one is found, and what each must write into a file."""

from __future__ import annotations

import re
from collections.abc import Callable

from pydicom import __version__ as _pydicom_version
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    PYDICOM_IMPLEMENTATION_UID,
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from deid_hooks import Pseudonyms, SettingsError, find_installed
from deid_hooks.dicom.dictionary import name_element
from deid_hooks.plugins import ENGINES

__all__ = [
    "Engine",
    "add_method",
    "make_engine",
    "mark_identity_removed",
    "renew_file_meta",
]

Engine = Callable[[Dataset], None]
"""De-identifies a dataset in place."""


def make_engine(name: str, pseudonyms: Pseudonyms) -> Engine:
    """Return the engine of a name, or of ``NAME:ARGUMENT``, ready for one project.

    The entry point is a factory, which is called with the argument and the pseudonyms. Raises
    SettingsError for an engine that isn't installed, PluginError for one that can't be imported
    or made.
    """
    plain, _, argument = name.partition(":")
    known = find_installed(ENGINES)
    if plain not in known:
        raise SettingsError(f"There is no engine {plain}. Installed are {', '.join(known)}.")
    engine: Engine = known[plain].make(argument, pseudonyms)
    return engine


_AT_TAG = re.compile(r"With tag \(([0-9A-Fa-f]{4}),\s?([0-9A-Fa-f]{4})\) got exception: ")


def find_failed_element(error: BaseException) -> str:
    """Return the keyword of the element at which pydicom walked when it failed, or ``""``.

    Nothing else of its text is used: it quotes values.
    """
    found = _AT_TAG.match(str(error))
    return name_element(int("".join(found.groups()), 16)) if found else ""


# (implicit VR, little endian), for files without file meta information
_SYNTAX_OF_ENCODING: dict[tuple[bool | None, bool | None], UID] = {
    (True, True): ImplicitVRLittleEndian,
    (False, True): ExplicitVRLittleEndian,
    (False, False): ExplicitVRBigEndian,
}


def renew_file_meta(dataset: Dataset) -> None:
    """Replace preamble and file meta information (PS3.15, section E.1.1; PS3.10, section 7.1).

    What the file is (SOP class, transfer syntax) stays; its SOP Instance UID follows the dataset;
    what tells where it came from (application entities, private information) goes.
    """
    old = getattr(dataset, "file_meta", None) or FileMetaDataset()
    new = FileMetaDataset()
    new.FileMetaInformationVersion = b"\0\1"
    if sop_class := old.get("MediaStorageSOPClassUID") or dataset.get("SOPClassUID"):
        new.MediaStorageSOPClassUID = sop_class
    if sop_instance := dataset.get("SOPInstanceUID"):
        new.MediaStorageSOPInstanceUID = sop_instance
    if syntax := old.get("TransferSyntaxUID") or _SYNTAX_OF_ENCODING.get(dataset.original_encoding):
        new.TransferSyntaxUID = syntax
    new.ImplementationClassUID = PYDICOM_IMPLEMENTATION_UID
    new.ImplementationVersionName = f"PYDICOM {_pydicom_version}"[:16]
    dataset.file_meta = new
    dataset.preamble = bytes(128)


def mark_identity_removed(dataset: Dataset) -> None:
    """Set Patient Identity Removed (PS3.3, section C.7.1.1), which speaks of the pixels too.

    So it is NO where the file itself says that its pixels identify (Burned In Annotation).
    """
    burned_in = dataset.get("BurnedInAnnotation") == "YES"
    dataset.PatientIdentityRemoved = "NO" if burned_in else "YES"


def add_method(dataset: Dataset, method: str) -> None:
    """Add to De-identification Method, beside what an earlier de-identification wrote there."""
    earlier = dataset.get("DeidentificationMethod") or []
    methods = [earlier] if isinstance(earlier, str) else list(earlier)
    if method not in methods:
        dataset.DeidentificationMethod = [*methods, method]
