"""One person keeps one label in a project, and has another in the next."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom import dcmread

from tests.whole.site import SERIES, Site

PATIENT = SERIES / "77654033"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "site")


def labels(site: Site, folder: str) -> set[str]:
    return {str(dcmread(p).PatientID) for p in (site.folder / folder).rglob("*.dcm")}


def send(site: Site, source: Path, target: str, *more: str) -> str:
    sent = site.run("upload", str(source), f"folder:{target}", *more)
    assert sent.returncode == 0, sent.stderr
    return sent.stdout


@pytest.mark.parametrize("engine", ["basic", "dicognito"])
def test_the_sites_own_label_is_used_and_known_from_then_on(site: Site, engine: str) -> None:
    patient_id = str(dcmread(next(p for p in PATIENT.rglob("*") if p.is_file())).PatientID)
    listed = site.folder / "subjects.csv"
    listed.write_text(f"PatientID,label\n{patient_id},S-001\n")
    to_trial = ("--project", "TRIAL7", "--engine", engine)
    first, later = PATIENT / "CR1", PATIENT / "CT2"
    send(site, first, "first", *to_trial, "--subjects", str(listed))
    send(site, later, "later", *to_trial, "--jobs", "2")
    send(site, later, "elsewhere", "--project", "TRIAL8", "--engine", engine)
    assert labels(site, "first") == labels(site, "later") == {"S-001"}
    assert labels(site, "elsewhere").isdisjoint({"S-001", patient_id})
    found = site.run("search", "subject=S-001", "--format", "ids")
    assert len(found.stdout.split()) >= 2


KEEPS_PATIENTS = """
def plugin(argument, pseudonyms):
    def engine(dataset):
        dataset.SOPInstanceUID = pseudonyms.uid(dataset.SOPInstanceUID)
    return engine
"""


def test_a_patient_id_that_an_engine_left_is_nobodys_label_from_then_on(site: Site) -> None:
    patient_id = str(dcmread(next(p for p in PATIENT.rglob("*") if p.is_file())).PatientID)
    site.plug_in(KEEPS_PATIENTS, group="deid_hooks.engines", name="keeps")
    send(site, PATIENT / "CR1", "left", "--project", "TRIAL7", "--engine", "keeps")
    assert labels(site, "left") == {patient_id}
    send(site, PATIENT / "CT2", "later", "--project", "TRIAL7")
    (label,) = labels(site, "later")
    assert patient_id not in label
    send(site, PATIENT / "CR1", "again", "--project", "TRIAL7")
    assert labels(site, "again") == {label}


def test_one_person_does_not_become_two(site: Site) -> None:
    patient_id = str(dcmread(next(p for p in PATIENT.rglob("*") if p.is_file())).PatientID)
    send(site, PATIENT / "CR1", "first", "--project", "TRIAL7")
    listed = site.folder / "subjects.csv"
    listed.write_text(f"PatientID,label\n{patient_id},S-001\n")
    refused = site.run(
        *("upload", str(PATIENT / "CT2"), "folder:later", "--project", "TRIAL7"),
        *("--subjects", str(listed)),
    )
    assert refused.returncode == 2
    assert "one person must not become two" in refused.stderr
    assert patient_id not in refused.stderr + refused.stdout
    assert labels(site, "later") == set()
