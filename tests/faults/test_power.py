"""The power fails at every instant of an upload: the log holds all that left by then."""

from __future__ import annotations

import random
import shutil
import sqlite3
from pathlib import Path

import pytest

from tests.faults.conftest import amount
from tests.faults.power import Disk, Step, recorded
from tests.faults.scene import Stage
from tests.faults.tally import CUT_SHORT, LOST, UNLOGGED, Problem, Tally
from tests.whole.site import LOG

VARIANTS = {"sample": 0, "share": 2, "whole": 40}
EVERY = {"sample": 6, "share": 1, "whole": 1}


@pytest.fixture(scope="module")
def steps(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> list[Step]:
    made = recorded(stage.site(tmp_path_factory.mktemp("power") / "site"))
    assert not [s for s in made if s.kind == "rename" and not s.path.startswith("tmp/")]
    return made


@pytest.mark.timeout(900)
def test_whenever_the_power_fails_the_log_has_all_that_left_and_no_file_is_half(
    stage: Stage, steps: list[Step], tmp_path: Path, pytestconfig: pytest.Config, tally: Tally
) -> None:
    variants, every = VARIANTS[amount(pytestconfig)], EVERY[amount(pytestconfig)]
    disk = Disk(Path(LOG), {LOG: (stage.begun / LOG).read_bytes()})
    places = Places(stage)
    chance = random.Random(1)
    for number, step in enumerate(steps):
        places.take(step)
        disk.take(step)
        if number % every == 0 or step.kind in ("sync", "link"):
            for some in range(1 + variants):
                rebuilt = disk.with_some(chance) if some else disk.without()
                found = places.problems(rebuilt, tmp_path)
                kind = "part of the rest is there" if some else "the rest is gone"
                tally(f"power fails, {kind}", 1, found)
    assert len(places.begun) == len(stage.undisturbed) - 2


class Places:
    """What of the delivered files was begun, has its name, and has it for sure."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.begun: set[str] = set()
        self._unnamed: dict[str, set[str]] = {}
        self._dirty: set[str] = set()
        self._not_sure: dict[str, set[str]] = {}
        self._half: list[str] = []
        self._by_content = {content: path for path, content in stage.undisturbed.items()}

    def take(self, step: Step) -> None:
        if not step.path.startswith("delivered"):
            return
        if step.kind == "write":
            self._dirty.add(step.path)
            self.begun.add(Path(self._by_content[step.data]).name.removesuffix(".dcm"))
        elif step.kind == "sync":
            self._dirty.discard(step.path)
            self._not_sure.pop(step.path, None)
        elif step.kind == "mkdir":
            self._names(step.path)
        elif step.kind == "link":
            if step.path in self._dirty:
                self._half.append(step.name)
            self._names(step.name)

    def _names(self, path: str) -> None:
        self._not_sure.setdefault(str(Path(path).parent), set()).add(path)

    def problems(self, rebuilt: dict[str, bytes], folder: Path) -> list[Problem]:
        shutil.rmtree(folder / "home", ignore_errors=True)
        for path, content in rebuilt.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        connection = sqlite3.connect(folder / LOG)
        try:
            (state,) = connection.execute("PRAGMA integrity_check").fetchone()
            logged = {
                uid
                for (uid,) in connection.execute(
                    "SELECT deid_SOPInstanceUID FROM deid_log_instance AS i WHERE EXISTS"
                    " (SELECT 1 FROM deid_log_upload WHERE log_id = i.log_id AND event = 'cleared')"
                )
            }
            uploaded = {
                uid
                for (uid,) in connection.execute(
                    "SELECT deid_SOPInstanceUID FROM deid_log_instance JOIN deid_log_upload"
                    " USING (log_id) WHERE event = 'uploaded'"
                )
            }
        finally:
            connection.close()
        found = [Problem(CUT_SHORT, f"{name} got its name too early") for name in self._half]
        if state != "ok":
            found.append(Problem(LOST, "the log is damaged"))
        found += [Problem(UNLOGGED, f"{uid} was begun") for uid in self.begun - logged]
        if len(logged) < 2:
            found.append(Problem(LOST, "what was logged before is gone"))
        not_sure = {Path(path).name for some in self._not_sure.values() for path in some}
        found += [
            Problem(LOST, f"{uid} is known as uploaded, and its name isn't on the disk")
            for uid in uploaded
            if f"{uid}.dcm" in not_sure
        ]
        return found
