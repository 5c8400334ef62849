"""Each call of an upload on the log's and on the destination's files fails in a run of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.aftermath import everything
from tests.faults.calls import FAULTS, Call, calls_of_an_upload, upload_with
from tests.faults.conftest import amount, chosen
from tests.faults.scene import Stage
from tests.faults.tally import Tally

SLOTS = {"sample": 2, "share": 32, "whole": 32}
"""Tests that share the calls of a fault among them: how many there are, a dry run says."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "slot" in metafunc.fixturenames:
        metafunc.parametrize("slot", range(SLOTS[amount(metafunc.config)]))


@pytest.fixture(scope="session")
def calls(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> list[Call]:
    return calls_of_an_upload(stage.site(tmp_path_factory.mktemp("dry") / "site"))


@pytest.fixture
def some(calls: list[Call], fault: str, slot: int, pytestconfig: pytest.Config) -> list[Call]:
    turned = [*calls[FAULTS.index(fault) :], *calls[: FAULTS.index(fault)]]
    slots = SLOTS[amount(pytestconfig)]
    return list(chosen(pytestconfig, turned, slots, slots))[slot::slots]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_call_fails_nothing_leaves_unlogged_and_the_next_run_completes_the_work(
    stage: Stage, tmp_path: Path, some: list[Call], fault: str, tally: Tally
) -> None:
    for number, call in enumerate(some):
        scene = stage.site(tmp_path / str(number))
        ran, injected = upload_with(scene, call, fault)
        tally(f"system call: {fault}", injected, everything(scene, ran))


def test_the_dry_run_sees_the_calls_that_count(calls: list[Call]) -> None:
    seen = {(call.name, Path(call.path).name) for call in calls}
    log = {("pwrite64", "log.db-wal"), ("fdatasync", "log.db-wal"), ("fdatasync", "log.db")}
    assert log | {("fsync", "delivered"), ("write", ""), ("fsync", "")} <= seen
    assert {"openat", "linkat", "mkdir", "mmap", "ftruncate", "unlink"} <= {c.name for c in calls}
    assert len(calls) > 250
