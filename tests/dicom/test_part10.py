"""What is delivered and what comes back are files as PS3.10 has them, in the encoding they name."""

from __future__ import annotations

import struct
import subprocess
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread

from deid_hooks.dicom.elements import read_header
from tests.dicom.files import CT, DATA
from tests.dicom.handmade import (
    EXPLICIT,
    IMPLICIT,
    PIXELS,
    description,
    encapsulated,
    explicit,
    identity,
    image,
    implicit,
    meta,
)
from tests.dicom.round_trip import travel, values
from tests.needed import program

GENERAL_ELECTRIC = "1.2.840.113619.5.2"


def meta_length(content: bytes) -> tuple[int, int]:
    """What (0002,0000) says, and what is there."""
    assert content[132:140] == struct.pack("<HH", 2, 0) + b"UL\x04\0"
    (said,) = struct.unpack("<I", content[140:144])
    return said, read_header(BytesIO(content)).start - 144


@pytest.mark.parametrize("engine", ["basic", "dicognito"])
def test_the_length_of_the_file_meta_information_is_there_and_true(
    tmp_path: Path, engine: str
) -> None:
    trip = travel(image(), tmp_path, engine)
    for content in (trip.delivered, trip.restored):
        said, there = meta_length(content)
        assert said == there
    assert trip.restored == image()


def test_other_readers_read_it(tmp_path: Path) -> None:
    dcmdump = program("dcmdump")
    names = ("CT_small.dcm", "JPEG2000.dcm", "image_dfl.dcm", "MR_small_bigendian.dcm")
    for content in [image(), *((DATA / "test_files" / name).read_bytes() for name in names)]:
        trip = travel(content, tmp_path)
        for number, made in enumerate((trip.delivered, trip.restored)):
            path = tmp_path / f"{number}.dcm"
            path.write_bytes(made)
            done = subprocess.run([dcmdump, "+E", path], capture_output=True, text=True)
            assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("syntax", ["4.110", "4.112", "8.1", "4.201", "4.106"])
def test_a_transfer_syntax_that_pydicom_does_not_know_leaves_and_comes_back(
    tmp_path: Path, syntax: str
) -> None:
    named = f"1.2.840.10008.1.2.{syntax}"
    content = meta(named) + identity() + description() + encapsulated(b"", bytes(40))
    trip = travel(content, tmp_path)
    assert read_header(BytesIO(trip.delivered)).syntax == named
    assert trip.restored == content


@pytest.mark.parametrize("encode", [implicit, explicit])
def test_a_private_transfer_syntax_keeps_the_encoding_that_its_bytes_have(
    tmp_path: Path, encode: object
) -> None:
    rest = identity(encode) + description(encode)  # type: ignore[arg-type]
    pixels = implicit(0x7FE00010, "OW", bytes(64)) if encode is implicit else PIXELS
    content = meta(GENERAL_ELECTRIC) + rest + pixels
    trip = travel(content, tmp_path)
    assert values(trip.delivered)["7FE00010"][1] == values(content)["7FE00010"][1]
    assert trip.restored == content


@pytest.mark.parametrize("named", [IMPLICIT, EXPLICIT])
def test_a_transfer_syntax_that_the_bytes_contradict_is_put_right_and_comes_back(
    tmp_path: Path, named: str
) -> None:
    encode, true = (explicit, EXPLICIT) if named == IMPLICIT else (implicit, IMPLICIT)
    pixels = encode(0x7FE00010, "OW", bytes(64))
    content = meta(named) + identity(encode) + description(encode) + pixels
    trip = travel(content, tmp_path)
    header = read_header(BytesIO(trip.delivered))
    assert (header.syntax, header.contradicts) == (true, False)
    assert trip.restored == content


def test_a_file_without_file_meta_information_gets_one_and_comes_back(tmp_path: Path) -> None:
    content = identity(implicit) + description(implicit) + implicit(0x7FE00010, "OW", bytes(64))
    trip = travel(content, tmp_path)
    assert read_header(BytesIO(trip.delivered)).syntax == IMPLICIT
    assert trip.restored == content


def test_an_engine_that_leaves_out_file_meta_information_is_helped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deid_hooks.engines.dicognito.renew_file_meta", lambda dataset: None)
    monkeypatch.setattr("pydicom.Dataset.ensure_file_meta", lambda dataset: None)
    content = identity() + description() + PIXELS
    trip = travel(content, tmp_path, "dicognito")
    assert read_header(BytesIO(trip.delivered)).syntax == EXPLICIT
    assert trip.restored == content


def test_pixels_are_those_of_the_source(tmp_path: Path) -> None:
    (tmp_path / "delivered.dcm").write_bytes(travel(CT.read_bytes(), tmp_path).delivered)
    assert dcmread(tmp_path / "delivered.dcm").PixelData == dcmread(CT).PixelData
