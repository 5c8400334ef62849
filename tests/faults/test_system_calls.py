"""Each call of a command on the files of a site fails in a run of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pytest

from tests.faults.aftermath import everything
from tests.faults.beginning import Beginning
from tests.faults.calls import FAULTS, Call, calls_of, run_with
from tests.faults.conftest import amount
from tests.faults.forgetting import Forgetting
from tests.faults.looking import Looking
from tests.faults.scene import Ran, Scene, Stage
from tests.faults.tally import Problem, Tally

pytestmark = pytest.mark.ci


class Deed(Protocol):
    """A command of a scene, and what must hold after it had a fault."""

    @property
    def scene(self) -> Scene: ...

    def run(self, *prefix: str) -> Ran: ...

    def aftermath(self, ran: Ran) -> list[Problem]: ...


class Uploading:
    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.run = scene.upload_all

    def aftermath(self, ran: Ran) -> list[Problem]:
        return everything(self.scene, ran)


class BeginningToUpload:
    def __init__(self, scene: Beginning) -> None:
        self.scene = scene
        self.run, self.aftermath = scene.upload_all, scene.aftermath


DEEDS: dict[str, Callable[[Stage, Path], Deed]] = {
    "an upload": lambda stage, folder: Uploading(stage.site(folder)),
    "a first upload": lambda stage, folder: BeginningToUpload(Beginning(stage, folder)),
    "forget": lambda stage, folder: Forgetting(stage.site(folder)),
    "show": lambda stage, folder: Looking(stage.site(folder), "show"),
    "reidentify": lambda stage, folder: Looking(stage.site(folder), "reidentify"),
}
MOST = 1000
AMOUNTS = {
    "an upload": {"sample": 2, "share": 32, "whole": MOST},
    "a first upload": {"sample": 1, "share": 6, "whole": 100},
    "forget": {"sample": 1, "share": 16, "whole": MOST},
    "show": {"sample": 1, "share": 6, "whole": MOST},
    "reidentify": {"sample": 1, "share": 6, "whole": MOST},
}
"""How many of its calls fail, with each error."""

SLOTS = 32
"""Tests that share them among each other: how many there are, only a dry run tells."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "slot" in metafunc.fixturenames:
        how_much = amount(metafunc.config)
        cases = [
            (deed, fault, slot)
            for deed in DEEDS
            for fault in FAULTS
            for slot in range(min(SLOTS, AMOUNTS[deed][how_much]))
        ]
        metafunc.parametrize(("deed", "fault", "slot"), cases)


Calls = Callable[[str], list[Call]]


@pytest.fixture(scope="session")
def calls(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Calls:
    """The calls of each deed, from a dry run of it."""
    known: dict[str, list[Call]] = {}

    def of(deed: str) -> list[Call]:
        if deed not in known:
            made = DEEDS[deed](stage, tmp_path_factory.mktemp("dry") / "site")
            found = calls_of(made.scene, made.run)
            if deed == "a first upload":  # below there, names are others with each new secret
                found = [call for call in found if not call.path.startswith("delivered/")]
            known[deed] = found
        return known[deed]

    return of


@pytest.mark.timeout(900)
def test_whatever_call_fails_all_that_must_hold_does(
    stage: Stage,
    tmp_path: Path,
    calls: Calls,
    deed: str,
    fault: str,
    slot: int,
    pytestconfig: pytest.Config,
    tally: Tally,
) -> None:
    all_of_them = calls(deed)
    turn = FAULTS.index(fault)  # where not all of them fail, each fault takes others
    turned = all_of_them[turn:] + all_of_them[:turn]
    count = min(AMOUNTS[deed][amount(pytestconfig)], len(turned))
    some = [turned[number * len(turned) // count] for number in range(count)]
    for number, call in enumerate(some[slot::SLOTS]):
        made = DEEDS[deed](stage, tmp_path / str(number))
        ran, injected = run_with(made.scene, made.run, call, fault)
        tally(f"system call of {deed}: {fault}", injected, made.aftermath(ran))


def test_the_dry_run_sees_the_calls_that_count(calls: Calls) -> None:
    upload = calls("an upload")
    seen = {(call.name, Path(call.path).name) for call in upload}
    log = {("pwrite64", "log.db-wal"), ("fdatasync", "log.db-wal"), ("fdatasync", "log.db")}
    assert log | {("fsync", "delivered"), ("write", ""), ("fsync", "")} <= seen
    assert {"openat", "linkat", "mkdir", "mmap", "ftruncate", "unlink"} <= {c.name for c in upload}
    assert len(upload) > 250
    first = {(call.name, call.path) for call in calls("a first upload")}
    assert {("link", "home/.config/deid-hooks/secret"), ("mkdir", "home/.config")} <= first
    assert ("fdatasync", "log.db-wal") in {(c.name, Path(c.path).name) for c in calls("show")}
    assert ("linkat", "back") in {(c.name, c.path.split("/")[0]) for c in calls("reidentify")}
