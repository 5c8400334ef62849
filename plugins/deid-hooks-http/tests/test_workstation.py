"""A workstation behind the service: one file, no key of the log, and nothing of other projects."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pydicom
import pytest
from running import BIN, Site
from tests.commands import run_command
from tests.needed import program

from deid_hooks.backends import Deadline, SettingsError
from deid_hooks.records.keys import compute_patient_digest
from deid_hooks_http import HTTPBackend

SERIES = Path(pydicom.__file__).parent / "data" / "test_files" / "dicomdirtests"
CT, CR = SERIES / "77654033" / "CT2", SERIES / "77654033" / "CR1"
WHY = ("--reason", "asked to")


class Workstation:
    """A machine with an empty home and one file of the service's administrator."""

    def __init__(self, folder: Path, site: Site, *words: str) -> None:
        self.folder = folder
        folder.mkdir()
        self.file = folder / "access.toml"
        self.name = folder.name
        self.made = site.run(
            *("deid-hooks-service", "token", "add", self.name, *words),
            *("--output", str(self.file), "--address", site.url),
        )
        assert self.made.returncode == 0, self.made.stderr

    def __call__(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "LANG": "C.UTF-8"}
        environment["DEID_HOOKS_URL"] = f"deidlog+file:{self.file}"
        command = [str(BIN / "deid-hooks"), *map(str, words)]
        return run_command(command, env=environment, cwd=self.folder)

    def upload(self, source: Path, project: str = "TRIAL7") -> list[dict[str, str]]:
        done = self("upload", source, "folder:delivered", "--project", project)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def labels(self) -> set[str]:
        found = (pydicom.dcmread(path) for path in self.folder.glob("delivered/**/*.dcm"))
        return {str(dataset.PatientID) for dataset in found}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    (tmp_path / "site").mkdir()
    made = Site(tmp_path / "site").start()
    yield made
    made.stop()


@pytest.fixture
def station(tmp_path: Path, site: Site) -> Callable[..., Workstation]:
    def make(name: str, role: str = "upload", project: str = "TRIAL7") -> Workstation:
        return Workstation(tmp_path / name, site, "--role", role, "--project", project)

    return make


def test_one_file_is_all_that_an_upload_needs(
    site: Site, station: Callable[..., Workstation]
) -> None:
    first, second = station("ws1"), station("ws2")
    assert first.file.stat().st_mode & 0o777 == 0o600
    results = first.upload(CT)
    assert {row["status"] for row in results} == {"uploaded"}
    assert {row["status"] for row in first.upload(CT)} == {"already there"}
    assert {row["log_id"] for row in first.upload(CT)} == {results[0]["log_id"]}
    assert {row["status"] for row in second.upload(CR)} == {"uploaded"}
    assert first.labels() == second.labels(), "the same patient"
    left = {path.name for path in first.folder.rglob("*") if path.is_file()}
    assert {name for name in left if not name.endswith(".dcm")} == {"access.toml"}
    [entry] = site.recorder.entries([results[0]["log_id"]])
    assert site.recorder.keyring.is_whole(entry)
    assert entry.uploader.endswith("(ws1)")
    digest = compute_patient_digest("77654033", "", site.recorder.keyring.newest)
    assert entry.patients == (digest,)


@pytest.mark.ci
def test_what_was_uploaded_comes_back_at_the_desk_of_who_may(
    site: Site, station: Callable[..., Workstation]
) -> None:
    sender, reader = station("ws1"), station("reader", "reidentify")
    sender.upload(CT)
    done = reader("reidentify", sender.folder / "delivered", "--output", "back", *WHY)
    assert done.returncode == 0, done.stderr
    [patient] = {
        str(pydicom.dcmread(path).PatientID) for path in reader.folder.glob("back/**/*.dcm")
    }
    assert patient == "77654033"
    assert sender("reidentify", "delivered", "--output", "back", *WHY).returncode == 1
    assert not list(sender.folder.glob("back/**/*.dcm"))


def test_a_patient_is_blocked_from_a_desk_without_keys(
    site: Site, station: Callable[..., Workstation], tmp_path: Path
) -> None:
    sender = station("ws1")
    desk = Workstation(tmp_path / "desk", site, "--role", "admin")
    (desk.folder / "numbers.txt").write_text("98890234\n")
    sent = sender.upload(CT)
    assert desk("block", "--patient-id", "@numbers.txt", *WHY).returncode == 0
    assert desk("block", f"id={sent[0]['log_id']}", *WHY).returncode == 0
    reported = desk("report", "PatientID=77654033")
    assert '"blocked": true' in reported.stdout
    (desk.folder / "map.csv").write_text('"Original PtID","Trial PtID"\n"4711","S1"\n')
    for words in (("rotate", "--release-blocks", *WHY), ("import", "map.csv")):
        assert desk(*words).returncode == 2
    trail = site.recorder.backend.trail(Deadline())
    assert not {"import", "lift"}.intersection(row.action for row, _ in trail)
    assert {row["status"] for row in sender.upload(CT)} == {"refused"}
    assert "blocked" in sender.upload(CR)[0]["reason"]
    assert desk("block", f"id={sent[0]['log_id']}", "--lift", *WHY).returncode == 0
    assert {row["status"] for row in sender.upload(CT)} == {"already there"}


def test_a_rotation_on_the_host_changes_nothing_for_a_workstation(
    site: Site, station: Callable[..., Workstation]
) -> None:
    sender = station("ws1")
    sent = sender.upload(CT)
    labels = sender.labels()
    assert site.run("deid-hooks", "rotate", *WHY).returncode == 0
    assert {row["log_id"] for row in sender.upload(CT)} == {sent[0]["log_id"]}
    sender.upload(CR)
    assert sender.labels() == labels
    assert site.run("deid-hooks", "verify").returncode == 0


@pytest.mark.ci
def test_a_token_is_worthless_elsewhere_and_once_it_is_revoked(
    site: Site, station: Callable[..., Workstation]
) -> None:
    sender = station("ws1")
    refused = sender("upload", CT, "folder:delivered", "--project", "TRIAL8")
    assert refused.returncode == 1
    assert "held to other projects" in refused.stderr
    assert site.run("deid-hooks-service", "token", "revoke", "ws1").returncode == 0
    assert sender("check").returncode != 0
    sender.upload(CT)
    assert not list(sender.folder.glob("delivered/**/*.dcm"))


@pytest.mark.ci
def test_a_certificate_in_the_file_is_the_only_one_that_is_trusted(tmp_path: Path) -> None:
    pems = {}
    for name in ("ours", "theirs"):
        key, pem = tmp_path / f"{name}.key", tmp_path / f"{name}.pem"
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
        subject = ["-subj", "/CN=log", "-addext", "subjectAltName=IP:127.0.0.1"]
        made = [program("openssl"), "req", "-x509", "-nodes", *curve, *subject]
        subprocess.run([*made, "-keyout", key, "-out", pem], check=True, capture_output=True)
        pems[name] = pem
    (tmp_path / "site").mkdir()
    ours = ("--tls-certificate", str(pems["ours"]), "--tls-key", str(tmp_path / "ours.key"))
    site = Site(tmp_path / "site").start(*ours)
    site.url = site.url.replace("http:", "https:")
    try:
        words = ("--role", "upload", "--certificate")
        good = Workstation(tmp_path / "good", site, *words, str(pems["ours"]))
        bad = Workstation(tmp_path / "bad", site, *words, str(pems["theirs"]))
        assert good("check").returncode == 0
        refused = bad("check")
        assert refused.returncode == 69
        assert "certificate" in refused.stderr
    finally:
        site.stop()


def test_a_file_of_another_kind_gives_no_access_and_is_not_quoted(tmp_path: Path) -> None:
    file = tmp_path / "access.toml"
    good = 'url = "deidlog+https://host:1"\ntoken = "Qxtoken"\ncertificate = ""\n'
    for text in ("", "Qxtoken", 'token = "Qxtoken"', good.replace("deidlog+https", "sqlite")):
        file.write_text(text)
        file.chmod(0o600)
        with pytest.raises(SettingsError, match="gives no access") as refused:
            HTTPBackend(f"deidlog+file:{file}")
        assert "Qxtoken" not in str(refused.value)
    file.write_text(good)
    HTTPBackend(f"deidlog+file:{file}")
    file.chmod(0o640)
    with pytest.raises(SettingsError, match="chmod 600"):
        HTTPBackend(f"deidlog+file:{file}")
    with pytest.raises(SettingsError, match="by its whole path"):
        HTTPBackend("deidlog+file:access.toml")
    with pytest.raises(SettingsError, match="can't be read"):
        HTTPBackend(f"deidlog+file:{tmp_path}/nothing")
