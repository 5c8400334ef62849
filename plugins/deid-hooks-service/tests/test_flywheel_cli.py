"""The Flywheel CLI itself, its deid log pointed at the service: what isn't logged isn't uploaded.

It runs against a stand-in for the platform (``platform_standin``) and the real service. Its pauses
between attempts are shortened; nothing else of it is touched.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pydicom
import pytest
from platform_standin import KEY, USER, Platform
from running import Site, packfile
from tests.needed import missing

from deid_hooks.entry import Entry
from deid_hooks.matching import parse

FW = Path(sys.prefix) / "flywheel" / "bin" / "fw"
IMAGES = Path(pydicom.__file__).parent / "data" / "test_files" / "dicomdirtests"
SENTENCE = "Unable to log de-identified data: "
PROFILE = """
deid-profiles:
  - name: site
    dicom:
      fields:
        - {name: PatientName, replace-with: X}
        - {name: PatientID, replace-with: Y}
        - {name: StudyInstanceUID, hashuid: true}
"""
SHORT_PAUSES = "import time\nwait = time.sleep\ntime.sleep = lambda s: wait(min(s, 0.05))\n"


class Ingest:
    """One run of ``fw ingest dicom --de-identify``."""

    def __init__(self, folder: Path, images: list[Path], log_url: str) -> None:
        self.platform = Platform(log_url)
        self.folder = folder
        (folder / "home/.config/flywheel").mkdir(parents=True)
        key = f"127.0.0.1:{self.platform.port}:__force_insecure:{KEY}"
        user = json.dumps({"key": key, "root": False})
        (folder / "home/.config/flywheel/user.json").write_text(user)
        (folder / "images").mkdir()
        for number, image in enumerate(images):
            (folder / "images" / f"{number}.dcm").write_bytes(image.read_bytes())
        (folder / "options.yml").write_text(PROFILE)
        (folder / "sitecustomize.py").write_text(SHORT_PAUSES)

    def start(self) -> None:
        options = ["-C", "options.yml", "--de-identify", "--deid-profile", "site", "--yes"]
        self.process = subprocess.Popen(
            [FW, "ingest", "dicom", "images", "group", "project", *options],
            cwd=self.folder,
            env={
                **os.environ,
                "FLYWHEEL_USER_HOME": str(self.folder / "home"),
                "PYTHONPATH": str(self.folder),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def end(self) -> str:
        """What it said, once it has ended by itself."""
        said, _ = self.process.communicate(timeout=100)
        return str(said)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.platform.close()


@dataclass
class Run:
    """What came of a run."""

    said: str
    ingest: Ingest
    site: Site


def _cut_off(site: Site) -> str:
    """The URL of a way to the service on which every answer is cut off."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name: self.headers[name] for name in ("Authorization", "Content-Type")}
            answer = httpx.post(site.url + self.path, content=body, headers=headers)
            assert answer.status_code == 200
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content[:-10])

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Run]]:
    """Several runs at once: all is well, and what may be out of order."""
    if not FW.exists():
        missing(f"the Flywheel CLI is not installed as {FW} (.ci/run says how)")
    series = sorted(p for p in (IMAGES / "77654033").rglob("*") if p.is_file())
    made: dict[str, tuple[Ingest, Site]] = {}
    for name in ("well", "store down", "stopped and gone", "cut off"):
        folder = tmp_path_factory.mktemp("run")
        site = Site(folder, deadline=5)
        url = _cut_off(site) if name == "cut off" else f"{site.url}/"
        ingest = Ingest(folder, series if name == "well" else series[:1], url)
        site.start("--flywheel-site", f"http://127.0.0.1:{ingest.platform.port}")
        if name == "store down":
            site.log.unlink()
        if name == "stopped and gone":
            assert site.process is not None
            site.process.send_signal(signal.SIGSTOP)
        ingest.start()
        made[name] = ingest, site
    ingest, site = made["stopped and gone"]
    ingest.platform.waits_for_the_log.wait(60)
    time.sleep(1)
    site.stop(signal.SIGKILL)
    yield {name: Run(ingest.end(), ingest, site) for name, (ingest, site) in made.items()}
    for ingest, site in made.values():
        ingest.close()
        site.stop()


def test_every_file_that_was_stored_has_a_log_id_and_its_entry_the_originals_tags(
    runs: dict[str, Run],
) -> None:
    run = runs["well"]
    originals = {}
    for path in sorted((run.ingest.folder / "images").iterdir(), reverse=True):
        original = pydicom.dcmread(path, stop_before_pixels=True)
        originals[original.SeriesInstanceUID] = original
    assert len(run.ingest.platform.packfiles) == len(originals) == 4
    for _, metadata, content in run.ingest.platform.packfiles:
        stored = _one_of(content)
        assert (stored.PatientName, stored.PatientID) == ("X", "Y")
        entry = run.site.recorder.resolve(metadata["deid_log_id"])
        assert isinstance(entry, Entry)
        assert entry.uploader == f"flywheel:{USER}"
        original = originals[stored.SeriesInstanceUID]
        assert {"PatientName", "PatientID", "StudyInstanceUID"} <= set(entry.fields)
        for keyword, (value,) in entry.fields.items():
            if keyword not in ("StudyDateTime", "SeriesDateTime"):
                assert value == str(original.get(keyword, "")), keyword
        [found] = run.site.recorder.search(parse([f"SeriesInstanceUID={stored.SeriesInstanceUID}"]))
        assert found == entry.log_id


@pytest.mark.parametrize("name", ["store down", "stopped and gone", "cut off"])
def test_nothing_is_uploaded_where_the_log_gave_no_whole_answer(
    runs: dict[str, Run], name: str
) -> None:
    run = runs[name]
    assert "1 failed" in run.said, run.said
    assert run.ingest.platform.packfiles == []


def test_the_client_shows_the_sentence_and_the_status(runs: dict[str, Run]) -> None:
    said = " ".join(runs["store down"].said.split())
    assert f"{SENTENCE}503 Service Unavailable: there is no log at" in said


def test_an_answer_that_was_cut_off_four_times_is_one_entry(runs: dict[str, Run]) -> None:
    recorder = runs["cut off"].site.recorder
    assert len(list(recorder.search(parse(["PatientID=*"])))) == 1


def test_users_of_the_site_upload_with_their_keys_and_do_nothing_else(
    runs: dict[str, Run],
) -> None:
    client = runs["well"].site.client(f"site:{KEY}")
    assert client.post("/logs", json=packfile(PatientID="1")).status_code == 200
    assert client.get("/v1/records").status_code == 403
    stranger = runs["well"].site.client("site:ffffffffffffffffffffffff")
    assert stranger.post("/logs", json=packfile(PatientID="1")).status_code == 401


def _one_of(packfile: bytes) -> pydicom.Dataset:
    """One of the images of a packfile: a file, or a ZIP of several."""
    if packfile[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(packfile)) as archive:
            packfile = archive.read(archive.namelist()[0])
    return pydicom.dcmread(io.BytesIO(packfile), force=True, stop_before_pixels=True)
