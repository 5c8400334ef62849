"""The list of subjects that a site keeps itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from deid_hooks import Pseudonyms, SettingsError
from deid_hooks.uploader.upload import read_subjects

CANARY = "CANARY-4711"


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    return tmp_path / "subjects.csv"


def test_identities_get_the_labels_that_the_site_gave_them(listed: Path) -> None:
    listed.write_text(
        "\ufeffPatientID,IssuerOfPatientID,label\n4711,CLINIC,S-001\n"
        '4711,OTHER,S-002\n 0815 ,,S-001\n"12,3",,S-003\n',
        encoding="utf-8",
    )
    labels = read_subjects(listed, "TRIAL7")
    assert labels == {
        ("4711", "CLINIC"): "S-001",
        ("4711", "OTHER"): "S-002",
        ("0815", ""): "S-001",
        ("12,3", ""): "S-003",
    }
    pseudonyms = Pseudonyms("TRIAL7", bytes(32), labels)
    assert pseudonyms.label(" 4711", "CLINIC ") == "S-001"
    assert pseudonyms.label("4711", "").startswith("SUBJ-")


def test_only_the_rows_of_the_project_count(listed: Path) -> None:
    listed.write_text("project,PatientID,label\nTRIAL7,1,S-001\nTRIAL8,1,S-900\n")
    assert read_subjects(listed, "TRIAL7") == {("1", ""): "S-001"}
    assert read_subjects(listed, "TRIAL8") == {("1", ""): "S-900"}


@pytest.mark.parametrize(
    "content",
    [
        "",
        f"{CANARY},S-001\n",
        f"PatientID,label,comment\n{CANARY},S-001,x\n",
        f"PatientID,label\n{CANARY},\n",
        f"PatientID,label\n,{CANARY}\n",
        f"PatientID,label\n{CANARY},{CANARY}-A\n",
        f"PatientID,label\n{CANARY},a\\b\n",
        f"PatientID,label\n{CANARY},{'x' * 65}\n",
        f"PatientID,label\n{CANARY},S-001\n{CANARY},S-002\n",
        f"PatientID,label\n{CANARY},Smith, A\n4712,Smith, B\n",
        f"PatientID,label,project\n{CANARY},S-001\n",
        f'PatientID,label,project\n{CANARY},S-001,"TRIAL7\n4712,S-002,TRIAL7\n',
        f"PatientID,label,label\n{CANARY},S-001,S-002\n",
    ],
)
def test_a_list_that_makes_no_sense_is_refused_and_not_quoted(listed: Path, content: str) -> None:
    listed.write_text(content)
    with pytest.raises(SettingsError) as caught:
        read_subjects(listed, "TRIAL7")
    assert CANARY not in str(caught.value)


def test_a_list_that_is_no_text_is_refused(listed: Path, tmp_path: Path) -> None:
    listed.write_bytes(b"PatientID,label\n\xff\xfe,S-001\n")
    for path in (listed, tmp_path, tmp_path / "missing.csv"):
        with pytest.raises(SettingsError, match="can't be read"):
            read_subjects(path, "TRIAL7")
