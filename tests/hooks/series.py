"""Synthetic series, an engine, and the values that must never be shown."""

from __future__ import annotations

import copy
import hashlib
import traceback
from pathlib import Path

import pydicom
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset

from deid_hooks import Acquisition, DeidHooks

TEST_FILES = Path(pydicom.__file__).parent / "data" / "test_files"

CANARIES = {
    "PatientName": "Canary^Yellow",
    "PatientID": "CANARY-4711",
    "AccessionNumber": "CANARYACC",
    "StudyDescription": "Canary of the patient",
}


def read(name: str = "CT_small.dcm") -> FileDataset:
    return dcmread(TEST_FILES / name)


def series(length: int = 3, patient: str = "") -> list[Dataset]:
    """Return instances of one series of one patient, whose identifying values are canaries."""
    first = read()
    for keyword, value in CANARIES.items():
        setattr(first, keyword, value)
    if patient:
        first.PatientID = patient
    first.SeriesInstanceUID = f"{first.SeriesInstanceUID}.{len(patient) or 1}"
    datasets: list[Dataset] = []
    for number in range(length):
        dataset = copy.deepcopy(first)
        dataset.InstanceNumber = number
        dataset.SOPInstanceUID = f"{first.SOPInstanceUID}.{number}"
        datasets.append(dataset)
    return datasets


def engine(dataset: Dataset) -> None:
    """De-identify in place, the same way every time."""
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        setattr(dataset, keyword, deid_uid(str(dataset[keyword].value)))
    dataset.PatientName = "SUBJ-007"
    dataset.PatientID = "SUBJ-007"
    for keyword in ("AccessionNumber", "StudyDescription"):
        if keyword in dataset:
            delattr(dataset, keyword)


def deid_uid(uid: str) -> str:
    return f"2.25.{int(hashlib.sha256(uid.encode()).hexdigest()[:20], 16)}"


def fill(acquisition: Acquisition, datasets: list[Dataset]) -> list[str]:
    """De-identify the datasets within the acquisition, and return the UIDs they have now."""
    for dataset in datasets:
        with acquisition.deidentifying(dataset):
            engine(dataset)
    return [str(dataset.SOPInstanceUID) for dataset in datasets]


def logged(hooks: DeidHooks, length: int = 3) -> tuple[str, list[str]]:
    """Log a series, and return its log id and the de-identified SOP Instance UIDs."""
    with hooks.acquisition() as acquisition:
        uids = fill(acquisition, series(length))
        acquisition.post_deid()
    return acquisition.log_id, uids


def shown(error: BaseException) -> str:
    """Return what a program prints of an error that nobody caught."""
    return "".join(traceback.format_exception(error))


def assert_hides_everything(text: str) -> None:
    assert not [value for value in CANARIES.values() if value.lower() in text.lower()]
    assert "canary" not in text.lower()
