"""What is delivered and what comes back are files as PS3.10 has them, in the encoding they name."""

from __future__ import annotations

import struct
import subprocess
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from pydicom import Dataset, dcmread

from deid_hooks import UnusableDataset, restore
from deid_hooks.dicom.difference import assemble
from deid_hooks.dicom.elements import read_header, read_layout
from deid_hooks.dicom.part10 import read_dicom, refuse_altered, write_dicom
from deid_hooks.records.fields import INDEXED_FIELDS
from deid_hooks.records.model import make_log_id
from tests.dicom.files import CT, DATA
from tests.dicom.handmade import (
    BIG,
    EXPLICIT,
    IMPLICIT,
    ITEM_END,
    JPEG_2000,
    PIXELS,
    SECONDARY_CAPTURE,
    SEQUENCE_END,
    UNDEFINED,
    Encoder,
    description,
    encapsulated,
    even,
    explicit,
    identity,
    image,
    implicit,
    item,
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


def test_file_meta_information_in_implicit_vr_is_written_as_it_should_be_and_that_is_said(
    tmp_path: Path,
) -> None:
    elements = [
        implicit(0x00020001, "OB", b"\0\1"),
        implicit(0x00020002, "UI", even(SECONDARY_CAPTURE, "\0")),
        implicit(0x00020010, "UI", even(EXPLICIT, "\0")),
    ]
    content = bytes(128) + b"DICM" + b"".join(elements) + identity() + description() + PIXELS
    trip = travel(content, tmp_path)
    assert trip.not_restored == ("the implicit VR of the file meta information",)
    back = {path: value for path, (_, value) in values(trip.restored).items()}
    assert back == {path: value for path, (_, value) in values(content).items()}


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


@pytest.mark.parametrize("cut", [*range(1, 9), 64, 65, 68, 72, 75, 76])
def test_no_image_is_delivered_without_its_pixels(tmp_path: Path, cut: int) -> None:
    refused = travel(image()[:-cut], tmp_path).refused
    assert "it is cut short" in refused or "the file is cut short" in refused


# What was written is verified


def without(*tags: int) -> Any:
    """A writer that loses elements."""

    def write(dataset: Dataset, file: BinaryIO, encoding: tuple[bool, bool]) -> None:
        for tag in tags:
            del dataset[tag]
        write_dicom(dataset, file, encoding)

    return write


def altering(old: bytes, new: bytes) -> Any:
    """A writer that writes other bytes."""

    def write(dataset: Dataset, file: BinaryIO, encoding: tuple[bool, bool]) -> None:
        memory = BytesIO()
        write_dicom(dataset, memory, encoding)
        assert old in memory.getvalue()
        file.write(memory.getvalue().replace(old, new))

    return write


@pytest.mark.parametrize(
    ("writer", "expected"),
    [
        (without(0x7FE00010), "PixelData would be lost"),
        (without(0x00280010), "Rows would be lost"),
        (altering(PIXELS[-9:], bytes(9)), "PixelData would be written with another value"),
        (altering(PIXELS, PIXELS + explicit(0x7FE10010, "LO", "ours")), "would be written, which"),
        (altering(PIXELS, PIXELS + bytes(8)), "zero bytes"),
        (altering(PIXELS, PIXELS[:-1]), "cut short"),
        (altering(EXPLICIT.encode() + b"\0", b""), ""),
        (altering(b"IS\x02\x001 ", b"IS\x01\x001"), "InstanceNumber would be written with an odd"),
        (altering(b"CHEST ", b"chest "), "CodeMeaning in AnatomicRegionSequence would be"),
    ],
)
def test_what_is_not_written_as_it_was_read_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: Any, expected: str
) -> None:
    monkeypatch.setattr("deid_hooks.uploader.prepare.write_dicom", writer)
    code = explicit(0x00080104, "LO", "CHEST ")
    more = explicit(0x00082218, "SQ", item(code))
    content = image(more_8=more)
    refused = travel(content, tmp_path).refused
    assert expected in refused != ""


def test_what_the_log_holds_may_differ_and_nothing_beside_it(tmp_path: Path) -> None:
    trip = travel(image(), tmp_path)
    assert trip.changes is not None
    paths = set(trip.changes.originals)
    source, written = (read_layout(BytesIO(c)) for c in (image(), trip.delivered))
    refuse_altered(source, written, paths)
    for path in ("00100010", "00120062", "00020012"):
        with pytest.raises(UnusableDataset):
            refuse_altered(source, written, paths - {path})


def test_items_in_implicit_vr_are_not_delivered_as_they_are(tmp_path: Path) -> None:
    code = implicit(0x00080104, "LO", "CHEST ")
    content = image(more_8=explicit(0x00082218, "SQ", item(code)))
    assert "00082218.0.00080104" in read_layout(BytesIO(content)).found
    trip = travel(content, tmp_path)
    assert values(trip.delivered)["00082218.0.00080104"] == ("LO", b"CHEST ")


# Odd lengths


def odd_file(encode: Encoder = explicit, named: str = EXPLICIT) -> bytes:
    """A file of elements that have an odd length, nested ones and an icon among them."""
    icon = encode(0x00280010, "US", b"\1\0") + encode(0x7FE00010, "OB", bytes(range(9)))
    comment = encode(0x00204000, "LT", "abc")
    return (
        meta(named)
        + identity(
            encode, more_8=encode(0x00080070, "LO", "ACME1") + encode(0x00082111, "ST", "odd")
        ).replace(even("Testcase^Canary").encode(), b"Testcase^Canary#")
        + encode(0x00181030, "LO", "xyz")
        + encode(0x00185100, "CS", "FFS")
        + comment
        + encode(0x00289110, "SQ", item(comment))
        + encode(0x00880200, "SQ", item(icon))
    )


@pytest.mark.parametrize("engine", ["basic", "dicognito"])
@pytest.mark.parametrize(("encode", "named"), [(explicit, EXPLICIT), (implicit, IMPLICIT)])
def test_odd_lengths_are_padded_and_come_back_odd(
    tmp_path: Path, engine: str, encode: Encoder, named: str
) -> None:
    content = odd_file(encode, named) + encode(0x7FE00010, "OW", bytes(range(63)))
    trip = travel(content, tmp_path, engine)
    found = values(trip.delivered)
    assert all(len(value) % 2 == 0 for _, value in found.values())
    assert found["00185100"][1] == b"FFS "
    assert found["7FE00010"][1] == bytes(range(63)) + b"\0"
    assert trip.not_restored == ()
    assert values(trip.restored) == values(content)


@pytest.mark.parametrize("fragments", [(b"", bytes(41)), (b"", bytes(41), bytes(7), bytes(8))])
@pytest.mark.parametrize("engine", ["basic", "dicognito"])
def test_fragments_of_odd_length_are_padded_and_come_back_odd(
    tmp_path: Path, engine: str, fragments: tuple[bytes, ...]
) -> None:
    content = meta(JPEG_2000) + identity() + description() + encapsulated(*fragments)
    trip = travel(content, tmp_path, engine)
    delivered = [v for path, (_, v) in values(trip.delivered).items() if path[:8] == "7FE00010"]
    assert delivered == [each + bytes(len(each) % 2) for each in fragments]
    assert trip.restored == content


def test_a_fragment_that_an_offset_table_counts_gets_no_pad(tmp_path: Path) -> None:
    table = struct.pack("<II", 0, 49)
    rest = encapsulated(table, bytes(41), bytes(8))
    refused = travel(meta(JPEG_2000) + identity() + description() + rest, tmp_path).refused
    assert refused == "PixelData can't be padded: its offset table counts fragments of odd length"
    last = encapsulated(table, bytes(40), bytes(7))
    content = meta(JPEG_2000) + identity() + description() + last
    assert travel(content, tmp_path).restored == content


def test_pixels_that_somebody_changed_since_are_named_where_a_pad_would_go(
    tmp_path: Path,
) -> None:
    content = meta() + identity() + description() + explicit(0x7FE00010, "OW", bytes(63))
    trip = travel(content, tmp_path)
    assert trip.changes is not None
    entry = assemble([trip.changes], make_log_id(), "", "test", INDEXED_FIELDS)
    dataset, _ = read_dicom(BytesIO(trip.delivered))
    dataset.PixelData = bytes(70)
    assert restore(dataset, entry).not_restored == ("PixelData",)


def test_an_icon_is_a_value_like_any_other(tmp_path: Path) -> None:
    for icon in (explicit(0x7FE00010, "OW", bytes(range(64))), encapsulated(b"", bytes(40))):
        more = explicit(0x00880200, "SQ", item(icon))
        content = meta(JPEG_2000) + identity() + description() + more + encapsulated(b"", b"abcd")
        trip = travel(content, tmp_path)
        assert "00880200" not in values(trip.delivered)  # basic removes it
        assert trip.not_restored == ()
        assert trip.restored == content


# Sequences that pydicom would encode in another way


NESTED = implicit(0x00100010, "PN", even("Nested^Canary")) + implicit(0x00081155, "UI", "1.2.3\0")
UNKNOWN = {
    "undefined": explicit(0x00081120, "UN", item(NESTED), UNDEFINED) + SEQUENCE_END,
    "defined": explicit(0x00081120, "UN", item(NESTED)),
    "items": explicit(0x00081120, "UN", item(NESTED + ITEM_END, UNDEFINED), UNDEFINED)
    + SEQUENCE_END,
    "kept": explicit(0x00081140, "UN", item(NESTED), UNDEFINED) + SEQUENCE_END,
    "private": explicit(0x00090010, "LO", "ACME")
    + explicit(0x00091001, "UN", item(NESTED), UNDEFINED)
    + SEQUENCE_END,
    "implicit items": explicit(0x00081140, "SQ", item(NESTED)),
    "group length": explicit(
        0x00081140, "SQ", item(explicit(0x00080000, "UL", bytes(4)) + explicit(0x00081155, "UI"))
    ),
}


@pytest.mark.parametrize("engine", ["basic", "dicognito"])
@pytest.mark.parametrize("kind", UNKNOWN)
def test_sequences_come_back_in_the_encoding_that_they_had(
    tmp_path: Path, engine: str, kind: str
) -> None:
    content = meta() + identity().replace(
        explicit(0x00100010, "PN", even("Testcase^Canary")),
        UNKNOWN[kind] + explicit(0x00100010, "PN", even("Testcase^Canary")),
    )
    content += description() + PIXELS
    trip = travel(content, tmp_path, engine)
    assert b"Canary" not in trip.delivered
    assert trip.not_restored == ()
    assert trip.restored == content
    if engine == "dicognito" and kind not in ("group length", "defined"):
        assert trip.changes is not None
        assert "1.2.3" in dict(trip.changes.uids).values()
        assert any("Nested^Canary" in text for text in trip.changes.originals.values())


def test_a_large_one_is_kept_beside_its_items(tmp_path: Path) -> None:
    text = implicit(0x00204000, "LT", "x" * 70_000)
    large = explicit(0x00081140, "UN", item(NESTED + text), UNDEFINED) + SEQUENCE_END
    content = image(more_10=large)
    trip = travel(content, tmp_path)
    assert values(trip.restored) == values(content)


def test_the_policy_identifying_keeps_no_bytes_of_it(tmp_path: Path) -> None:
    trip = travel(image(more_8=UNKNOWN["kept"]), tmp_path)
    assert trip.changes is not None
    entry = assemble([trip.changes], make_log_id(), "", "test", INDEXED_FIELDS, "identifying")
    assert "raw" not in entry.originals
    dataset, _ = read_dicom(BytesIO(trip.delivered))
    assert "ReferencedImageSequence" in restore(dataset, entry).not_restored


@pytest.mark.parametrize("engine", ["basic", "dicognito"])
def test_text_where_the_dictionary_has_a_sequence_is_delivered_and_comes_back(
    tmp_path: Path, engine: str
) -> None:
    purpose = implicit(0x0040A170, "CS", "NAMED TYPE")
    inside = implicit(0x0040A040, "CS", "TEXT") + purpose
    content = implicit(0x0040A730, "SQ", item(inside + ITEM_END, UNDEFINED), UNDEFINED)
    for rest in (purpose, content + SEQUENCE_END, implicit(0x0040A730, "SQ", item(inside))):
        source = meta(IMPLICIT) + identity(implicit) + rest
        trip = travel(source, tmp_path, engine)
        if rest == purpose or engine == "dicognito":  # basic replaces what a content item says
            assert b"NAMED TYPE" in trip.delivered
        assert trip.restored == source


def test_a_sequence_in_un_in_big_endian_is_never_read_for_another(tmp_path: Path) -> None:
    encode = partial(explicit, order=">")
    head = identity(encode) + encode(0x0040A730, "UN", item(NESTED), UNDEFINED) + SEQUENCE_END
    trip = travel(meta(BIG) + head, tmp_path)
    assert trip.refused == "it is not valid DICOM"
