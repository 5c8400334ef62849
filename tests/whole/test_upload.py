"""The whole job in real processes: nothing leaves unlogged, nothing arrives half."""

from __future__ import annotations

import sqlite3
from collections import Counter

import pytest
from pydicom import dcmread

from tests.whole.site import DATA, LOG, SERIES, Site, rows


@pytest.mark.parametrize("engine", ["basic", "dicognito"])
def test_every_file_of_pydicom_is_delivered_or_named(site: Site, engine: str) -> None:
    report = rows(site.upload(DATA, "--engine", engine).stdout)
    inputs = sorted(str(p) for p in DATA.rglob("*") if p.is_file())
    assert sorted(row["file"] for row in report) == inputs
    assert all(row["reason"] for row in report if row["status"] in ("refused", "no DICOM"))
    delivered = [row for row in report if row["status"] in ("uploaded", "already there")]
    assert len(delivered) > 150
    assert Counter(row["status"] for row in report)["uploaded"] == len(site.files())
    assert site.unlogged() == []
    again = rows(site.upload(DATA, "--engine", engine).stdout)
    assert "uploaded" not in {row["status"] for row in again}


def test_every_patients_name_in_every_script_is_found(site: Site) -> None:
    site.upload(DATA)
    with sqlite3.connect(site.folder / LOG) as connection:
        names = dict(connection.execute("SELECT id, PatientName FROM deid_log").fetchall())
    terms = site.folder / "terms.txt"
    for name in {name for name in names.values() if name and not name.isascii()} | {"Doe^Peter"}:
        terms.write_text(f"PatientName=={name}\n", encoding="utf-8")
        found = site.run("search", "@terms.txt", "--format", "ids").stdout.split()
        assert {log_id for log_id, other in names.items() if other == name} <= set(found)


def test_no_patient_is_in_the_output_of_a_command_that_was_not_asked_for_one(site: Site) -> None:
    commands = [("check",), ("pending",), ("plugins",), ("config",), ("init",)]
    said = site.upload(SERIES).stderr + site.upload(DATA / "charset_files").stderr
    said += "".join(r.stdout + r.stderr for r in (site.run(*words) for words in commands))
    with sqlite3.connect(site.folder / LOG) as connection:
        known = connection.execute("SELECT DISTINCT PatientName FROM deid_log").fetchall()
    names = [name for (name,) in known if name]
    assert "Doe^Peter" in names
    assert not [name for name in names if name in said]
    log_id = site.run("search", "Peter", "Doe", "--format", "ids").stdout.split()[0]
    assert "Doe^Peter" in site.run("show", log_id).stdout


def test_six_uploads_at_once_into_one_log_lose_nothing(site: Site) -> None:
    sources = sorted(SERIES.glob("*/*"))[:6]
    running = [site.start("upload", str(s), f"folder:out{i}") for i, s in enumerate(sources)]
    for process in running:
        process.communicate(timeout=60)
    logged = site.logged()
    delivered = [dcmread(p).SOPInstanceUID for p in site.folder.glob("out*/*/*/*.dcm")]
    assert delivered
    assert set(delivered) <= logged


def test_every_look_is_in_the_access_trail_and_without_it_there_is_no_answer(site: Site) -> None:
    site.upload(SERIES / "77654033" / "CR1")
    ((log_id,),) = site.sql("SELECT id FROM deid_log")
    looks = (["search", "Doe", "--show", "PatientName"], ["show", log_id])
    for words in looks:
        assert "Doe^Archibald" in site.run(*words, "--reason", "why").stdout
    trail = site.sql("SELECT action, asked, log_ids, reason FROM deid_log_access")
    ids = f'["{log_id}"]'
    assert trail == [("search", "Doe", ids, "why"), ("show", log_id, ids, "why")]
    site.change(
        "CREATE TRIGGER full BEFORE INSERT ON deid_log_access BEGIN SELECT RAISE(ABORT, 'no'); END"
    )
    for words in looks:
        refused = site.run(*words)
        assert (refused.returncode, refused.stdout) == (69, "")
