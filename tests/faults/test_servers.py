"""The server behind which the log is, is killed or stopped at random instants of an upload."""

from __future__ import annotations

import random
import signal
import threading
import time
from pathlib import Path

import pytest

from tests.faults.aftermath import everything
from tests.faults.conftest import amount
from tests.faults.scene import SLOW, Stage
from tests.faults.servers import server_of, site_behind
from tests.faults.tally import LEAKED, LOST, Problem, Tally
from tests.whole.canaries import found_in

pytestmark = pytest.mark.ci

TRIES = {"sample": 1, "share": 3, "whole": 40}
KINDS = {"sample": ("service",)}
EVERY_KIND = ("service", "PostgreSQL", "MariaDB")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    how_much = amount(metafunc.config)
    metafunc.parametrize("kind", KINDS.get(how_much, EVERY_KIND))
    metafunc.parametrize("number", range(TRIES[how_much]))


@pytest.mark.parametrize("deed", ["killed", "stopped"])
def test_a_server_that_is_killed_or_stopped(
    stage: Stage, tmp_path: Path, kind: str, deed: str, number: int, tally: Tally
) -> None:
    chance = random.Random(number)
    server = server_of(kind, tmp_path / "server")
    try:
        scene = site_behind(server, stage, tmp_path / "site")
        scene.plug_in(SLOW)
        with server.load() as acknowledged:
            process = scene.go(DEID_HOOKS_DEADLINE="2")
            time.sleep(chance.uniform(0.15, 0.8))
            scene.unplug()
            injected = process.poll() is None
            if deed == "killed":
                server.send(signal.SIGKILL)
                ran = scene.ended(process)
                server.restart()
            else:
                server.send(signal.SIGSTOP)
                going_on = threading.Timer(7, server.send, [signal.SIGCONT])
                going_on.start()
                ran = scene.ended(process)
                going_on.join()
        problems = everything(scene, ran)
        there = {log_id for (log_id,) in server.query("SELECT id FROM deid_log")}
        if gone := set(acknowledged) - there:
            problems.append(Problem(LOST, f"{len(gone)} acknowledged entries of others are gone"))
        if found := found_in(server.said()):
            problems.append(Problem(LEAKED, f"{len(found)} values in what the server says"))
    finally:
        server.remove()
    tally(f"{kind} {deed} under an upload", int(injected), problems)
