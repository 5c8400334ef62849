"""The uploader is killed at random instants, with its workers or without them."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.faults.aftermath import everything
from tests.faults.calls import Call, strace
from tests.faults.conftest import amount
from tests.faults.scene import SLOW, Scene, family
from tests.faults.tally import Tally

KILLS = {"sample": 2, "share": 30, "whole": 300}
WORKERS = {"sample": 1, "share": 4, "whole": 40}
FSYNCS = {"sample": 1, "share": 8, "whole": 45}
COMMITS = 12
"""At least so many times an upload brings the -wal to the disk."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for name, counts in (("kill", KILLS), ("worker", WORKERS), ("fsync", FSYNCS)):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, range(counts[amount(metafunc.config)]))


def test_a_killed_upload_leaves_nothing_unlogged_and_nothing_half(
    scene: Scene, kill: int, tally: Tally
) -> None:
    chance = random.Random(kill)
    scene.plug_in(SLOW)
    process = scene.go(jobs=2)
    time.sleep(chance.uniform(0.2, 0.9))
    scene.unplug()
    running = family(process.pid)
    ended = process.poll() is not None
    if not ended:
        # Half of the times the uploader alone: its workers have to notice.
        for one in running if chance.random() < 0.5 else running[:1]:
            os.kill(one, signal.SIGKILL)
    ran = scene.ended(process)
    tally("kill -9 of the uploader, two workers", int(not ended), everything(scene, ran))


def test_an_upload_that_loses_a_worker_says_so(scene: Scene, worker: int, tally: Tally) -> None:
    chance = random.Random(worker)
    scene.plug_in(SLOW)
    process = scene.go(jobs=2)
    while not (workers := workers_of(process.pid)) and process.poll() is None:
        time.sleep(0.01)
    time.sleep(chance.uniform(0, 0.6))
    scene.unplug()
    one = chance.choice(workers)
    try:
        os.kill(one, signal.SIGKILL)
        killed = True
    except ProcessLookupError:
        killed = False
    ran = scene.ended(process)
    tally("kill -9 of a worker", int(killed), everything(scene, ran))


def workers_of(process: int) -> list[int]:
    """The processes that de-identify for an uploader."""
    found = []
    for one in family(process)[1:]:
        try:
            said = Path(f"/proc/{one}/cmdline").read_bytes()
        except OSError:
            continue
        if b"spawn_main" in said:
            found.append(one)
    return found


def test_an_upload_whose_commit_does_not_reach_the_disk_and_that_is_killed_then(
    scene: Scene, fsync: int, tally: Tally
) -> None:
    chance = random.Random(fsync)
    call = Call("fdatasync", "home/.local/share/deid-hooks/log.db-wal", 1 + fsync % COMMITS)
    where = ["-P", str(scene.folder / call.path)]
    process = scene.go(*strace(scene, *where, "-e", f"inject=fdatasync:error=EIO:when={call.n}"))
    trace = scene.folder / "trace.txt"
    injected = False
    while process.poll() is None and not injected:
        injected = trace.exists() and "(INJECTED)" in trace.read_text(errors="replace")
        time.sleep(0.002)
    time.sleep(chance.uniform(0, 0.05))
    for one in reversed(family(process.pid)):
        try:
            os.kill(one, signal.SIGKILL)
        except ProcessLookupError:
            continue
    ran = scene.ended(process)
    trace.unlink()
    tally("the commit's fsync fails, then kill -9", int(injected), everything(scene, ran))
