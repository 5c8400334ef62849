"""What left about a subject, where to, and what became of it."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from pydicom import dcmread

from tests.admin.conftest import SERIES, Desk

CT = SERIES / "77654033" / "CT2"


def of_issuer(folder: Path, issuer: str, number: str = "4711") -> Path:
    """A series of a patient of this number at this issuer."""
    folder.mkdir()
    for path in CT.iterdir():
        dataset = dcmread(path)
        dataset.PatientID, dataset.IssuerOfPatientID = number, issuer
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
            setattr(dataset, keyword, f"{dataset[keyword].value}.{len(issuer)}")
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.save_as(folder / path.name)
    return folder


def test_every_acquisition_is_reported_at_each_of_its_destinations(delivered: Desk) -> None:
    delivered.upload(SERIES / "77654033" / "CT2", to="elsewhere")
    rows = delivered("report", "PatientID=77654033").rows
    assert len(rows) == 5
    ct = [row for row in rows if row["Modality"] == "CT"]
    assert {Path(row["destination"]).name for row in ct} == {"delivered", "elsewhere"}
    assert {row["outcome"] for row in rows} == {"uploaded"}
    assert {row["withdrawn"] for row in rows} == {None}
    sent = {dcmread(path).SOPInstanceUID for path in delivered.folder.glob("elsewhere/*/*/*")}
    assert set(ct[0]["deid_SOPInstanceUID"]) == sent
    assert ct[0]["instances"] == 4
    assert ct[0]["subject"] == dcmread(next(delivered.folder.glob("elsewhere/*/*/*"))).PatientID


def test_two_patients_of_one_number_are_told_apart(desk: Desk) -> None:
    desk.upload(of_issuer(desk.folder / "a", "A"))
    desk.upload(of_issuer(desk.folder / "b", "BB"))
    both = desk("report", "PatientID=4711")
    assert [row["IssuerOfPatientID"] for row in both.rows] == ["A", "BB"]
    assert "2 subjects" in both.err
    table = desk("report", "PatientID=4711", "--format", "table").out
    assert table.count("PatientID 4711 of ") == 2
    one = desk("report", "PatientID=4711", "IssuerOfPatientID=A")
    assert len(one.rows) == 1
    assert "subjects" not in one.err


def test_a_report_is_a_look(delivered: Desk) -> None:
    delivered("report", "Doe", "--reason", "she asked")
    assert delivered.trail() == [("report", "Doe", "she asked")]


def test_a_csv_report_has_what_an_archive_needs_to_delete(delivered: Desk) -> None:
    said = delivered("report", "Modality=CT", "--format", "csv").out
    [row] = csv.DictReader(io.StringIO(said))
    assert len(row["deid_SOPInstanceUID"].split(" | ")) == 4
    assert row["deid_StudyInstanceUID"].startswith("2.25.")


def test_nothing_found_is_said(delivered: Desk) -> None:
    nothing = delivered("report", "Nobody")
    assert (nothing.code, nothing.out) == (1, "")
