"""What was forgotten is gone, in every byte; and nothing else is."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pydicom import dcmread

from deid_hooks.backends.sqlite import writing
from deid_hooks.records.model import Entry
from tests.admin.conftest import SERIES, Desk
from tests.admin.test_report import of_issuer

CT = SERIES / "77654033" / "CT2"
WHY = ("--reason", "request of 2026-11-24", "--yes")

CANARIES = {
    "PatientName": "Quetzalcoatl^Xochiquetzal",
    "PatientID": "CANARY-4711",
    "PatientBirthDate": "19370419",
    "AccessionNumber": "ACC-CANARY-9",
    "StudyDescription": "a most unusual description",
    "StudyDate": "19970523",
    "StudyTime": "112233.445566",
    "SeriesDate": "19970524",
    "StationName": "CANARYSTATION",
    "StudyInstanceUID": "1.2.3.987654321.1",
    "SeriesInstanceUID": "1.2.3.987654321.2",
    "FrameOfReferenceUID": "1.2.3.987654321.3",
}


def canary(folder: Path) -> Path:
    """A series of a patient who has nothing in common with another one."""
    folder.mkdir()
    for number, path in enumerate(sorted(CT.iterdir())):
        dataset = dcmread(path)
        for keyword, value in CANARIES.items():
            setattr(dataset, keyword, value)
        dataset.AcquisitionDate, dataset.AcquisitionTime = "19970525", f"0102{number:02}"
        dataset.SOPInstanceUID = f"1.2.3.987654321.4.{number}"
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.ImageComments = "canary " * 20_000  # long enough to be kept apart
        dataset.save_as(folder / path.name)
    return folder


def values_of(entry: Entry) -> set[str]:
    """Every value of an entry that a file of the store may hold as text."""
    found = {value for values in (*entry.fields.values(), *entry.deid.values()) for value in values}
    found |= {uid for instance in entry.instances for uid in (instance.uid, instance.deid_uid)}
    found |= {uid for pair in entry.uids for uid in pair}
    found |= {entry.digest, *entry.patients, *entry.large, str(entry.timestamp)}
    for document in (entry.originals, *(instance.originals for instance in entry.instances)):
        found |= set(texts_in(json.loads(document)))
    found |= {value.decode("latin-1").strip()[:200] for value in entry.large.values()}
    return found


def texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for part in value.values():
            yield from texts_in(part)
    elif isinstance(value, list):
        for part in value:
            yield from texts_in(part)
    elif isinstance(value, str):
        yield value


def held(desk: Desk, values: set[str]) -> set[str]:
    files = [path.read_bytes() for path in desk.folder.glob("log.db*")]
    return {value for value in values if any(value.encode() in content for content in files)}


def entries(desk: Desk) -> list[Entry]:
    with desk.hooks() as hooks:
        ids = [log_id for (log_id,) in desk.sql("SELECT id FROM deid_log")]
        return list(hooks.gate.open_log().entries(ids))


def test_no_byte_of_what_was_forgotten_is_left_and_all_else_is(delivered: Desk) -> None:
    others = {value for entry in entries(delivered) for value in values_of(entry)}
    delivered.upload(canary(delivered.folder / "canary"))
    [gone] = [e for e in entries(delivered) if e.fields["PatientID"] == ("CANARY-4711",)]
    delivered("search", "Quetzalcoatl", "--reason", "whyever-canary")
    delivered("show", gone.log_id)
    values = {value for value in values_of(gone) if len(value) > 5} - others
    values |= {"Quetzalcoatl", "quetzalcoatl", "xochiquetzal", "whyever-canary"}
    before = held(delivered, values)
    assert {*CANARIES.values(), "Quetzalcoatl", "whyever-canary", gone.digest} <= before
    assert {"quetzalcoatl", "1997-05-25T01:02:00", *gone.patients, *gone.large} <= before
    assert len(before) > 35
    assert delivered("forget", "PatientID=CANARY-4711", *WHY).code == 0
    assert held(delivered, values) == set()
    assert others & held(delivered, others)
    assert {entry.log_id for entry in entries(delivered)} == {
        log_id for (log_id,) in delivered.sql("SELECT id FROM deid_log")
    }
    assert delivered("verify").code == 0
    assert delivered("search", "Doe", "--format", "ids").ids


def test_a_tombstone_says_what_who_why_and_where_to(delivered: Desk) -> None:
    [log_id] = delivered("search", "Modality=CT", "--format", "ids").ids
    [(created,)] = delivered.sql("SELECT created FROM deid_log WHERE id = ?", [log_id])
    assert delivered("forget", log_id, *WHY).code == 0
    [stone] = delivered.sql("SELECT id, created, reason, destinations FROM deid_log_tombstone")
    assert stone[:3] == (log_id, created, "request of 2026-11-24")
    assert json.loads(stone[3])[0].endswith("/delivered")
    assert "forgotten" in delivered("show", log_id).err


def test_terms_that_find_two_patients_erase_nothing(desk: Desk) -> None:
    desk.upload(of_issuer(desk.folder / "a", "A"))
    desk.upload(of_issuer(desk.folder / "b", "BB"))
    refused = desk("forget", "PatientID=4711", *WHY)
    assert refused.code == 2
    assert "more than one patient" in refused.err
    assert len(entries(desk)) == 2
    assert desk("forget", "PatientID=4711", "IssuerOfPatientID=A", *WHY).code == 0
    assert len(entries(desk)) == 1


def test_patients_who_cannot_be_told_apart_count_as_several(desk: Desk) -> None:
    for number in (1, 2):
        folder = desk.folder / f"{number}"
        folder.mkdir()
        dataset = dcmread(next(CT.iterdir()))
        del dataset.PatientID, dataset.PatientName
        dataset.StudyInstanceUID = f"1.2.3.{number}"
        dataset.SOPInstanceUID = f"1.2.3.{number}.1"
        dataset.save_as(folder / "1.dcm")
        desk.upload(folder)
    assert desk("forget", "Modality=CT", *WHY).code == 2
    assert desk("forget", "StudyInstanceUID=1.2.3.1", *WHY).code == 0


def test_retention_is_kept_by_when_entries_were_made(desk: Desk) -> None:
    desk.upload(of_issuer(desk.folder / "a", "A"))
    desk.upload(of_issuer(desk.folder / "b", "BB"))
    assert desk("forget", "created=..2015-12-31", *WHY).code == 1
    assert desk("forget", "created=*", *WHY).code == 2
    assert desk("forget", "created=2020..", *WHY).code == 2
    assert desk("forget", "created=..2999", "project=TRIAL7", *WHY).code == 0
    assert entries(desk) == []


def test_copies_that_nobody_noted_as_withdrawn_are_told(delivered: Desk) -> None:
    warned = delivered("forget", "Modality=CR", "--dry-run", *WHY)
    assert "Not noted as withdrawn" in warned.err
    assert "delivered (3)" in warned.err
    delivered("withdrawn", "folder:delivered", "Modality=CR")
    assert "Not noted" not in delivered("forget", "Modality=CR", "--dry-run", *WHY).err


def test_a_dry_run_erases_nothing_and_is_a_look(delivered: Desk) -> None:
    said = delivered("forget", "Doe", "--dry-run", "--reason", "r", "--format", "ids")
    assert len(said.ids) == 4
    assert len(entries(delivered)) == 4
    assert delivered.trail() == [("forget", "Doe", "r")]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["Doe", "--reason", "r"], 2),
        (["Doe", "--yes"], 2),
        (["Doe", "--yes", "--reason", " "], 2),
        (["Nobody", *WHY], 1),
        (["0" * 32, *WHY], 1),
    ],
)
def test_without_a_reason_a_yes_or_an_entry_nothing_is_erased(
    delivered: Desk, words: list[str], code: int
) -> None:
    assert delivered("forget", *words).code == code
    assert len(entries(delivered)) == 4


def test_a_reader_who_holds_the_log_is_told_of_and_it_is_finished_later(
    delivered: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "SECONDS_FOR_READERS", 0.2)
    [log_id] = delivered("search", "Modality=CT", "--format", "ids").ids
    [uid] = {str(dcmread(path).StudyInstanceUID) for path in CT.iterdir()}
    reader = sqlite3.connect(delivered.log, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM deid_log").fetchone()
    unfinished = delivered("forget", log_id, *WHY)
    assert unfinished.code == 1
    assert "reader held the log" in unfinished.err
    assert f"deid-hooks forget {log_id}" in unfinished.err
    assert held(delivered, {uid})
    reader.close()
    assert delivered("forget", log_id, *WHY).code == 0
    assert not held(delivered, {uid})


def test_without_room_nothing_is_begun(delivered: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage(NamedTuple):
        free: int

    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(100_000))
    refused = delivered("forget", "Doe", *WHY)
    assert refused.code == 69
    assert "nothing was erased" in refused.err
    monkeypatch.undo()
    monkeypatch.chdir(delivered.folder)
    with sqlite3.connect(delivered.log) as connection:
        assert connection.execute("SELECT count(*) FROM deid_log").fetchone() == (4,)


@pytest.mark.parametrize("terms", ["Modality=CT", "created=..2015-12-31"])
def test_nothing_is_erased_where_an_entry_was_altered(delivered: Desk, terms: str) -> None:
    """Else who may write to the store decides whose entry is erased, and when."""
    old = "2010-01-01T00:00:00.000000Z"
    delivered.sql("UPDATE deid_log SET created = ? WHERE Modality = 'CT'", (old,))
    refused = delivered("forget", terms, *WHY)
    assert refused.code == 3
    assert "ALTERED" in refused.err
    assert delivered.sql("SELECT count(*) FROM deid_log") == [(4,)]
