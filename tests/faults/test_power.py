"""The power fails at every instant of an upload: the log holds all that left by then."""

from __future__ import annotations

import random
import shutil
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.faults.beginning import Beginning
from tests.faults.conftest import amount, chosen
from tests.faults.power import Disk, Step, recorded
from tests.faults.scene import Stage
from tests.faults.tally import CUT_SHORT, LOST, UNLOGGED, Problem, Tally
from tests.whole.site import LOG

pytestmark = pytest.mark.ci

VARIANTS = {"sample": 0, "share": 2, "whole": 40}
EVERY = {"sample": 6, "share": 1, "whole": 1}
BEGUN_AGAIN = {"sample": 1, "share": 6, "whole": 1000}
"""How many of the instants of a first upload are followed by a run of the program."""

SECRET_FILE = "home/.config/deid-hooks/secret"
IN_THE_BEGINNING = ("home", "tmp")


@dataclass
class Run:
    """A recorded upload: what was on the disk before, the steps, and what it delivered."""

    before: Disk
    steps: list[Step]
    delivered: dict[str, bytes]
    known: frozenset[str] = frozenset()
    """De-identified SOP Instance UIDs that had arrived before."""

    secret: bytes | None = None
    """The file of the site secret, if that was made in it."""


def another(stage: Stage, folder: Path) -> Run:
    """An upload to a site that has done one before."""
    scene = stage.site(folder)
    begin = {LOG: (scene.folder / LOG).read_bytes()}
    begin |= {f"delivered/{path}": content for path, content in scene.files().items()}
    known = frozenset(Path(path).stem for path in scene.files())
    parents = {str(parent) for path in begin for parent in Path(path).parents} - {"."}
    return Run(
        Disk(begin, {*parents, *IN_THE_BEGINNING}), recorded(scene), stage.undisturbed, known
    )


def first(stage: Stage, folder: Path) -> Run:
    """The first upload of a site."""
    scene = Beginning(stage, folder)
    steps = recorded(scene)
    secret = (scene.folder / SECRET_FILE).read_bytes()
    return Run(Disk({}, IN_THE_BEGINNING), steps, scene.files(), secret=secret)


RUNS = {"": another, " in a first upload": first}


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("when", RUNS)
def test_whenever_the_power_fails_the_log_has_all_that_left_and_no_file_is_half(
    when: str, stage: Stage, tmp_path: Path, pytestconfig: pytest.Config, tally: Tally
) -> None:
    variants, every = VARIANTS[amount(pytestconfig)], EVERY[amount(pytestconfig)]
    run = RUNS[when](stage, tmp_path / "site")
    disk, aftermath = run.before, Aftermath(run)
    chance = random.Random(1)
    for number, step in enumerate(run.steps):
        aftermath.take(step)
        disk.take(step)
        if number % every == 0 or step.kind in ("sync", "link"):
            for some in range(1 + variants):
                rebuilt = disk.with_some(chance) if some else disk.without()
                found = aftermath.problems(rebuilt, tmp_path / "rebuilt")
                kind = "part of the rest is there" if some else "the rest is gone"
                tally(f"power fails{when}, {kind}", 1, found)
    assert len(aftermath.begun) == len(run.delivered) - len(run.known)
    assert aftermath.problems(disk.without(), tmp_path / "rebuilt") == []
    assert {path for path in disk.without() if path.startswith("delivered/")} == {
        f"delivered/{path}" for path in run.delivered
    }


@pytest.mark.timeout(1800)
def test_whenever_the_power_fails_in_a_first_upload_the_next_one_does_the_work(
    stage: Stage, tmp_path: Path, pytestconfig: pytest.Config, tally: Tally
) -> None:
    run = first(stage, tmp_path / "site")
    instants = [number for number, step in enumerate(run.steps) if step.kind in ("sync", "link")]
    how_many = BEGUN_AGAIN[amount(pytestconfig)]
    wanted = set(chosen(pytestconfig, instants, how_many, how_many))
    for number, step in enumerate(run.steps):
        run.before.take(step)
        if number in wanted:
            scene = Beginning(stage, tmp_path / str(number))
            write(run.before.without(), scene.folder)
            there = scene.files()
            ran = scene.again()
            problems = [] if ran.code == 0 else [Problem(LOST, ran.out[-300:] + ran.err)]
            if scene.files() != scene.stage.undisturbed:
                problems.append(Problem(LOST, "the next upload doesn't complete the work"))
            if there.items() - scene.files().items():
                problems.append(Problem(CUT_SHORT, "what was there is another file now"))
            tally("power fails in a first upload, then the next", 1, problems)
            shutil.rmtree(scene.folder)


def write(files: dict[str, bytes], folder: Path) -> None:
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        (folder / path).write_bytes(content)
        (folder / path).chmod(0o600)


@dataclass
class Aftermath:
    """What must be on the disk at an instant of a run, by what was begun until then."""

    run: Run
    begun: set[str] = field(default_factory=set)

    def take(self, step: Step) -> None:
        if step.kind == "write" and step.path.startswith("delivered"):
            by_content = {content: path for path, content in self.run.delivered.items()}
            self.begun.add(Path(by_content[step.data]).stem)

    def problems(self, rebuilt: dict[str, bytes], folder: Path) -> list[Problem]:
        there = {
            path.removeprefix("delivered/"): content
            for path, content in rebuilt.items()
            if path.startswith("delivered/")
        }
        found = [
            Problem(CUT_SHORT, f"{path} isn't the file of an undisturbed run")
            for path, content in there.items()
            if self.run.delivered.get(path) != content
        ]
        logged, uploaded = self._known(rebuilt, folder, found)
        found += [Problem(UNLOGGED, f"{uid} was begun") for uid in self.begun - logged]
        arrived = {Path(path).stem for path in there}
        found += [Problem(LOST, f"{uid} is known as uploaded only") for uid in uploaded - arrived]
        if gone := self.run.known - (logged & arrived):
            found.append(Problem(LOST, f"{len(gone)} files or entries of before are gone"))
        if self.begun and rebuilt.get(SECRET_FILE) != self.run.secret:
            found.append(Problem(LOST, "the site secret, without which no entry resolves"))
        return found

    def _known(
        self, rebuilt: dict[str, bytes], folder: Path, found: list[Problem]
    ) -> tuple[set[str], set[str]]:
        """What the log on the disk has as cleared, and as uploaded."""
        shutil.rmtree(folder, ignore_errors=True)
        write({path: each for path, each in rebuilt.items() if path.startswith(LOG)}, folder)
        if not (folder / LOG).exists():
            return set(), set()
        connection = sqlite3.connect(folder / LOG)
        try:
            if connection.execute("PRAGMA integrity_check").fetchone() != ("ok",):
                found.append(Problem(LOST, "the log is damaged"))
            if not connection.execute(
                "SELECT 1 FROM sqlite_master WHERE name = 'deid_log_upload'"
            ).fetchone():
                return set(), set()
            return self._with(connection, "cleared"), self._with(connection, "uploaded")
        finally:
            connection.close()

    def _with(self, connection: sqlite3.Connection, event: str) -> set[str]:
        rows = connection.execute(
            "SELECT deid_SOPInstanceUID FROM deid_log_instance WHERE log_id IN"
            " (SELECT log_id FROM deid_log_upload WHERE event = ?)",
            (event,),
        )
        return {uid for (uid,) in rows}
