"""Out of the log and into it again, without loss, without identifiers, without the forgotten."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pydicom
import pytest
from pydicom import dcmread
from pydicom.uid import UID

from deid_hooks import DeidHooks
from deid_hooks.access import AccessRecorder
from deid_hooks.records.model import Entry
from tests.admin.conftest import SERIES, Desk

CHARSETS = Path(pydicom.__file__).parent / "data" / "charset_files"


def other(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """Another log of the same site."""
    folder = desk.folder / "other"
    folder.mkdir()
    return Desk(folder, monkeypatch)


def entries(desk: Desk) -> dict[str, Entry]:
    with DeidHooks.load("test", url=desk.url) as hooks:
        ids = [log_id for (log_id,) in desk.sql("SELECT id FROM deid_log")]
        return {entry.log_id: entry for entry in hooks.gate.open_log().entries(ids)}


def exported(desk: Desk, *words: str) -> Path:
    path = desk.folder / f"export{len(list(desk.folder.glob('export*')))}.jsonl"
    assert desk("export", *words, "--output", path).code == 0
    return path


def test_an_export_is_imported_into_another_log_without_loss(
    delivered: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivered.upload(CHARSETS)
    delivered("block", "PatientID=77654033", "--reason", "r")
    path, before = exported(delivered), entries(delivered)
    another = other(delivered, monkeypatch)
    assert another("import", path).code == 0
    assert entries(another) == before
    for table in ("deid_log_upload", "deid_log_block"):
        assert len(another.sql(f"SELECT * FROM {table}")) == len(
            delivered.sql(f"SELECT * FROM {table}")
        )
    assert another("import", path).code == 0
    assert entries(another) == before


def test_an_export_of_some_has_those_and_what_became_of_them(delivered: Desk) -> None:
    records = [json.loads(line) for line in exported(delivered, "Modality=CT").open()]
    *records, end = records
    assert [record["record"] for record in records] == ["entry", "upload", "upload"]
    assert len({record["log_id"] for record in records}) == 1
    assert [len(record["seal"]) for record in records] == [10] * 3
    assert list(end) == ["part"]
    assert delivered("access", "--format", "jsonl").rows[0]["action"] == "export"
    assert len(delivered("access").rows[0]["log_ids"]) == 1


def test_an_export_is_its_owners_only_and_overwrites_nothing(delivered: Desk) -> None:
    path = exported(delivered)
    assert path.stat().st_mode & 0o777 == 0o600
    before = path.read_bytes()
    assert delivered("export", "--output", path).code == 2
    assert path.read_bytes() == before
    assert delivered("export", "--output", "no/where").code == 2


def left_behind(folder: Path) -> Path:
    """What a killed run left beside a folder where files can't be without a name."""
    beside = folder.parent / f".{folder.name}.deid-hooks"
    beside.mkdir(mode=0o700)
    (beside / "0123456789abcdef").write_text("an original")
    return beside


def test_what_a_killed_export_or_reidentification_left_goes_with_the_next(delivered: Desk) -> None:
    (delivered.folder / "exports").mkdir()
    left = left_behind(delivered.folder / "exports")
    assert delivered("export", "--output", "exports/log.jsonl").code == 0
    assert not left.exists()
    left = left_behind(delivered.folder / "originals-of-yesterday")
    assert delivered("reidentify", "delivered", "--output", "originals").code == 0
    assert not left.exists()


def test_an_export_that_is_broken_is_refused_and_gives_its_entries_on_request(
    delivered: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivered("block", "PatientID=77654033", "--reason", "r")
    path = exported(delivered)
    whole = path.read_bytes()
    another = other(delivered, monkeypatch)
    lines = whole.splitlines(keepends=True)
    for broken in (
        b'{"odd": "\xff"}\n' + whole,
        b'{"deep": ' + b"[" * 100_000 + b"\n" + whole,
        b"".join(lines[:-1]),  # cut off
        b"".join(lines[:-3]),
        b"".join([*lines[1:]]),
        whole + lines[0],
        whole.replace(b'"uploaded"', b'"failed"', 1),
        b"".join(line for line in lines if b'"record":"block"' not in line),
    ):
        path.write_bytes(broken)
        refused = another("import", path)
        assert refused.code == 1
        assert "othing was imported" in refused.err
        assert entries(another) == {}
    path.write_bytes(b'{"odd": "\xff"}\n' + whole)
    done = another("import", path, "--as-foreign-history")
    assert done.code == 3
    assert "1 not understood" in done.err
    assert "left out" in done.err
    assert len(entries(another)) == 4
    assert another.sql("SELECT count(*) FROM deid_log_block") == [(0,)]


def test_a_part_of_an_export_that_was_altered_or_cut_off_is_refused(
    delivered: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = exported(delivered, "Modality=CT")
    whole = path.read_bytes()
    another = other(delivered, monkeypatch)
    for broken in (
        whole.replace(b'"uploaded"', b'"failed"', 1),
        b"".join(whole.splitlines(keepends=True)[:-1]),
    ):
        path.write_bytes(broken)
        assert another("import", path).code == 1
    path.write_bytes(whole)
    assert another("import", path).code == 0
    assert len(entries(another)) == 1


def test_an_import_lifts_no_block_and_is_in_the_trail(
    delivered: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivered("block", "PatientID=77654033", "--reason", "r")
    delivered("block", "PatientID=77654033", "--lift", "--reason", "r")
    path = exported(delivered)
    another = other(delivered, monkeypatch)
    done = another("import", path, "--reason", "moved here")
    assert done.code == 0
    assert "1 lifts of blocks, left out" in done.err
    assert another.sql("SELECT lifted FROM deid_log_block") == [(0,)]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert ("import", f"deid-hooks, SHA-256 {digest}", "moved here") in another.trail()


def test_an_export_that_is_changed_once_it_was_checked_is_imported_as_it_was(
    delivered: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = exported(delivered)
    whole = path.read_bytes()
    another = other(delivered, monkeypatch)
    record = AccessRecorder.record

    def change_before(access: AccessRecorder, asked: str, log_ids: Sequence[str]) -> None:
        path.write_bytes(whole.replace(b'"uploaded"', b'"failed"'))
        record(access, asked, log_ids)

    monkeypatch.setattr(AccessRecorder, "record", change_before)
    assert another("import", path).code == 0
    assert whole != path.read_bytes()
    assert another.sql("SELECT DISTINCT event FROM deid_log_upload") == [
        ("cleared",),
        ("uploaded",),
    ]
    digest = hashlib.sha256(whole).hexdigest()
    assert [asked for _, asked, _ in another.trail()] == [f"deid-hooks, SHA-256 {digest}"]


def test_the_join_list_holds_no_identifier(delivered: Desk) -> None:
    said = delivered("export", "--join", "--format", "csv").out
    rows = list(csv.DictReader(io.StringIO(said)))
    assert len(rows) == 7
    sent = {dcmread(p).SOPInstanceUID for p in delivered.folder.glob("delivered/*/*/*")}
    assert {row["deid_SOPInstanceUID"] for row in rows} == sent
    originals = {
        value
        for entry in entries(delivered).values()
        for values in entry.fields.values()
        for value in values
        if len(value) > 4
    }
    assert originals
    assert not [value for value in originals if value in said]


def test_what_left_as_it_was_is_blank_in_the_join_list(desk: Desk) -> None:
    with desk.hooks() as hooks, hooks.acquisition("P") as acquisition:
        dataset = dcmread(SERIES / "77654033" / "CT2" / "17106")
        with acquisition.deidentifying(dataset):
            dataset.PatientName = "x"
        acquisition.post_deid()
    listed = desk("export", "--join")
    [row] = listed.rows
    assert row["subject"] == row["deid_SOPInstanceUID"] == row["deid_StudyInstanceUID"] == ""
    assert "left out" in listed.err


def test_a_spreadsheet_has_a_row_for_each_entry(delivered: Desk) -> None:
    rows = list(csv.DictReader(io.StringIO(delivered("export", "--format", "csv").out)))
    assert len(rows) == 4
    assert rows[0]["PatientName"] == "Doe^Archibald"
    assert rows[0]["deid_PatientID"].startswith("SUBJ-")
    assert rows[0]["uploads"].endswith("uploaded")


def test_what_was_forgotten_is_not_brought_back(delivered: Desk) -> None:
    path = exported(delivered)
    delivered("forget", "Modality=CT", "--reason", "r", "--yes")
    again = delivered("import", path)
    assert "1 forgotten" in again.err
    assert len(entries(delivered)) == 3


def test_an_altered_export_or_one_of_another_site_is_refused(
    delivered: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = exported(delivered)
    text = path.read_text()
    path.write_text(text.replace("Doe^Archibald", "Roe^Jane"))
    another = other(delivered, monkeypatch)
    refused = another("import", path)
    assert (refused.code, entries(another)) == (1, {})
    assert "altered" in refused.err
    assert "Roe" not in refused.err
    path.write_text(text)
    monkeypatch.setenv("DEID_HOOKS_SECRET", "cd" * 32)
    assert "another site secret" in another("import", path).err


FLYWHEEL = """src_path,type,StudyInstanceUID,SeriesInstanceUID,SOPInstanceUID,PatientName,Station
a.dcm,before,1.2.1,1.2.2,1.2.3,Müller^Ada,S1
a.dcm,after,2.25.1,2.25.2,2.25.3,,
b.dcm,before,1.2.1,1.2.2,1.2.4,Müller^Ada,S1
b.dcm,after,2.25.1,2.25.2,2.25.4,,
c.dcm,before,1.2.1,1.2.9,1.2.5,Mül"ler,S1
broken over
lines,x
c.dcm,after,2.25.1,2.25.9,2.25.5,,
"""


def test_the_csv_of_flywheel_is_imported_by_series(desk: Desk) -> None:
    path = desk.folder / "deid.csv"
    path.write_text(FLYWHEEL, encoding="utf-8")
    done = desk("import", path, "--project", "TRIAL7")
    assert done.code == 3
    assert "2 not understood" in done.err
    assert "1 columns left out" in done.err
    [log_id] = desk("search", "Muller Ada", "project=TRIAL7", "--format", "ids").ids
    [entry] = [e for e in entries(desk).values() if e.log_id == log_id]
    assert [i.uid for i in entry.instances] == ["1.2.3", "1.2.4"]
    assert desk("search", "deid:SOPInstanceUID=2.25.4", "--format", "ids").ids == [log_id]
    again = desk("import", path, "--project", "TRIAL7")
    assert "2 there already" in again.err
    assert len(entries(desk)) == 2


def test_a_forgotten_import_stays_forgotten(desk: Desk) -> None:
    path = desk.folder / "deid.csv"
    path.write_text(FLYWHEEL, encoding="utf-8")
    desk("import", path)
    [log_id] = desk("search", "Muller Ada", "--format", "ids").ids
    desk("forget", log_id, "--reason", "r", "--yes")
    assert "1 forgotten" in desk("import", path).err
    assert desk("search", "Muller Ada").code == 1


def test_what_flywheel_logged_leads_back_and_says_that_it_is_not_all(desk: Desk) -> None:
    (desk.folder / "deid.csv").write_text(FLYWHEEL, encoding="utf-8")
    desk("import", "deid.csv")
    dataset = dcmread(SERIES / "77654033" / "CT2" / "17106")
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = UID("2.25.3")
    dataset.PatientName, dataset.SpecificCharacterSet = "", "ISO_IR 100"
    dataset.save_as(desk.folder / "a.dcm")
    row = desk("reidentify", "a.dcm", "--output", "back").rows[0]
    assert "imported" in row["reason"]
    back = dcmread(row["output"])
    assert (back.PatientName, back.SOPInstanceUID) == ("Müller^Ada", "1.2.3")


@pytest.mark.parametrize("turned", [False, True])
def test_an_idmap_of_ctp_is_searched_from_both_sides(desk: Desk, turned: bool) -> None:
    def sheet(name: str, titles: tuple[str, str], *pairs: tuple[str, str]) -> Path:
        rows = [titles, *((f'=("{a}")', f'=("{b}")') for a, b in pairs)]
        path = desk.folder / name
        path.write_text("\n".join(",".join(row[:: -1 if turned else 1]) for row in rows) + "\n")
        return path

    patients = sheet("pt.csv", ("Original PtID", "Trial PtID"), ("4711", "T-1"), ("4712", "T-2"))
    uids = sheet("uid.csv", ("Original UID", "Trial UID"), ("1.2.3", "9.8.7"))
    accession = sheet("acc.csv", ("Original Accession", "Trial Accession"), ("A1", "X1"))
    for path in (patients, uids, accession):
        assert desk("import", path).code == 0
        assert "there already" in desk("import", path).err
    assert len(entries(desk)) == 4
    assert desk("search", "PatientID=4711", "--show", "deid:PatientID").rows[0][
        "deid:PatientID"
    ] == ("T-1")
    assert desk("search", "deid:PatientID=T-2", "--show", "PatientID").rows[0]["PatientID"] == (
        "4712"
    )
    assert desk("search", "deid:AccessionNumber=X1").rows
    assert desk("search", "ReferencedSOPInstanceUID=1.2.3").rows
    assert desk("search", "deid:ReferencedSOPInstanceUID=9.8.7").rows


def test_a_file_whose_uids_an_idmap_knows_gets_them_back(desk: Desk) -> None:
    (desk.folder / "uid.csv").write_text(
        'Original UID,Trial UID\n=("1.2.3"),=("9.8.3")\n=("1.2.1"),=("9.8.1")\n'
    )
    desk("import", "uid.csv")
    dataset = dcmread(SERIES / "77654033" / "CT2" / "17106")
    dataset.SOPInstanceUID, dataset.StudyInstanceUID = UID("9.8.3"), UID("9.8.1")
    dataset.save_as(desk.folder / "a.dcm")
    row = desk("reidentify", "a.dcm", "--output", "back").rows[0]
    back = dcmread(row["output"])
    assert (back.SOPInstanceUID, back.StudyInstanceUID) == ("1.2.3", "1.2.1")
    assert row["reason"]


RSNA = """
CREATE TABLE phi (patient_id, anon_patient_id, patient_name, sex, dob, date_offset);
CREATE TABLE studies (study_uid, anon_study_uid, patient_id, study_date, accession_number,
    anon_accession_number, description);
CREATE TABLE series (series_uid, anon_series_uid, study_uid, modality, description);
CREATE TABLE instances (sop_instance_uid, anon_sop_instance_uid, series_uid);
CREATE TABLE UID_map (phi_uid, anon_uid);
INSERT INTO phi VALUES ('4711', 'S-000001', 'Doe^Jane', 'F', '19500101', 17);
INSERT INTO studies VALUES ('1.2.1', '1.9.1', '4711', '20060815', 'A1', '1', 'Thorax');
INSERT INTO series VALUES ('1.2.2', '1.9.2', '1.2.1', 'CT', 'Lung');
INSERT INTO instances VALUES ('1.2.3', '1.9.3', '1.2.2'), ('1.2.4', '1.9.4', '1.2.2');
INSERT INTO UID_map VALUES ('1.2.1', '1.9.1'), ('1.2.7', '1.9.7');
"""


def test_the_database_of_rsna_anonymizer_is_imported_and_not_touched(desk: Desk) -> None:
    path = desk.folder / "anonymizer.db"
    with sqlite3.connect(path) as connection:
        connection.executescript(RSNA)
    before = path.read_bytes()
    assert desk("import", path, "--project", "TRIAL7").code == 0
    assert path.read_bytes() == before
    [row] = desk("search", "Jane Doe", "--show", "PatientID,deid:PatientID,StudyDate").rows
    assert (row["PatientID"], row["deid:PatientID"], row["StudyDate"]) == (
        *("4711", "S-000001"),
        "20060815",
    )
    assert desk("search", "deid:SOPInstanceUID=1.9.4", "--format", "ids").ids == [row["id"]]
    assert desk("search", "deid:FrameOfReferenceUID=1.9.7").rows
    assert "2 there already" in desk("import", path, "--project", "TRIAL7").err


@pytest.mark.parametrize(
    "content", [b"", b"name,age\n1,2\n", b"SQLite format 3\0" + b"x" * 100, b"\xff\xfe\0"]
)
def test_what_is_no_history_is_refused_in_one_sentence(desk: Desk, content: bytes) -> None:
    (desk.folder / "file").write_bytes(content)
    refused = desk("import", "file")
    assert (refused.code, refused.out, entries(desk)) == (1, "", {})
    assert "this is" in refused.err.lower()
