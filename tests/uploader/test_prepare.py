"""What is made ready to be sent: whole files that others can read, or a reason."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydicom import dcmread

from deid_hooks import Pseudonyms
from deid_hooks.records.fields import INDEXED_FIELDS
from deid_hooks.uploader.prepare import Preparer, Refused, Staged, Work
from tests.dicom.files import CT
from tests.dicom.round_trip import travel
from tests.dicom.test_elements import nested

_POSITION = b"\x20\x00\x32\x00"


def prepare(content: bytes, folder: Path) -> Staged | Refused:
    path, staging = folder / "image.dcm", folder / "staging"
    path.write_bytes(content)
    staging.mkdir()
    work = Work("basic", Pseudonyms("", b"s" * 32), INDEXED_FIELDS, staging)
    return Preparer(work).prepare(path)


def test_an_element_that_nobody_could_read_on_after_is_refused(tmp_path: Path) -> None:
    content = CT.read_bytes()
    before, _, after = content.partition(_POSITION + b"DS")
    size = 2 + int.from_bytes(after[:2], "little")
    # Implicit VR within explicit, and a length that a DS can't have.
    odd = _POSITION + b"\xff" * 4 + b"1\\2\\3 " + b"\xfe\xff\xdd\xe0\0\0\0\0"
    prepared = prepare(before + odd + after[size:], tmp_path)
    assert isinstance(prepared, Refused)
    assert "ImagePositionPatient, after InstanceNumber, has a value" in prepared.reason
    assert list((tmp_path / "staging").iterdir()) == []


def test_what_is_staged_can_be_read_to_its_end(tmp_path: Path) -> None:
    prepared = prepare(CT.read_bytes(), tmp_path)
    assert isinstance(prepared, Staged)
    assert dcmread(prepared.staged).PixelData == dcmread(CT).PixelData


def test_sequences_up_to_the_limit_are_delivered(tmp_path: Path) -> None:
    for engine in ("basic", "dicognito"):
        trip = travel(nested(50), tmp_path, engine)
        assert trip.refused == ""
        assert trip.restored == nested(50)


def test_a_file_that_no_memory_holds_is_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sysconf", lambda name: 1024)
    content = CT.read_bytes() + bytes(1 << 20)
    prepared = prepare(content, tmp_path)
    assert isinstance(prepared, Refused)
    assert "1 MiB of memory don't hold it twice" in prepared.reason


def test_memory_that_runs_out_is_told_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **named: object) -> None:
        raise MemoryError

    monkeypatch.setattr("deid_hooks.dicom.part10.dcmread", fail)
    prepared = prepare(CT.read_bytes(), tmp_path)
    assert isinstance(prepared, Refused)
    assert prepared.reason == "it can't be read: it needs more memory than there is"
