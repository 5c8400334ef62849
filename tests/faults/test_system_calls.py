"""Each call on the log's and on the destination's files fails in a run of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.aftermath import everything
from tests.faults.calls import FAULTS, Call, calls_of, run_with
from tests.faults.conftest import amount, chosen
from tests.faults.forgetting import Forgetting
from tests.faults.scene import Stage
from tests.faults.tally import Tally

SLOTS = {"sample": 2, "share": 32, "whole": 32}
"""Tests that share the calls of a fault among them: how many there are, a dry run says."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "slot" in metafunc.fixturenames:
        metafunc.parametrize("slot", range(SLOTS[amount(metafunc.config)]))


@pytest.fixture(scope="session")
def calls(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> list[Call]:
    scene = stage.site(tmp_path_factory.mktemp("dry") / "site")
    return calls_of(scene, scene.upload_all)


@pytest.fixture(scope="session")
def calls_of_forgetting(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> list[Call]:
    scene = stage.site(tmp_path_factory.mktemp("dry") / "site")
    return calls_of(scene, Forgetting(scene).run)


Some = Callable[[list[Call]], list[Call]]


@pytest.fixture
def some(fault: str, slot: int, pytestconfig: pytest.Config) -> Some:
    """Picks the share of these calls that is this test's."""

    def pick(calls: list[Call]) -> list[Call]:
        turned = [*calls[FAULTS.index(fault) :], *calls[: FAULTS.index(fault)]]
        slots = SLOTS[amount(pytestconfig)]
        return list(chosen(pytestconfig, turned, slots, slots))[slot::slots]

    return pick


@pytest.mark.timeout(900)
@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_call_fails_nothing_leaves_unlogged_and_the_next_run_completes_the_work(
    stage: Stage, tmp_path: Path, calls: list[Call], some: Some, fault: str, tally: Tally
) -> None:
    for number, call in enumerate(some(calls)):
        scene = stage.site(tmp_path / str(number))
        ran, injected = run_with(scene, scene.upload_all, call, fault)
        tally(f"system call: {fault}", injected, everything(scene, ran))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_call_fails_an_entry_is_there_whole_or_forgotten_and_can_be_forgotten_then(
    stage: Stage,
    tmp_path: Path,
    calls_of_forgetting: list[Call],
    some: Some,
    fault: str,
    tally: Tally,
) -> None:
    for number, call in enumerate(some(calls_of_forgetting)):
        scene = stage.site(tmp_path / str(number))
        forgetting = Forgetting(scene)
        ran, injected = run_with(scene, forgetting.run, call, fault)
        tally(f"system call of forgetting: {fault}", injected, forgetting.aftermath(ran))


def test_the_dry_run_sees_the_calls_that_count(calls: list[Call]) -> None:
    seen = {(call.name, Path(call.path).name) for call in calls}
    log = {("pwrite64", "log.db-wal"), ("fdatasync", "log.db-wal"), ("fdatasync", "log.db")}
    assert log | {("fsync", "delivered"), ("write", ""), ("fsync", "")} <= seen
    assert {"openat", "linkat", "mkdir", "mmap", "ftruncate", "unlink"} <= {c.name for c in calls}
    assert len(calls) > 250
