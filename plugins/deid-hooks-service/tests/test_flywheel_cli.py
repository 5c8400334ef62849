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
import zipfile
from collections import Counter
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pydicom
import pytest
from platform_standin import KEY, USER, Platform
from running import Site, packfile
from tests.needed import missing

from deid_hooks.query.parser import parse_terms
from deid_hooks.records.model import Entry

pytestmark = pytest.mark.ci

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
FAULTS = ("store down", "service killed", "answer cut off")


class Ingest:
    """A run of ``fw ingest dicom --de-identify`` in which some series have bad luck at the log.

    The way to the service is through us: for each of ``unlucky`` we do its fault, every time it is
    tried.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.site = Site(folder, deadline=5)
        self.unlucky: dict[str, str] = {}
        self.tries: Counter[str] = Counter()
        self._one_at_a_time = threading.Lock()
        self._way = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self._way.serve_forever, daemon=True).start()
        self.platform = Platform(f"http://127.0.0.1:{self._way.server_port}/")
        self._start_service()

    def run(self, images: list[Path]) -> str:
        """What the CLI said, once it has ended."""
        (self.folder / "home/.config/flywheel").mkdir(parents=True)
        key = f"127.0.0.1:{self.platform.port}:__force_insecure:{KEY}"
        user = json.dumps({"key": key, "root": False})
        (self.folder / "home/.config/flywheel/user.json").write_text(user)
        (self.folder / "images").mkdir()
        for number, image in enumerate(images):
            (self.folder / "images" / f"{number:02}.dcm").write_bytes(image.read_bytes())
        (self.folder / "options.yml").write_text(PROFILE)
        (self.folder / "sitecustomize.py").write_text(SHORT_PAUSES)
        options = ["-C", "options.yml", "--de-identify", "--deid-profile", "site", "--yes"]
        options += ["--jobs", "1"]  # its own database does not take many at once on a busy machine
        done = subprocess.run(
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
            timeout=100,
        )
        return done.stdout

    def close(self) -> None:
        self.platform.close()
        self._way.shutdown()
        self._way.server_close()
        self.site.stop()

    def _start_service(self) -> None:
        self.site.start("--flywheel-site", f"http://127.0.0.1:{self.platform.port}")

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        ingest = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *arguments: object) -> None:
                """Say nothing."""

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name: self.headers[name] for name in ("Authorization", "Content-Type")}
                series = json.loads(body)["indexed_fields"]["SeriesInstanceUID"]
                url = ingest.site.url + self.path
                request = httpx.Request("POST", url, headers=headers, content=body)
                with ingest._one_at_a_time:
                    answer = ingest._answer(request, ingest.unlucky.get(series, ""))
                if answer is None:
                    return  # and the connection ends
                self.send_response(answer.status_code)
                self.send_header("Content-Type", answer.headers["Content-Type"])
                self.send_header("Content-Length", answer.headers["Content-Length"])
                self.end_headers()
                cut = ingest.unlucky.get(series) == "answer cut off"
                self.wfile.write(answer.content[: -10 if cut else None])

        return Handler

    def _answer(self, request: httpx.Request, fault: str) -> httpx.Response | None:
        self.tries[fault] += 1
        away = self.site.log.with_suffix(".away")
        if fault == "store down":
            self.site.log.rename(away)
        if fault == "service killed":  # it has the request, and never answers
            assert self.site.process is not None
            self.site.process.send_signal(signal.SIGSTOP)
        try:
            with httpx.Client(timeout=0.3 if fault == "service killed" else 10) as client:
                return client.send(request)
        except httpx.ReadTimeout:
            self.site.stop(signal.SIGKILL)
            self._start_service()
            return None
        finally:
            with suppress(FileNotFoundError):
                away.rename(self.site.log)


class Run:
    """What came of it."""

    def __init__(self, ingest: Ingest) -> None:
        lucky = sorted(p for p in (IMAGES / "77654033").rglob("*") if p.is_file())
        single = [IMAGES / "98892003" / name for name in ("MR1/15820", "MR2/6935", "MR700/4467")]
        self.ingest, self.site, self.platform = ingest, ingest.site, ingest.platform
        self.unlucky = dict(zip(FAULTS, single, strict=True))
        for fault, path in self.unlucky.items():
            ingest.unlucky[pydicom.dcmread(path).SeriesInstanceUID] = fault
        self.said = ingest.run([*lucky, *single])

    def originals(self) -> dict[str, pydicom.Dataset]:
        """The first file of each series, in the order of the folder."""
        found: dict[str, pydicom.Dataset] = {}
        for path in sorted((self.ingest.folder / "images").iterdir()):
            original = pydicom.dcmread(path, stop_before_pixels=True)
            found.setdefault(original.SeriesInstanceUID, original)
        return found


def test_the_cli_uploads_what_is_logged_and_nothing_else(tmp_path: Path) -> None:
    """One run for all that is said of it: it takes long to start."""
    if not FW.exists():
        missing(f"the Flywheel CLI is not installed as {FW} (.ci/run says how)")
    with closing(Ingest(tmp_path)) as ingest:
        run = Run(ingest)
        every_file_that_was_stored_has_a_log_id_and_its_entry_the_originals_tags(run)
        for fault in FAULTS:
            nothing_is_uploaded_where_the_log_gave_no_whole_answer(run, fault)
        the_client_shows_the_sentence_and_the_status(run)
        a_packfile_that_was_tried_four_times_is_one_entry(run)
        users_of_the_site_upload_with_their_keys_and_do_nothing_else(run)


def every_file_that_was_stored_has_a_log_id_and_its_entry_the_originals_tags(
    run: Run,
) -> None:
    originals = run.originals()
    assert len(run.platform.packfiles) == 4, run.said
    for _, metadata, content in run.platform.packfiles:
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
        series = f"SeriesInstanceUID={stored.SeriesInstanceUID}"
        assert list(run.site.recorder.search(parse_terms([series]))) == [entry.log_id]


def nothing_is_uploaded_where_the_log_gave_no_whole_answer(run: Run, fault: str) -> None:
    assert run.ingest.tries[fault] == 4
    series = pydicom.dcmread(run.unlucky[fault]).SeriesInstanceUID
    stored = {_one_of(content).SeriesInstanceUID for _, _, content in run.platform.packfiles}
    assert stored
    assert series not in stored


def the_client_shows_the_sentence_and_the_status(run: Run) -> None:
    said = " ".join(run.said.split())
    assert f"{SENTENCE}503 Service Unavailable: there is no log at" in said


def a_packfile_that_was_tried_four_times_is_one_entry(run: Run) -> None:
    uid = pydicom.dcmread(run.unlucky["answer cut off"]).SeriesInstanceUID
    [log_id] = run.site.recorder.search(parse_terms([f"SeriesInstanceUID={uid}"]))
    assert len(list(run.site.recorder.uploads([log_id]))) == 4


def users_of_the_site_upload_with_their_keys_and_do_nothing_else(run: Run) -> None:
    client = run.site.client("")
    client.headers["Authorization"] = f"scitran-user site:{KEY}"
    assert client.post("/logs", json=packfile(PatientID="1")).status_code == 200
    assert client.get("/v1/records").status_code == 403
    stranger = run.site.client("")
    stranger.headers["Authorization"] = "scitran-user site:ffffffffffffffffffffffff"
    assert stranger.post("/logs", json=packfile(PatientID="1")).status_code == 401


def _one_of(packfile: bytes) -> pydicom.Dataset:
    """One of the images of a packfile: a file, or a ZIP of several."""
    if packfile[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(packfile)) as archive:
            packfile = archive.read(archive.namelist()[0])
    return pydicom.dcmread(io.BytesIO(packfile), force=True, stop_before_pixels=True)
