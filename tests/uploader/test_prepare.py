"""What is made ready to be sent: whole files that others can read, or a reason."""

from __future__ import annotations

from pathlib import Path

from pydicom import dcmread

from deid_hooks import Pseudonyms
from deid_hooks.records.fields import INDEXED_FIELDS
from deid_hooks.uploader.prepare import Preparer, Refused, Staged, Work
from tests.dicom.files import CT

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
