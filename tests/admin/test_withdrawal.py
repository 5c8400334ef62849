"""Consent is withdrawn: nothing more leaves, and what was deleted does not come back unasked."""

from __future__ import annotations

import shutil

import pytest

from deid_hooks.records.keys import key_entry
from deid_hooks.testing.records import make_entry
from tests.admin.conftest import SERIES, Desk
from tests.admin.test_report import of_issuer

CT = SERIES / "77654033" / "CT2"
ID = "77654033"
WHY = ("--reason", "consent withdrawn")


def statuses(desk: Desk, *more: str) -> set[str]:
    return {row["status"] for row in desk.upload(CT, *more).rows}


def test_a_blocked_patient_is_refused_on_every_machine_that_shares_the_log(
    delivered: Desk,
) -> None:
    assert delivered("block", "PatientID=77654033", *WHY).code == 0
    refused = delivered.upload(CT, to="elsewhere")
    assert refused.code == 3
    assert "blocked" in refused.rows[0]["reason"]
    assert not list((delivered.folder / "elsewhere").rglob("*.dcm"))
    assert delivered("report", "Doe").rows[0]["blocked"] is True
    assert "BLOCKED" in delivered("report", "Doe", "--format", "table").out


def test_a_lifted_block_lets_the_patient_through_again(delivered: Desk) -> None:
    delivered("block", "Doe", *WHY)
    assert delivered("block", "Doe", "--lift", *WHY).code == 0
    assert delivered.upload(CT, to="elsewhere").code == 0


def test_a_block_may_be_for_one_project(delivered: Desk) -> None:
    delivered("block", "Doe", "--project", "TRIAL8", *WHY)
    assert delivered.upload(CT, to="elsewhere").code == 0
    delivered("block", "Doe", "--project", "TRIAL7", *WHY)
    assert delivered.upload(CT, to="nowhere").code == 3


def test_who_is_not_in_the_log_is_blocked_by_number_and_issuer_from_a_file(desk: Desk) -> None:
    (desk.folder / "numbers.txt").write_text("4711\tA\n# a comment\n")
    assert desk("block", "--patient-id", "@numbers.txt", *WHY).code == 0
    assert desk.upload(of_issuer(desk.folder / "b", "BB")).code == 0
    assert desk.upload(of_issuer(desk.folder / "a", "A")).code == 3
    assert desk("block", "--patient-id", "-", *WHY, stdin="4711\tBB\n").code == 0
    assert desk.upload(desk.folder / "b", to="more").code == 3
    held = "".join(map(str, desk.sql("SELECT * FROM deid_log_block")))
    assert "4711" not in held


def test_terms_that_find_two_patients_block_nobody(desk: Desk) -> None:
    desk.upload(of_issuer(desk.folder / "a", "A"))
    desk.upload(of_issuer(desk.folder / "b", "BB"))
    refused = desk("block", "PatientID=4711", *WHY)
    assert refused.code == 2
    assert "more than one patient" in refused.err
    assert desk.sql("SELECT count(*) FROM deid_log_block") == [(0,)]
    assert desk("block", "PatientID=4711", "IssuerOfPatientID=A", *WHY).code == 0


def test_who_has_an_id_that_no_text_shows_is_not_said_to_be_blocked(desk: Desk) -> None:
    with desk.hooks() as hooks:
        log = hooks.gate.open_log()
        shown = make_entry(digest="", key="", fields={"PatientID": ("a\ufffdb",)})
        log.append([key_entry(shown, [("a\0b", "")], log.keyring.newest)])
    refused = desk("block", f"id={shown.log_id}", *WHY)
    assert refused.code == 2
    assert f"the PatientID of the entry {shown.log_id}" in refused.err.replace("The P", "the P")
    assert desk.sql("SELECT count(*) FROM deid_log_block") == [(0,)]


@pytest.mark.parametrize(
    "words",
    [["Doe"], ["Doe", "--reason", " "], [*WHY], ["Doe", "--patient-id", "-", *WHY]],
)
def test_a_block_needs_somebody_and_a_reason(delivered: Desk, words: list[str]) -> None:
    assert delivered("block", *words).code == 2
    assert delivered.sql("SELECT count(*) FROM deid_log_block") == [(0,)]


@pytest.mark.parametrize("lift", [[], ["--lift"]])
def test_nobody_is_blocked_by_an_entry_that_was_altered(delivered: Desk, lift: list[str]) -> None:
    """Else who may write to the store decides whose block it is, or whose is lifted."""
    delivered.upload(SERIES / "98892003" / "MR1")
    [(patient,)] = delivered.sql("SELECT DISTINCT patients FROM deid_log WHERE PatientID = ?", [ID])
    delivered.sql("UPDATE deid_log SET patients = ?, PatientID = ?", (patient, ID))
    refused = delivered("block", "Modality=MR", *lift, *WHY)
    assert (refused.code, refused.out) == (3, "")
    assert "ALTERED" in refused.err
    assert delivered.sql("SELECT count(*) FROM deid_log_block") == [(0,)]


def test_what_was_withdrawn_is_reported_and_not_sent_again_unasked(delivered: Desk) -> None:
    shutil.rmtree(delivered.folder / "delivered")
    noted = delivered("withdrawn", "folder:delivered", "Doe", "--at", "2026-01-31")
    assert noted.out.startswith("4 acquisitions noted")
    rows = delivered("report", "Doe").rows
    assert {row["withdrawn"][:10] for row in rows} == {"2026-01-31"}
    assert {row["outcome"] for row in rows} == {"uploaded"}
    assert statuses(delivered) == {"refused"}
    assert "withdrawn" in delivered.upload(CT).rows[0]["reason"]
    assert not (delivered.folder / "delivered").exists() or not list(
        (delivered.folder / "delivered").rglob("*.dcm")
    )


def test_what_was_withdrawn_is_not_sent_again_once_that_note_was_altered(delivered: Desk) -> None:
    shutil.rmtree(delivered.folder / "delivered")
    delivered("withdrawn", "folder:delivered", "Modality=CT")
    delivered.sql("UPDATE deid_log_upload SET event = 'failed' WHERE event = 'withdrawn'")
    refused = delivered.upload(CT)
    assert {row["status"] for row in refused.rows} == {"refused"}
    assert "the log was altered" in refused.rows[0]["reason"]
    assert not list(delivered.folder.rglob("*.dcm"))


def test_with_again_it_is_sent_and_is_there_again(delivered: Desk) -> None:
    delivered("withdrawn", "folder:delivered", "Modality=CT")
    assert statuses(delivered, "--again") <= {"uploaded", "already there"}
    assert {row["withdrawn"] for row in delivered("report", "Doe").rows} == {None}


def test_a_withdrawal_is_noted_once_and_only_where_something_was(delivered: Desk) -> None:
    [log_id] = delivered("search", "Modality=CT", "--format", "ids").ids
    nowhere = delivered("withdrawn", "dicom://OTHER@pacs:104", log_id)
    assert nowhere.code == 1
    assert "They are at folder:" in nowhere.err
    assert delivered("withdrawn", "folder:delivered", log_id).code == 0
    again = delivered("withdrawn", "folder:delivered", log_id)
    assert (again.code, again.out) == (0, "")
    events = delivered.sql("SELECT event FROM deid_log_upload WHERE log_id = ?", [log_id])
    assert events == [("cleared",), ("uploaded",), ("withdrawn",)]


@pytest.mark.parametrize("at", ["2026-02-30", "yesterday", "2999-01-01"])
def test_a_date_that_was_not_is_wrong_use(delivered: Desk, at: str) -> None:
    assert delivered("withdrawn", "folder:delivered", "Doe", "--at", at).code == 2


def test_ids_and_terms_are_not_mixed(delivered: Desk) -> None:
    assert delivered("withdrawn", "folder:delivered", "0" * 32, "Doe").code == 2
