"""The values of indexed fields as people read them, whatever their value representation."""

from __future__ import annotations

from io import BytesIO

import pytest
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from deid_hooks import capture, changes
from deid_hooks.dicom.difference import assemble
from deid_hooks.query.parser import parse_terms
from tests.hooks.series import read

FIELDS = ("Rows", "GridFrameOffsetVector", "FrameIncrementPointer", "VectorGridData")


def described() -> Dataset:
    made = read()
    made.Rows = 128
    made.RecommendedDisplayFrameRateInFloat = 2.5
    made.TagAngleSecondAxis = -3
    made.FrameIncrementPointer = [0x00181063, 0x00181065]
    made.ReferencePixelX0 = -7
    made.FrameNumbersOfInterest = [1, 22]
    return made


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]
)
def test_numbers_are_text(syntax: UID) -> None:
    made = described()
    if "PixelData" in made:
        del made.PixelData
    made.file_meta.TransferSyntaxUID = syntax
    buffer = BytesIO()
    dcmwrite(
        buffer,
        made,
        implicit_vr=syntax == ImplicitVRLittleEndian,
        little_endian=syntax != ExplicitVRBigEndian,
    )
    buffer.seek(0)
    for dataset in (made, dcmread(buffer)):
        found = capture(dataset)
        assert found.text(0x00280010) == "128"
        assert found.text(0x00280009) == "00181063\\00181065"
        assert found.text(0x00189219) == "-3"
        assert found.text(0x00186020) == "-7"
        assert found.text(0x00286020) == "1\\22"


def test_what_has_no_text_is_no_value() -> None:
    made = described()
    made.ReferencedStudySequence = [Dataset()]
    made.EncapsulatedDocument = b"%PDF"
    found = capture(made)
    assert found.texts((0x00081110, 0x00420011, 0x00280010)) == (None, None, "128")


def test_a_number_of_an_indexed_field_is_found() -> None:
    original = described()
    before = capture(original)
    original.PatientName = "X"
    change = changes(before, original, FIELDS)
    entry = assemble([change], "A" * 32, "TRIAL7", "test", FIELDS)
    assert entry.fields["Rows"] == ("128",)
    assert parse_terms(["Rows=128"]).matches(entry)
    assert not parse_terms(["Rows=129"]).matches(entry)
