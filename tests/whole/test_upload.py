"""The whole job in real processes: nothing leaves unlogged, nothing arrives half."""

from __future__ import annotations

import random
import signal
import sqlite3
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from tests.whole.site import DATA, LOG, SERIES, UNABLE, Site, rows


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "site")


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


def test_a_killed_run_is_completed_by_the_next_and_nothing_is_half_there(
    site: Site, tmp_path: Path
) -> None:
    undisturbed = Site(tmp_path / "undisturbed")
    undisturbed.upload(SERIES)
    chance = random.Random(7)
    for _ in range(8):
        process = site.start(
            "upload", str(SERIES), "folder:delivered", "--project", "TRIAL7", "--jobs", "2"
        )
        time.sleep(chance.uniform(0.3, 1.3))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        wanted = undisturbed.files()
        assert all(wanted.get(name) == content for name, content in site.files().items())
        assert site.unlogged() == []
    site.upload(SERIES)
    assert site.files() == undisturbed.files()
    with sqlite3.connect(site.folder / LOG) as connection:
        (entries,) = connection.execute("SELECT count(*) FROM deid_log").fetchone()
        (series,) = connection.execute(
            "SELECT count(DISTINCT SeriesInstanceUID) FROM deid_log"
        ).fetchone()
    assert entries == series
    assert list((site.folder / "tmp").iterdir()) == []


def remove(log: Path) -> None:
    log.unlink()


def spoil(log: Path) -> None:
    log.write_bytes(b"no database" * 1000)


def make_newer(log: Path) -> None:
    with sqlite3.connect(log) as connection:
        connection.execute("UPDATE deid_log_store SET version = 99")


@pytest.mark.parametrize("harm", [remove, spoil, make_newer])
def test_an_upload_without_a_log_is_refused_in_the_words_that_users_know(
    site: Site, harm: Any
) -> None:
    harm(site.folder / LOG)
    refused = site.upload(SERIES)
    assert refused.returncode == 69
    assert refused.stderr.startswith(UNABLE)
    assert refused.stdout == ""
    assert site.files() == {}


def test_a_log_that_another_process_holds_refuses_in_time(site: Site) -> None:
    holder = sqlite3.connect(site.folder / LOG, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    refused = site.upload(SERIES)
    holder.close()
    assert refused.returncode == 69
    assert "locked" in refused.stderr
    assert site.files() == {}


PLUGINS = {
    "raises": ("raise ValueError('CANARY')", "raised ValueError"),
    "exits": ("raise SystemExit(0)", "called exit"),
    "hangs": ("import time; time.sleep(60)", "did not answer"),
    "refuses": ("return 'quota reached'", "quota reached"),
}


@pytest.mark.parametrize("kind", PLUGINS)
def test_a_plugin_that_fails_or_refuses_stops_every_upload_and_is_named(
    site: Site, kind: str
) -> None:
    body, said = PLUGINS[kind]
    plugins = site.folder / "plugins"
    info = plugins / "quota-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: quota\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[deid_hooks]\nquota = quota\n")
    (plugins / "quota.py").write_text(
        f"from deid_hooks import hookimpl\n@hookimpl\ndef pre_upload(event):\n    {body}\n"
    )
    refused = site.run(
        "upload",
        str(SERIES / "77654033" / "CT2"),
        "folder:delivered",
        PYTHONPATH=str(plugins),
        DEID_HOOKS_PLUGIN_TIMEOUT="0.5",
    )
    assert refused.returncode == 3
    reasons = [row["reason"] for row in rows(refused.stdout)]
    assert all(r.startswith("Unable to resolve de-identification ID. Acq") for r in reasons)
    assert all("quota" in r and said in r and "CANARY" not in r for r in reasons)
    assert site.files() == {}


def test_instances_that_disagree_on_the_patient_are_refused_and_no_patient_is_shown(
    site: Site,
) -> None:
    source = site.folder / "mixed"
    source.mkdir()
    for number, path in enumerate(sorted((SERIES / "77654033" / "CT2").iterdir())[:2]):
        dataset = dcmread(path)
        dataset.PatientID = f"CANARY{number}"
        dataset.save_as(source / f"{number}.dcm")
    refused = site.upload(source)
    assert refused.returncode == 3
    assert UNABLE in refused.stdout
    assert "disagree on PatientID" in refused.stdout
    assert "CANARY" not in refused.stdout + refused.stderr
    assert site.files() == {}


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
    site.upload(SERIES / "77654033")
    assert site.run("search", "Doe", "--reason", "why").stdout
    with sqlite3.connect(site.folder / LOG) as connection:
        trail = connection.execute("SELECT action, asked, reason FROM deid_log_access").fetchall()
        assert trail == [("search", "Doe", "why")]
        connection.execute(
            "CREATE TRIGGER full BEFORE INSERT ON deid_log_access"
            " BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
    refused = site.run("search", "Doe")
    assert (refused.returncode, refused.stdout) == (69, "")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["search", "PatienName=x"], 2),
        (["search", "Nobody"], 1),
        (["show", "0" * 32], 1),
        (["show", "nonsense"], 2),
        (["upload", ".", "nowhere:x"], 2),
        (["frobnicate"], 2),
        (["pending"], 0),
    ],
)
def test_exit_codes_say_what_happened(site: Site, words: list[str], code: int) -> None:
    assert site.run(*words).returncode == code
