from __future__ import annotations

import hashlib
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread, dcmwrite
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.multival import MultiValue
from pydicom.uid import (
    PYDICOM_IMPLEMENTATION_UID,
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    generate_uid,
)

from deid_hooks.engines import basic, dicognito
from deid_hooks.errors import SettingsError
from deid_hooks.records.keys import Pseudonyms

Engine = Callable[[Dataset], None]
Make = Callable[[str, Pseudonyms], Engine]
ENGINES: list[Make] = [basic.engine, dicognito.engine]
PIXELS = (0x7FE00008, 0x7FE00009, 0x7FE00010)

# A file that mixes implicit VR into explicit: pydicom can't write it back as it stands either.
NOT_WRITABLE = "SC_rgb_jpeg.dcm"

pytestmark = pytest.mark.filterwarnings("ignore")


def deidentified(path: Path, engine: Engine, *, pixels: bool = True) -> bytes | None:
    """The bytes of a file after the engine; None if it is refused."""
    dataset = dcmread(path, force=True)
    engine(dataset)
    if not pixels:
        for tag in PIXELS:
            dataset.pop(tag, None)
    written = BytesIO()
    try:
        dcmwrite(written, dataset)
    except TypeError:
        return None
    return written.getvalue()


def digests(paths: Iterable[Path], pseudonyms: Pseudonyms) -> dict[str, str]:
    engines: dict[str, Engine] = {
        "basic": basic.engine("", pseudonyms),
        "dicognito": dicognito.engine("", pseudonyms),
    }
    return {
        f"{name} {path}": hashlib.sha256(deidentified(path, engine) or b"refused").hexdigest()
        for path in paths
        for name, engine in engines.items()
    }


def an_image() -> FileDataset:
    dataset = FileDataset(None, {}, preamble=b"II*\0" + bytes(124))  # type: ignore[arg-type]
    dataset.ensure_file_meta()
    dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3.4")
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.SourceApplicationEntityTitle = "MODALITY7"
    dataset.file_meta.PrivateInformationCreatorUID = UID("1.2.3.99")
    dataset.file_meta.PrivateInformation = b"Doe"
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = "1.2.3.4"
    dataset.StudyInstanceUID = "1.2.3"
    dataset.SeriesInstanceUID = "1.2.3.1"
    dataset.AccessionNumber = "A1"
    dataset.PatientName = "Doe^John"
    dataset.PatientID = "4711"
    dataset.IssuerOfPatientID = "CLINIC"
    dataset.PatientBirthDate = "19700101"
    dataset.StudyDate = "20060801"
    return dataset


def item(**attributes: object) -> Dataset:
    dataset = Dataset()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def elements(dataset: Dataset) -> Iterator[DataElement]:
    for element in dataset:
        yield element
        if element.VR == "SQ":
            for each in element.value:
                yield from elements(each)


# Both engines


def test_every_readable_file_is_deidentified_or_refused(
    readable_files: list[Path], pseudonyms: Pseudonyms
) -> None:
    for make in ENGINES:
        engine = make("", pseudonyms)
        refused = {path.name for path in readable_files if deidentified(path, engine) is None}
        assert refused <= {NOT_WRITABLE}


def test_two_processes_make_the_same_files(
    readable_files: list[Path], pseudonyms: Pseudonyms
) -> None:
    # In the other process the files come in another order, and text hashes differ.
    script = """
import json, sys
from pathlib import Path
import warnings
warnings.simplefilter("ignore")
from tests.uploader.test_engines import digests
from deid_hooks.records.keys import Pseudonyms
paths = [Path(path) for path in json.load(sys.stdin)]
print(json.dumps(digests(reversed(paths), Pseudonyms("TRIAL7", bytes(range(32))))))
"""
    other = subprocess.run(
        [sys.executable, "-c", script],
        input=json.dumps([str(path) for path in readable_files]),
        env=os.environ | {"PYTHONHASHSEED": "4711", "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(other.stdout) == digests(readable_files, pseudonyms)


@pytest.mark.parametrize("make", ENGINES)
def test_two_projects_have_no_pseudonym_in_common(make: Make, pseudonyms: Pseudonyms) -> None:
    one, other = an_image(), an_image()
    make("", pseudonyms)(one)
    make("", Pseudonyms("TRIAL8", pseudonyms.key))(other)
    for keyword in ("PatientID", "PatientName", "AccessionNumber", "SOPInstanceUID"):
        assert one[keyword].value != other[keyword].value


@pytest.mark.parametrize("make", ENGINES)
def test_worker_processes_can_have_an_engine(make: Make, pseudonyms: Pseudonyms) -> None:
    engine = make("", pseudonyms)
    one, other = an_image(), an_image()
    engine(one)
    pickle.loads(pickle.dumps(engine))(other)
    assert one == other


@pytest.mark.parametrize("make", ENGINES)
def test_preamble_and_file_meta_information_are_replaced(
    make: Make, pseudonyms: Pseudonyms
) -> None:
    dataset = an_image()
    make("", pseudonyms)(dataset)
    assert dataset.preamble == bytes(128)
    meta = dataset.file_meta
    assert meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID != "1.2.3.4"
    assert meta.MediaStorageSOPClassUID == CTImageStorage
    assert meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert meta.ImplementationClassUID == PYDICOM_IMPLEMENTATION_UID
    assert {element.keyword for element in meta} == {
        "FileMetaInformationVersion",
        "MediaStorageSOPClassUID",
        "MediaStorageSOPInstanceUID",
        "TransferSyntaxUID",
        "ImplementationClassUID",
        "ImplementationVersionName",
    }


@pytest.mark.parametrize("make", ENGINES)
def test_a_file_without_file_meta_information_gets_one(
    make: Make,
    pseudonyms: Pseudonyms,
    folders_of_pydicom: list[Path],
) -> None:
    for name in ("ExplVR_BigEndNoMeta.dcm", "ExplVR_LitEndNoMeta.dcm", "rtstruct.dcm"):
        path = folders_of_pydicom[0] / name
        written = deidentified(path, make("", pseudonyms))
        assert written is not None
        before, after = dcmread(path, force=True), dcmread(BytesIO(written))
        assert after.original_encoding == before.original_encoding
        assert after.file_meta.MediaStorageSOPInstanceUID == after.SOPInstanceUID


@pytest.mark.parametrize("make", ENGINES)
def test_what_pixels_say_is_not_claimed_to_be_gone(make: Make, pseudonyms: Pseudonyms) -> None:
    for burned_in, removed in ((None, "YES"), ("NO", "YES"), ("YES", "NO")):
        dataset = an_image()
        if burned_in:
            dataset.BurnedInAnnotation = burned_in
        make("", pseudonyms)(dataset)
        assert dataset.PatientIdentityRemoved == removed


@pytest.mark.parametrize("make", ENGINES)
def test_a_character_set_is_left_alone(
    make: Make,
    pseudonyms: Pseudonyms,
    readable_files: list[Path],
) -> None:
    def character_sets(dataset: Dataset) -> list[str]:
        return [str(e.value) for e in elements(dataset) if e.tag == 0x00080005]

    kept = 0
    for path in readable_files:
        dataset = dcmread(path, force=True, stop_before_pixels=True)
        before = dataset.get("SpecificCharacterSet")
        make("", pseudonyms)(dataset)
        assert dataset.get("SpecificCharacterSet") == before
        assert "ANONYMIZED" not in character_sets(dataset)
        kept += before is not None
    assert kept > 50


@pytest.mark.parametrize("make", ENGINES)
def test_equal_patient_ids_of_two_issuers_stay_apart(make: Make, pseudonyms: Pseudonyms) -> None:
    one, other, same = an_image(), an_image(), an_image()
    other.IssuerOfPatientID = "PRACTICE"
    for dataset in (one, other, same):
        make("", pseudonyms)(dataset)
    assert one.PatientID == same.PatientID == pseudonyms.label("4711", "CLINIC")
    assert one.PatientID != other.PatientID


@pytest.mark.parametrize("make", ENGINES)
def test_what_is_empty_is_not_made_the_same_for_everybody(
    make: Make, pseudonyms: Pseudonyms
) -> None:
    dataset = an_image()
    dataset.PatientID = dataset.AccessionNumber = ""
    make("", pseudonyms)(dataset)
    assert dataset.PatientID == dataset.AccessionNumber == ""


@pytest.mark.parametrize(
    ("make", "module", "name"),
    [
        (basic.engine, "dicomanonymizer", "dicom-anonymizer: pip install 'deid-hooks[basic]'"),
        (dicognito.engine, "dicognito.anonymizer", "pip install 'deid-hooks[dicognito]'"),
    ],
)
def test_a_missing_library_is_named_with_the_way_to_get_it(
    make: Make,
    module: str,
    name: str,
    pseudonyms: Pseudonyms,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SettingsError) as caught:
        make("", pseudonyms)
    assert name in str(caught.value)


@pytest.mark.parametrize("make", ENGINES)
def test_an_argument_is_refused(make: Make, pseudonyms: Pseudonyms) -> None:
    with pytest.raises(SettingsError, match="takes no argument"):
        make("profile.json", pseudonyms)


# The Basic Profile


def identifying(dataset: Dataset) -> Iterator[tuple[str, bytes]]:
    """Keyword and bytes of every name, identifier and UID, at every depth."""
    keep = ("SOPClass", "TransferSyntax", "CodingSchemeUID", "ContextUID", "MappingResourceUID")
    for element in elements(dataset):
        values = element.value if isinstance(element.value, MultiValue) else [element.value]
        for value in values:
            if element.VR == "PN" and value:
                yield element.keyword, value.original_string or str(value).encode()
            elif element.VR == "UI" and value:
                if not UID(value).type and not any(word in element.keyword for word in keep):
                    yield element.keyword, str(value).encode()
            elif element.keyword in ("PatientID", "OtherPatientIDs", "AccessionNumber") and value:
                yield element.keyword, str(value).encode()


def test_no_name_identifier_or_uid_is_left_at_any_depth(
    readable_files: list[Path], pseudonyms: Pseudonyms
) -> None:
    engine = basic.engine("", pseudonyms)
    searched = 0
    for path in readable_files:
        original = dcmread(path, force=True, stop_before_pixels=True)
        written = deidentified(path, engine, pixels=False)
        if written is None or "DirectoryRecordSequence" in original:  # never uploaded
            continue
        if original.file_meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            plain = dcmread(BytesIO(written))
            plain.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            inflated = BytesIO()
            dcmwrite(inflated, plain)
            written = inflated.getvalue()
        written = written.replace(PYDICOM_IMPLEMENTATION_UID.encode(), b"")  # of whoever writes
        for keyword, value in identifying(original):
            if len(value) > 2:
                assert value not in written, (path.name, keyword)
                searched += 1
    assert searched > 1000


def test_a_reference_leads_to_the_file_it_led_to(pseudonyms: Pseudonyms) -> None:
    engine = basic.engine("", pseudonyms)
    referenced, referring = an_image(), an_image()
    sop_class, uid = CTImageStorage, "1.2.3.4"

    def reference() -> Dataset:
        return item(ReferencedSOPClassUID=sop_class, ReferencedSOPInstanceUID=uid)

    referring.SOPInstanceUID = "1.2.3.5"
    referring.ReferencedImageSequence = [reference()]
    referring.ReferencedSeriesSequence = [
        item(SeriesInstanceUID="1.2.3.1", ReferencedInstanceSequence=[reference()])
    ]
    referring.ContentSequence = [item(ReferencedSOPSequence=[reference()])]
    engine(referenced)
    engine(referring)
    series = referring.ReferencedSeriesSequence[0]
    assert series.SeriesInstanceUID == referenced.SeriesInstanceUID
    for found in (
        referring.ReferencedImageSequence[0],
        series.ReferencedInstanceSequence[0],
        referring.ContentSequence[0].ReferencedSOPSequence[0],
    ):
        assert found.ReferencedSOPInstanceUID == referenced.SOPInstanceUID
        assert found.ReferencedSOPClassUID == sop_class


def test_every_reference_between_the_files_of_pydicom_still_leads_there(
    readable_files: list[Path], pseudonyms: Pseudonyms
) -> None:
    engine = basic.engine("", pseudonyms)

    def uids(dataset: Dataset, keyword: str) -> list[str]:
        return [str(e.value) for e in elements(dataset) if e.keyword == keyword and e.value]

    kept = 0
    for path in readable_files:
        dataset = dcmread(path, force=True, stop_before_pixels=True)
        before = uids(dataset, "ReferencedSOPInstanceUID")
        engine(dataset)
        after = set(uids(dataset, "ReferencedSOPInstanceUID"))
        assert after <= {pseudonyms.uid(uid) for uid in before}
        kept += len(after)
    assert kept > 20


def test_the_profile_is_named(pseudonyms: Pseudonyms) -> None:
    dataset = an_image()
    basic.engine("", pseudonyms)(dataset)
    assert dataset.DeidentificationMethod == basic.METHOD
    assert len(basic.METHOD) <= 64
    (code,) = dataset.DeidentificationMethodCodeSequence
    assert (code.CodeValue, code.CodingSchemeDesignator) == ("113100", "DCM")
    assert code.CodeMeaning == "Basic Application Confidentiality Profile"
    assert dataset.LongitudinalTemporalInformationModified == "REMOVED"


def test_an_earlier_deidentification_stays_named_beside_it(pseudonyms: Pseudonyms) -> None:
    dataset = an_image()
    dataset.DeidentificationMethod = "by hand"
    dataset.DeidentificationMethodCodeSequence = [item(CodeValue="113107")]
    for _ in range(2):
        basic.engine("", pseudonyms)(dataset)
    assert dataset.DeidentificationMethod == ["by hand", basic.METHOD]
    codes = [code.CodeValue for code in dataset.DeidentificationMethodCodeSequence]
    assert codes == ["113107", "113100"]


def test_name_and_patient_id_become_the_label_of_the_subject(pseudonyms: Pseudonyms) -> None:
    dataset = an_image()
    basic.engine("", pseudonyms)(dataset)
    assert dataset.PatientID == dataset.PatientName == pseudonyms.label("4711", "CLINIC")
    assert "IssuerOfPatientID" not in dataset
    assert dataset.AccessionNumber == pseudonyms.token("AccessionNumber", "A1", 12)


def test_a_patient_in_a_sequence_has_a_label_too(pseudonyms: Pseudonyms) -> None:
    dataset = an_image()
    dataset.SourcePatientGroupIdentificationSequence = [
        item(PatientName="Roe^Jane", PatientID="4712", IssuerOfPatientID="CLINIC"),
        item(PatientName="Doe^John"),
    ]
    basic.engine("", pseudonyms)(dataset)
    jane, john = dataset.SourcePatientGroupIdentificationSequence
    assert jane.PatientID == jane.PatientName == pseudonyms.label("4712", "CLINIC")
    assert john.PatientName == dataset.PatientName


def test_private_attributes_go_at_every_depth(
    readable_files: list[Path], pseudonyms: Pseudonyms
) -> None:
    engine = basic.engine("", pseudonyms)
    gone = 0
    for path in readable_files:
        dataset = dcmread(path, force=True, stop_before_pixels=True)
        gone += sum(element.tag.is_private for element in elements(dataset))
        engine(dataset)
        assert not any(element.tag.is_private for element in elements(dataset)), path.name
    assert gone > 500


def test_what_is_well_known_is_kept(pseudonyms: Pseudonyms) -> None:
    dataset = an_image()
    talairach = UID("1.2.840.10008.1.4.1.1")
    private_class = generate_uid()
    dataset.FrameOfReferenceUID = talairach
    dataset.SOPClassUID = private_class
    dataset.ConversionSourceAttributesSequence = [item(ReferencedSOPClassUID=private_class)]
    dataset.CodingSchemeIdentificationSequence = [item(CodingSchemeUID="2.16.840.1.113883.6.96")]
    basic.engine("", pseudonyms)(dataset)
    assert dataset.FrameOfReferenceUID == talairach
    assert dataset.SOPClassUID == private_class
    assert dataset.ConversionSourceAttributesSequence[0].ReferencedSOPClassUID == private_class
    kept = dataset.CodingSchemeIdentificationSequence[0].CodingSchemeUID
    assert kept == "2.16.840.1.113883.6.96"


def test_a_uid_that_the_profile_forgot_is_replaced(pseudonyms: Pseudonyms) -> None:
    dataset = an_image()
    dataset.SOPInstanceUIDOfConcatenationSource = "1.2.3.4"
    dataset.FailedSOPInstanceUIDList = ["1.2.3.4", "1.2.3.5"]
    basic.engine("", pseudonyms)(dataset)
    assert dataset.SOPInstanceUIDOfConcatenationSource == dataset.SOPInstanceUID
    assert dataset.FailedSOPInstanceUIDList == [
        pseudonyms.uid("1.2.3.4"),
        pseudonyms.uid("1.2.3.5"),
    ]


def test_names_and_dates_that_the_profile_forgot_are_emptied(pseudonyms: Pseudonyms) -> None:
    dataset = an_image()
    dataset.EvaluatorName = "Roe^Jane"
    dataset.ExpiryDate = "20060801"
    basic.engine("", pseudonyms)(dataset)
    assert dataset.EvaluatorName == ""
    assert dataset.ExpiryDate != "20060801"


def test_an_attribute_that_nobody_knows_is_removed(pseudonyms: Pseudonyms) -> None:
    dataset = an_image()
    dataset.add_new(0x00104FFE, "LO", "Doe^John")
    basic.engine("", pseudonyms)(dataset)
    assert 0x00104FFE not in dataset


def test_overlays_lose_their_contents_and_keep_their_shape(pseudonyms: Pseudonyms) -> None:
    dataset = an_image()
    dataset.add_new(0x60020010, "US", 512)
    dataset.add_new(0x60023000, "OW", bytes(8))
    dataset.add_new(0x50020030, "SH", "curve")
    basic.engine("", pseudonyms)(dataset)
    assert dataset[0x60020010].value == 512
    assert 0x60023000 not in dataset
    assert 0x50020030 not in dataset


def test_an_emptied_sequence_has_no_items(pseudonyms: Pseudonyms) -> None:
    dataset = an_image()
    dataset.AcquisitionContextSequence = [item(TextValue="Doe")]
    basic.engine("", pseudonyms)(dataset)
    assert len(dataset.AcquisitionContextSequence) == 0


def test_a_replaced_sequence_holds_dummies_to_its_last_depth(pseudonyms: Pseudonyms) -> None:
    dataset = an_image()
    inner = item(TextValue="Doe", SelectorAttribute=0x00100010, MeasurementUnitsCodeSequence=[])
    dataset.ContentSequence = [item(SpecificCharacterSet="ISO_IR 192", ContentSequence=[inner])]
    basic.engine("", pseudonyms)(dataset)
    (outer,) = dataset.ContentSequence
    (inner,) = outer.ContentSequence
    assert outer.SpecificCharacterSet == "ISO_IR 192"
    assert inner.get("TextValue") != "Doe"
    assert "SelectorAttribute" not in inner, "there is no dummy for an attribute tag"


# dicognito


def test_dicognito_names_itself_as_the_method(pseudonyms: Pseudonyms) -> None:
    dataset = an_image()
    dicognito.engine("", pseudonyms)(dataset)
    assert dataset.DeidentificationMethod == "DICOGNITO"


def test_dicognito_replaces_names_dates_and_uids(pseudonyms: Pseudonyms) -> None:
    before, after = an_image(), an_image()
    dicognito.engine("", pseudonyms)(after)
    for keyword in (
        "AccessionNumber",
        "PatientBirthDate",
        "PatientID",
        "PatientName",
        "SOPInstanceUID",
        "SeriesInstanceUID",
        "StudyDate",
        "StudyInstanceUID",
    ):
        assert after[keyword].value
        assert after[keyword].value != before[keyword].value, keyword
