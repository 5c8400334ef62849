"""Flywheel's de-identification profiles: ``engine`` for uploaders, ``log`` for programs on them."""

from __future__ import annotations

import logging
import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmwrite

from deid_hooks import Pseudonyms, SettingsError, UnusableDataset


def engine(argument: str, pseudonyms: Pseudonyms) -> FlywheelEngine:
    """Return the engine of the profile at a path, YAML or JSON; SettingsError for a bad one.

    What replaces an original is the profile's affair: the pseudonyms of deid-hooks are not used.
    """
    if not argument:
        raise SettingsError("engine flywheel needs a profile: flywheel:profile.yml")
    return FlywheelEngine(Path(argument).absolute())


class FlywheelEngine:
    """De-identifies a dataset in place by the ``dicom`` part of a profile. Picklable.

    The same in every process, but for what a profile itself makes random: ``jitter``. Raises
    UnusableDataset for what the library passes over.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._profile = dicom_profile(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._path,)

    def __call__(self, dataset: Dataset) -> None:
        # A state of its own: one for all would pass over instances that share a UID.
        state = self._profile.create_file_state()
        record, _ = self._profile.load_record(state, _Memory(dataset), "instance.dcm")
        if record is None:
            raise UnusableDataset("the profile's library takes it for no DICOM")
        for field in self._profile.fields:
            field.deidentify(self._profile, state, record)
        if self._profile.modified_attributes:
            self._profile.add_encrypted_modified_attributes(record)
        _put(record, dataset)


def dicom_profile(path: Path) -> Any:
    """Return the ``dicom`` part of a profile. Raises SettingsError, which quotes nothing of it."""
    with warnings.catch_warnings(action="ignore"):  # of what it is built on
        from flywheel_migration.deidentify import ValidationError, load_profile

    # Its messages quote UIDs and dates.
    logging.getLogger("flywheel_migration").setLevel(logging.CRITICAL + 1)
    logging.getLogger("fw_file").setLevel(logging.CRITICAL + 1)
    if not path.is_file():
        raise SettingsError(f"There is no profile at {path}.")
    try:
        profile = load_profile(str(path)).get_file_profile("dicom")
    except ValidationError as error:
        raise SettingsError(
            f"The profile {path} is not valid: {len(error.errors)} errors."
        ) from None
    except Exception as error:  # noqa: BLE001 - its text may quote a key or a salt
        kind = type(error).__name__
        raise SettingsError(f"The profile {path} can't be read: {kind}.") from None
    if profile is None:
        raise SettingsError(f"The profile {path} has no part for DICOM.")
    if profile.pixel_actions or profile.detect:
        # The library sends an instance on as it was where scrubbing its pixels failed.
        raise SettingsError(
            f"The profile {path} scrubs pixels, which can't be relied on: do that before."
        )
    return profile


class _Memory:
    """A file in memory, as the library's file systems show one: nothing identifying on a disk."""

    def __init__(self, dataset: Dataset) -> None:
        file = BytesIO()
        dcmwrite(file, dataset)
        self._content = file.getvalue()

    def getsyspath(self, path: str) -> BytesIO:
        return BytesIO(self._content)  # the library reads a file as well as a path

    def exists(self, path: str) -> bool:
        return True

    def open(self, path: str, mode: str = "r") -> BytesIO:
        return BytesIO(self._content)


def _put(record: Dataset, dataset: Dataset) -> None:
    """Make ``dataset`` what the library made of it."""
    dataset.clear()
    dataset.update({tag: record.get_item(tag) for tag in record.keys()})  # noqa: SIM118
    dataset.file_meta = record.file_meta
    dataset.preamble = getattr(record, "preamble", None)
