from __future__ import annotations

from pathlib import Path

import pydicom
import pytest
from pydicom import dcmread

from deid_hooks.records.keys import Pseudonyms


@pytest.fixture(scope="session")
def folders_of_pydicom() -> list[Path]:
    data = Path(str(pydicom.data.__file__)).parent
    return [data / "test_files", data / "charset_files"]


@pytest.fixture(scope="session")
def files_of_pydicom(folders_of_pydicom: list[Path]) -> list[Path]:
    return sorted(p for f in folders_of_pydicom for p in f.rglob("*") if p.is_file())


@pytest.fixture(scope="session")
def readable_files(files_of_pydicom: list[Path]) -> list[Path]:
    """Files with a prefix, and those without one that are DICOM all the same."""
    return [
        path
        for path in files_of_pydicom
        if path.read_bytes()[128:132] == b"DICM"
        or "SOPClassUID" in dcmread(path, force=True, stop_before_pixels=True)
    ]


@pytest.fixture
def pseudonyms() -> Pseudonyms:
    return Pseudonyms("TRIAL7", bytes(range(32)))
