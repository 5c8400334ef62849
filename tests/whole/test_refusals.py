"""Every refusal: the words that users know, the cause, the remedy, and nothing that left."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from pydicom import dcmread

from tests.whole.disks import remount, small_disk
from tests.whole.site import LOG, SERIES, Site, rows

UNABLE_TO_LOG = "Unable to log de-identified data"
UNABLE_TO_RESOLVE = (
    "Unable to resolve de-identification ID. Acquisition was not uploaded"  # both as in the design
)
SOURCE = SERIES / "77654033" / "CT2"

Harm = Callable[[Path], None]


def remove(log: Path) -> None:
    log.unlink()


def empty(log: Path) -> None:
    log.write_bytes(b"")


def spoil(log: Path) -> None:
    log.write_bytes(b"no database" * 1000)


def exchange(log: Path) -> None:
    log.unlink()
    with sqlite3.connect(log) as connection:
        connection.execute("CREATE TABLE patients (name TEXT)")


def make_newer(log: Path) -> None:
    with sqlite3.connect(log) as connection:
        connection.execute("UPDATE deid_log_store SET version = 99")


def refused(site: Site, cause: str, remedy: str, *before: str) -> None:
    """An upload is refused as a whole, and so says ``check``."""
    uploaded = site.run(*before, "upload", str(SOURCE), "folder:delivered")
    assert uploaded.returncode == 69
    assert uploaded.stdout == ""
    assert uploaded.stderr.startswith(f"{UNABLE_TO_LOG}: ")
    assert cause in uploaded.stderr
    assert remedy in uploaded.stderr
    assert site.files() == {}
    checked = site.run(*before, "check")
    assert (checked.returncode, checked.stdout) == (69, "")
    assert cause in checked.stderr


@pytest.mark.parametrize(
    ("harm", "cause", "remedy"),
    [
        (remove, "there is no log at", "Restore it from a backup"),
        (empty, "is empty", "deid-hooks init"),
        (spoil, "is not a database", "restore it from a backup"),
        (exchange, "is a database, but not a de-id log", "Check the URL"),
        (make_newer, "has version 99, this program knows 3", "Update deid-hooks"),
    ],
)
def test_without_a_log_of_ours_nothing_is_uploaded(
    site: Site, harm: Harm, cause: str, remedy: str
) -> None:
    harm(site.folder / LOG)
    refused(site, cause, remedy)


def test_a_log_that_another_process_holds_refuses_in_time(site: Site) -> None:
    site.environment["DEID_HOOKS_DEADLINE"] = "0.5"
    holder = sqlite3.connect(site.folder / LOG, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    refused(site, "is locked by another process", "Try again")
    holder.close()
    assert site.run("check").returncode == 0


def test_a_log_on_a_disk_that_is_read_only_or_full_is_told_with_what_to_do(site: Site) -> None:
    disk = site.folder / "disk"
    url = f"sqlite:///{disk}/log.db"
    with small_disk(disk, 1000):
        site.run("--url", url, "init")
        remount(disk, "ro")
        refused(site, "can't be opened for writing", "disk is not read-only", "--url", url)
        remount(disk, "rw")
        with suppress(OSError):
            (disk / "others").write_bytes(bytes(1_000_000))
        refused(site, "is full", "Free some space", "--url", url)


PLUGINS = {
    "raises": ("raise ValueError('CANARY')", "raised ValueError"),
    "raises what isn't an Exception": ("raise KeyboardInterrupt('CANARY')", "raised Keyboard"),
    "exits": ("raise SystemExit(0)", "called exit"),
    "hangs": ("import time; time.sleep(60)", "did not answer"),
    "refuses": ("return 'quota reached'", "quota reached"),
    "says no more than False": ("return False", "refused without a reason"),
}
FAILING = "from deid_hooks import hookimpl\n@hookimpl\ndef {hook}(event):\n    {body}\n"
SAID = {"post_deid": UNABLE_TO_LOG, "pre_upload": UNABLE_TO_RESOLVE}


@pytest.mark.parametrize(
    ("hook", "kind"),
    [
        *(("pre_upload", kind) for kind in PLUGINS),
        *(("post_deid", kind) for kind in ("raises", "exits", "hangs", "refuses")),
    ],
)
def test_a_plugin_that_fails_or_refuses_stops_every_upload_and_is_named(
    site: Site, hook: str, kind: str
) -> None:
    body, cause = PLUGINS[kind]
    if (hook, kind) == ("post_deid", "refuses"):
        cause = "takes no answer"
    site.plug_in(FAILING.format(hook=hook, body=body), name="quota")
    site.environment["DEID_HOOKS_PLUGIN_TIMEOUT"] = "0.5"
    failed = site.upload(SOURCE)
    assert failed.returncode == 3
    reasons = [row["reason"] for row in rows(failed.stdout)]
    assert reasons
    for reason in reasons:
        assert reason.startswith(f"{SAID[hook]}: ")
        assert "quota" in reason
        assert cause in reason
    assert "CANARY" not in failed.stdout + failed.stderr
    assert site.files() == {}
    assert site.sql("SELECT * FROM deid_log_upload") == []


@pytest.mark.parametrize("hook", ["post_deid", "pre_upload"])
def test_a_plugin_that_ends_the_process_leaves_nothing_and_the_next_run_does_it_all(
    site: Site, hook: str
) -> None:
    site.plug_in(FAILING.format(hook=hook, body="import os; os._exit(0)"))
    site.upload(SOURCE)
    assert site.files() == {}
    site.unplug()
    assert site.upload(SOURCE).returncode == 0
    assert site.unlogged() == []
    assert site.sql("SELECT count(*) FROM deid_log") == [(1,)]
    assert list((site.folder / "tmp").iterdir()) == []


def test_a_plugin_that_cant_be_imported_stops_everything_before_a_file_is_read(site: Site) -> None:
    site.plug_in("import nothing_that_exists", name="quota")
    failed = site.upload(SOURCE)
    assert failed.returncode == 1
    assert failed.stdout == ""
    assert "quota" in failed.stderr
    assert site.files() == {}
    listed = site.run("plugins", "--format", "jsonl")
    assert listed.returncode == 1
    (state,) = [row["state"] for row in rows(listed.stdout) if row["name"] == "quota"]
    assert state.startswith("FAILED")


@pytest.mark.parametrize(
    "keyword", ["PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientName"]
)
def test_instances_that_disagree_on_the_patient_are_refused_and_no_patient_is_shown(
    site: Site, keyword: str
) -> None:
    source = site.folder / "mixed"
    source.mkdir()
    values = ("19310417", "19310418") if keyword == "PatientBirthDate" else ("CANARY1", "CANARY2")
    for path, value in zip(sorted(SOURCE.iterdir()), values, strict=False):
        dataset = dcmread(path)
        setattr(dataset, keyword, value)
        dataset.save_as(source / f"{path.name}.dcm")
    failed = site.upload(source)
    assert failed.returncode == 3
    reasons = {row["reason"] for row in rows(failed.stdout)}
    assert all(r.startswith(f"{UNABLE_TO_LOG}: ") and keyword in r for r in reasons)
    assert all(str(source) in r for r in reasons)  # which files, not whose
    said = failed.stdout + failed.stderr
    assert not [value for value in values if value in said]
    assert site.files() == {}
