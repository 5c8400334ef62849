"""The stage of each fault: a site whose log and destination hold a series, and more to come.

Every identifying value of the images is a canary, and every image has pixels of its own, so that
whoever checks finds the original of a delivered file without asking us.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deid_hooks.deadline import Deadline
from deid_hooks.log import make_backend
from deid_hooks.records.chain import make_leaf
from deid_hooks.records.keys import make_sealer, parse_keyring
from tests.whole import canaries
from tests.whole.site import LOG, Site

Query = Callable[[str], list[tuple[Any, ...]]]
"""What plain sqlite3, or the driver of a database, answers to a statement."""

SLOW = """
import time
from deid_hooks import hookimpl
@hookimpl
def post_deid(event): time.sleep(0.05)
@hookimpl
def pre_upload(event): time.sleep(0.05)
@hookimpl
def post_upload(event): time.sleep(0.05)
"""
"""A plugin that makes an upload last long enough to be disturbed."""

SERIES, FILES = 4, 2
TO_TRIAL = ("--project", "TRIAL7")
SECRET = "ab" * 32


def write_source(folder: Path) -> None:
    """Four series of two patients, two files each: all in ``all``, the first in ``first`` too."""
    for series in range(SERIES):
        for number in range(FILES):
            made = canaries.dataset(f"{canaries.SOP_UID}.{series}.{number}")
            made.SeriesInstanceUID = f"{canaries.TEXTS['SeriesInstanceUID']}.{series}"
            if series > 1:
                made.PatientID += "-2"
                made.PatientName = "Qxother^Qxgiven"
            made.Rows = made.Columns = 200  # six of them don't fit into 400 KB
            made.PixelData = bytes([series, number]) * 200 * 200
            made.ImageComments = "Qxcomment " * 200
            for kind in ("first", "all") if series == 0 else ("all",):
                path = folder / kind / f"{series}-{number}.dcm"
                path.parent.mkdir(parents=True, exist_ok=True)
                made.save_as(path, enforce_file_format=True)


@dataclass(frozen=True)
class Stage:
    """What all tries of a run share: the images, a site with the first series, and how it ends."""

    source: Path
    begun: Path
    undisturbed: dict[str, bytes]
    """The delivered files of an undisturbed run, by path: STUDY/SERIES/INSTANCE.dcm."""

    def site(self, folder: Path) -> Scene:
        """A site of its own for a try."""
        shutil.copytree(self.begun, folder, symlinks=True)
        site = Scene(self, folder)
        site.change(f"UPDATE deid_log_upload SET destination = 'folder:{site.delivered}'")
        seal_anew(site)
        return site


def seal_anew(site: Site) -> None:
    """Give every record of a site's log the seal that it has as it stands now."""
    backend = make_backend(f"sqlite:///{site.folder / LOG}")
    records = [record for record, _ in backend.chain(Deadline())]
    backend.close()
    seals = make_sealer(parse_keyring(SECRET, "test")).seal("", map(make_leaf, records))
    for place, seal in enumerate(seals):
        site.change(
            f"UPDATE deid_log_chain SET seal = '{seal}' WHERE seq ="
            f" (SELECT seq FROM deid_log_chain ORDER BY seq LIMIT 1 OFFSET {place})"
        )


def make_stage(folder: Path) -> Stage:
    source = folder / "source"
    write_source(source)
    begun = Site(folder / "begun", SECRET)
    first = begun.upload(source / "first")
    assert first.returncode == 0, first.stderr
    whole = Site(folder / "whole", SECRET)
    done = whole.upload(source / "all")
    assert done.returncode == 0, done.stderr
    undisturbed = whole.files()
    assert len(undisturbed) == SERIES * FILES
    return Stage(source, begun.folder, undisturbed)


@dataclass
class Ran:
    """A run of the program: how it ended, all it said, and what /proc showed of it meanwhile."""

    code: int
    out: str
    err: str
    processes: bytes = b""

    @property
    def report(self) -> list[dict[str, Any]]:
        """The lines of the report that are whole."""
        whole = self.out.splitlines(keepends=True)
        return [json.loads(line) for line in whole if line.endswith("\n")]


@dataclass
class Watch:
    """Reads the arguments and the environment of a process and its children while they run."""

    process: subprocess.Popen[str]
    seen: set[bytes] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while self.process.poll() is None:
            for one in family(self.process.pid):
                for name in ("cmdline", "environ", "comm"):
                    try:
                        self.seen.add(Path(f"/proc/{one}/{name}").read_bytes())
                    except OSError:
                        continue
            time.sleep(0.05)

    def text(self) -> bytes:
        self._thread.join()
        return b"\n".join(self.seen)


def family(process: int) -> list[int]:
    """A process, its children and theirs."""
    try:
        tasks = list(Path(f"/proc/{process}/task").glob("*/children"))
        children = [int(child) for task in tasks for child in task.read_text().split()]
    except OSError:
        return [process]
    return [process, *(each for child in children for each in family(child))]


class Scene(Site):
    """A site in which the first series was uploaded."""

    def __init__(self, stage: Stage, folder: Path) -> None:
        super().__init__(folder, SECRET, begun=False)
        self.stage = stage
        self.destination = f"folder:{self.delivered}"
        """As it stands in the log."""
        self.query = sqlite_log(folder / LOG)
        self.before = self.marks()

    def upload_first(self, *prefix: str) -> None:
        """Upload the first series: what is there before a fault."""
        done = self.ended(self._upload("first", *prefix))
        assert done.code == 0, done.err
        self.before = self.marks()

    def go(
        self, *prefix: str, jobs: int = 1, engine: str = "basic", **variables: str
    ) -> subprocess.Popen[str]:
        """Start the upload of everything, perhaps by another program that is put before it."""
        return self._upload("all", *prefix, jobs=jobs, engine=engine, **variables)

    def ended(self, process: subprocess.Popen[str], seconds: float = 100) -> Ran:
        watch = Watch(process)
        out, err = process.communicate(timeout=seconds)
        return Ran(process.returncode, out, err, watch.text())

    def upload_all(self, *prefix: str, jobs: int = 1, **variables: str) -> Ran:
        return self.ended(self.go(*prefix, jobs=jobs, **variables))

    def marks(self) -> dict[str, tuple[int, ...]]:
        """Inode and time of change of each delivered file: what is sent again has others."""
        return {path: self._mark(path) for path in self.files()}

    def _mark(self, path: str) -> tuple[int, ...]:
        status = (self.delivered / path).stat()
        return status.st_ino, status.st_mtime_ns

    def _upload(
        self, what: str, *prefix: str, jobs: int = 1, engine: str = "basic", **variables: str
    ) -> subprocess.Popen[str]:
        words = ("upload", str(self.stage.source / what), self.destination, *TO_TRIAL)
        more = ("--jobs", str(jobs), "--engine", engine)
        return self.start(*words, *more, before=prefix, **variables)


def sqlite_log(path: Path) -> Query:
    """A log in SQLite; there is nothing in it if it isn't there."""

    def query(statement: str) -> list[tuple[Any, ...]]:
        if not path.exists():
            return []
        connection = sqlite3.connect(path)
        try:
            return connection.execute(statement).fetchall()
        finally:
            connection.close()

    return query
