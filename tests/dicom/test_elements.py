"""Files are read to their last byte, or refused with the name of the element where that ends."""

from __future__ import annotations

import struct
import zlib
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deid_hooks import UnusableDataset
from deid_hooks.dicom.elements import Kind, Layout, read_layout
from deid_hooks.dicom.part10 import read_dicom
from tests.dicom.files import CT, FILES, leaves
from tests.dicom.handmade import (
    BIG,
    EXPLICIT,
    IMPLICIT,
    ITEM_END,
    JPEG_2000,
    PIXELS,
    SEQUENCE_END,
    UNDEFINED,
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

DEFLATED = "1.2.840.10008.1.2.1.99"
REFUSED = {
    "MR_truncated.dcm": "cut short, or the length of PixelData is wrong",
    "rtplan_truncated.dcm": "cut short, or the length of BeamSequence is wrong",
    "DICOMDIR-nooffset": "cut short, or the length of DirectoryRecordSequence is wrong",
    "SC_rgb_jpeg.dcm": "no value representation",
}


def layout(content: bytes) -> Layout:
    return read_layout(BytesIO(content))


def reason(content: bytes) -> str:
    with pytest.raises(UnusableDataset) as refused:
        layout(content)
    assert "Canary" not in str(refused.value)
    return str(refused.value)


def test_it_finds_what_pydicom_finds_in_all_of_its_files_or_names_what_is_wrong() -> None:
    for path in FILES:
        with path.open("rb") as file:
            if path.name in REFUSED:
                with pytest.raises(UnusableDataset, match=REFUSED[path.name]):
                    read_dicom(file)
                continue
            dataset, found = read_dicom(file)
            theirs = leaves(dataset)
            ours = {
                each.path: each
                for each in found.found.values()
                if each.kind is Kind.LEAF and each.tag & 0xFFFF
            }
            for where, each in ours.items():
                if where in theirs and isinstance(value := theirs[where][1], bytes):
                    found.data.seek(each.offset)
                    assert found.data.read(each.length) == value, (path.name, where)
            opaque = {where[:8] for where in theirs if where[:8] in ours}
            missing = [w for w, (vr, _) in theirs.items() if vr != "SQ" and w not in ours]
            assert {w[:8] for w in missing} - opaque <= {"preamble", "7FE00010"}, path.name


@pytest.mark.parametrize("cut", [1, 8, 63, 64, 65, 70, 72, 75])
def test_a_file_cut_in_its_last_element_is_cut_short(cut: int) -> None:
    assert "cut short" in reason(image()[:-cut])


def test_a_file_cut_between_elements_is_none_that_is_known_to_be_cut() -> None:
    assert "7FE00010" not in layout(image()[: -len(PIXELS)]).found


@pytest.mark.parametrize("cut", [4, 8, 9, 20, 48, 50, 60])
def test_encapsulated_pixels_that_are_cut_are_cut_short(cut: int) -> None:
    content = meta(JPEG_2000) + identity() + description() + encapsulated(b"", bytes(40))
    assert Kind.FRAGMENT in {each.kind for each in layout(content).found.values()}
    assert "cut short" in reason(content[:-cut])


@pytest.mark.parametrize("cut", [1, 7, 8, 9, 16, 20, 30])
@pytest.mark.parametrize("undefined", [True, False])
def test_a_sequence_that_is_cut_is_cut_short(cut: int, undefined: bool) -> None:
    inside = explicit(0x00400007, "LO", "desc") + explicit(0x00400009, "SH", "id")
    if undefined:
        value = item(inside + ITEM_END, UNDEFINED) + SEQUENCE_END
        sequence = explicit(0x00400275, "SQ", value, UNDEFINED)
    else:
        sequence = explicit(0x00400275, "SQ", item(inside))
    content = meta() + identity() + sequence
    assert "00400275.0.00400009" in layout(content).found
    assert "cut short" in reason(content[:-cut])


@pytest.mark.parametrize("vr", ["  ", "\0\0", "RE", "??", "us", "OX"])
def test_a_value_representation_that_is_none_is_no_cut(vr: str) -> None:
    content = meta() + identity() + description()
    odd = explicit(0x00280120, vr, bytes(2))
    assert reason(content + odd + PIXELS) == (
        "PixelPaddingValue, after PixelRepresentation, has a value representation that DICOM"
        " does not have"
    )


@pytest.mark.parametrize(
    ("behind", "expected"),
    [
        (bytes(300), "after PixelData come zero bytes, which are no element"),
        (b"\x0f\xff" * 62, "after PixelData, has a value representation that DICOM does not have"),
        (SEQUENCE_END, "after PixelData comes a delimiter"),
        (explicit(0x00020013, "SH", "TIANI_77"), "group 0002) stands once more"),
        (PIXELS, "PixelData stands twice"),
    ],
)
def test_what_stands_behind_the_pixels_is_named(behind: bytes, expected: str) -> None:
    assert expected in reason(image() + behind)


def test_zero_bytes_in_implicit_vr_are_no_element_either() -> None:
    pixels = implicit(0x7FE00010, "OW", bytes(64))
    assert "zero bytes" in reason(meta(IMPLICIT) + identity(implicit) + pixels + bytes(16))


def test_commands_and_a_second_file_meta_information_are_no_part_of_a_dataset() -> None:
    command = explicit(0x00000002, "UI", "1.2.3.")
    assert "elements of a command" in reason(meta() + command + identity() + PIXELS)
    second = explicit(0x00020010, "UI", even(IMPLICIT, "\0"))
    assert "TransferSyntaxUID stands twice" in reason(meta(JPEG_2000) + second + identity())


def test_an_element_twice_is_named_also_in_an_item() -> None:
    twice = explicit(0x00100020, "LO", "CANARY-88 ")
    assert "PatientID stands twice" in reason(image(more_10=twice))
    sequence = explicit(0x00101002, "SQ", item(twice + twice))
    named = reason(image(more_10=sequence))
    assert "PatientID in OtherPatientIDsSequence stands twice" in named


def test_pixels_have_to_be_as_the_transfer_syntax_says() -> None:
    head = identity() + description()
    assert "PixelData is not encapsulated" in reason(meta(JPEG_2000) + head + PIXELS)
    assert "PixelData is encapsulated" in reason(meta() + head + encapsulated(b"", bytes(64)))
    native = explicit(0x7FE00010, "OW", bytes(range(64)), UNDEFINED) + SEQUENCE_END
    assert "PixelData holds something that is no item" in reason(meta() + head + native)


@pytest.mark.parametrize("syntax", ["4.110", "4.112", "8.1", "4.201", "4.106"])
def test_transfer_syntaxes_newer_than_pydicom_are_read(syntax: str) -> None:
    known = meta(f"1.2.840.10008.1.2.{syntax}") + identity() + encapsulated(b"", bytes(40))
    assert layout(known).found["7FE00010.1"].length == 40


def test_what_the_bytes_are_counts_where_the_label_says_something_else() -> None:
    for syntax, encode in ((IMPLICIT, explicit), (EXPLICIT, implicit)):
        header = layout(meta(syntax) + identity(encode)).header
        assert (header.implicit, header.contradicts) == (encode is implicit, True)
    private = layout(meta("1.2.840.113619.5.2") + identity(implicit)).header
    assert (private.implicit, private.contradicts) == (True, False)
    assert "no value representation" in reason(meta(JPEG_2000) + identity(implicit))
    assert "another order" in reason(meta(BIG) + identity())


def test_text_is_no_sequence_because_a_dictionary_says_so() -> None:
    inside = implicit(0x0040A040, "CS", "TEXT") + implicit(0x0040A170, "CS", "NAMED TYPE")
    sequence = implicit(0x0040A730, "SQ", item(inside + ITEM_END, UNDEFINED), UNDEFINED)
    found = layout(meta(IMPLICIT) + identity(implicit) + sequence + SEQUENCE_END).found
    assert found["0040A730.0.0040A170"].kind is Kind.LEAF


def test_a_sequence_in_un_is_in_implicit_vr_also_in_big_endian() -> None:
    inside = implicit(0x00100010, "PN", even("Nested^Canary"))
    unknown = explicit(0x00081120, "UN", item(inside), UNDEFINED) + SEQUENCE_END
    assert "00081120.0.00100010" in layout(image(more_8=unknown)).found
    big = explicit(0x00080060, "CS", "OT", order=">")
    unknown = explicit(0x00081120, "UN", item(inside), UNDEFINED, order=">")
    end = implicit(0xFFFEE0DD, "")
    assert "00081120.0.00100010" in layout(meta(BIG) + big + unknown + end).found


def test_what_was_deflated_is_whole_or_cut_short() -> None:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    packed = packer.compress(identity() + PIXELS) + packer.flush()
    assert "7FE00010" in layout(meta(DEFLATED) + packed + b"\0").found
    assert reason(meta(DEFLATED) + packed[:-3]) == "the file is cut short"
    assert "bytes follow" in reason(meta(DEFLATED) + packed + bytes(9))
    assert "can't be inflated" in reason(meta(DEFLATED) + b"\xff" + packed)


def test_a_large_value_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.dcm"
    content = meta() + identity() + explicit(0x7FE00010, "OW", b"", 1 << 31)
    with path.open("wb") as file:
        file.write(content)
        file.truncate(len(content) + (1 << 31))  # a hole: no disk is needed
    with path.open("rb") as file:
        assert read_layout(file).found["7FE00010"].length == 1 << 31


def nested(depth: int) -> bytes:
    """A file with sequences in each other."""
    inside = b""
    for _ in range(depth):
        value = item(inside + ITEM_END, UNDEFINED)
        inside = explicit(0x0040A730, "SQ", value, UNDEFINED) + SEQUENCE_END
    return meta() + identity() + inside


def test_sequences_that_are_nested_too_deep_are_refused_as_that() -> None:
    assert len(layout(nested(50)).found) > 100
    for depth in (51, 300, 3000):
        assert reason(nested(depth)) == "ContentSequence is nested more than 50 sequences deep"


@given(st.binary(max_size=200), st.integers(0, 5000))
def test_no_bytes_end_in_anything_but_a_refusal(noise: bytes, at: int) -> None:
    content = CT.read_bytes()[:6000]
    broken = content[:at] + noise + content[at + len(noise) :]
    for each in (noise, broken, struct.pack("<HHI", 8, 8, len(noise)) + noise):
        with suppress(UnusableDataset):
            layout(each)
