"""What was made from de-identified images finds its way home by its references."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pytest
from highdicom.sr.coding import CodedConcept
from pydicom import Dataset, dcmread
from pydicom.sr.codedict import codes

from tests.admin.conftest import SERIES, Desk

CT = SERIES / "77654033" / "CT2"
ALGORITHM = highdicom.AlgorithmIdentificationSequence(
    name="none", version="1", family=codes.cid7162.ArtificialIntelligence
)
DEVICE: dict[str, Any] = {
    "manufacturer": "test",
    "manufacturer_model_name": "test",
    "software_versions": "1",
    "device_serial_number": "1",
}


def images(folder: Path) -> list[Dataset]:
    found = (dcmread(path) for path in sorted(folder.rglob("*.dcm")))
    return [each for each in found if each.Modality == "CT"]


def segmentation(sources: list[Dataset]) -> Dataset:
    concept = CodedConcept("91723000", "SCT", "Anatomical Structure")
    segment = highdicom.seg.SegmentDescription(
        1, "one", concept, concept, "AUTOMATIC", algorithm_identification=ALGORITHM
    )
    frames = len(sources)
    mask = np.ones((frames, sources[0].Rows, sources[0].Columns), dtype=np.uint8)
    return highdicom.seg.Segmentation(
        source_images=sources,
        pixel_array=mask,
        segmentation_type="BINARY",
        segment_descriptions=[segment],
        series_instance_uid=highdicom.UID(),
        series_number=100,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        **DEVICE,
    )


def report(sources: list[Dataset]) -> Dataset:
    person = highdicom.sr.PersonObserverIdentifyingAttributes("Reader^Any")
    observer = highdicom.sr.ObserverContext(codes.DCM.Person, person)
    image = highdicom.sr.SourceImageForMeasurementGroup.from_source_image(sources[0])
    group = highdicom.sr.MeasurementsAndQualitativeEvaluations(
        highdicom.sr.TrackingIdentifier(uid=highdicom.UID(), identifier="one"),
        source_images=[image],
    )
    content = highdicom.sr.MeasurementReport(
        highdicom.sr.ObservationContext(observer_person_context=observer),
        codes.cid100.CTUnspecifiedBodyRegion,
        imaging_measurements=[group],
        title=codes.DCM.ImagingMeasurementReport,
    )
    return highdicom.sr.Comprehensive3DSR(
        evidence=sources,
        content=content[0],
        series_instance_uid=highdicom.UID(),
        series_number=101,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="test",
    )


def saved(dataset: Dataset, desk: Desk) -> Path:
    path = desk.folder / "made" / "object.dcm"
    path.parent.mkdir(exist_ok=True)
    dataset.save_as(path)
    return path


@pytest.mark.parametrize("make", [segmentation, report])
def test_it_gets_patient_study_and_references_and_keeps_its_own_uids(
    delivered: Desk, make: object
) -> None:
    assert callable(make)
    made = make(images(delivered.folder / "delivered"))
    saved(made, delivered)
    row = delivered("reidentify", "made", "--derived", "--output", "home").rows[0]
    assert (row["status"], row["not_restored"]) == ("derived", [])
    home = dcmread(row["output"])
    originals = [dcmread(path) for path in sorted(CT.iterdir())]
    first = originals[0]
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex"):
        assert home.get(keyword) == first.get(keyword), keyword
    for keyword in ("StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "AccessionNumber"):
        assert home.get(keyword, "") == first.get(keyword, ""), keyword
    assert home.SOPInstanceUID == made.SOPInstanceUID == home.file_meta.MediaStorageSOPInstanceUID
    assert home.SeriesInstanceUID == made.SeriesInstanceUID
    assert home.get("PatientIdentityRemoved") == "NO"
    assert "DeidentificationMethod" not in home
    references = {str(e.value) for e in home.iterall() if e.keyword == "ReferencedSOPInstanceUID"}
    assert references
    assert references <= {each.SOPInstanceUID for each in originals}
    if "FrameOfReferenceUID" in home:
        assert home.FrameOfReferenceUID == first.FrameOfReferenceUID
    text = str(home)
    assert not [e for e in images(delivered.folder / "delivered") if e.SOPInstanceUID in text]


def test_without_being_asked_for_it_is_not_touched(delivered: Desk) -> None:
    saved(segmentation(images(delivered.folder / "delivered")), delivered)
    assert delivered("reidentify", "made", "--output", "home").rows[0]["status"] == "not found"


def test_references_to_two_patients_are_refused(delivered: Desk) -> None:
    another = delivered.folder / "another"
    another.mkdir()
    for path in CT.iterdir():
        dataset = dcmread(path)
        dataset.PatientID, dataset.PatientName = "OTHER", "Roe^Jane"
        dataset.SOPInstanceUID += ".7"
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.SeriesInstanceUID += ".7"
        dataset.save_as(another / path.name)
    delivered.upload(another, to="others")
    theirs = images(delivered.folder / "others")[0].SOPInstanceUID
    made = segmentation(images(delivered.folder / "delivered"))
    item = made.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0]
    item.ReferencedSOPInstanceUID = theirs
    saved(made, delivered)
    back = delivered("reidentify", "made", "--derived", "--output", "home")
    assert back.code == 1
    assert "two patients" in back.rows[0]["reason"]
    assert "Roe" not in back.out + back.err


def test_a_pseudonym_alone_leads_to_nobody(delivered: Desk) -> None:
    [first, *_] = images(delivered.folder / "delivered")
    stranger = Dataset()
    stranger.file_meta = first.file_meta
    stranger.SOPClassUID, stranger.SOPInstanceUID = first.SOPClassUID, "1.2.3.4"
    stranger.SeriesInstanceUID, stranger.StudyInstanceUID = "1.2.3.5", "1.2.3.6"
    stranger.PatientID, stranger.PatientName = first.PatientID, first.PatientName
    stranger.DeidentificationMethod = first.DeidentificationMethod
    saved(stranger, delivered)
    back = delivered("reidentify", "made", "--derived", "--output", "home")
    assert (back.code, back.rows[0]["status"]) == (1, "refused")


def test_a_name_in_another_script_survives_the_character_set_of_the_object(desk: Desk) -> None:
    source = desk.folder / "source"
    source.mkdir()
    for path in CT.iterdir():
        dataset = dcmread(path)
        dataset.SpecificCharacterSet = "ISO_IR 144"
        dataset.PatientName = "Люкceмбypг"
        dataset.save_as(source / path.name)
    desk.upload(source)
    made = segmentation(images(desk.folder / "delivered"))
    made.SpecificCharacterSet = "ISO_IR 100"
    made.SeriesDescription = "Übersicht"
    saved(made, desk)
    row = desk("reidentify", "made", "--derived", "--output", "home").rows[0]
    home = dcmread(row["output"])
    assert home.PatientName == "Люкceмбypг"
    assert home.SeriesDescription == "Übersicht"
