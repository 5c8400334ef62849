"""The archive that receives is killed, or stopped, at random instants of an upload."""

from __future__ import annotations

import random
import signal
import threading
import time
from pathlib import Path

import pytest

from tests.faults.aftermath import everything
from tests.faults.archives import ArchivedScene
from tests.faults.conftest import amount
from tests.faults.scene import SLOW, Ran, Stage
from tests.faults.tally import Tally
from tests.networks import network_of_its_own
from tests.orthanc import DICOM, DICOMWEB, Orthanc

pytestmark = pytest.mark.ci

TRIES = {"sample": 1, "share": 3, "whole": 40}
WAYS = {"C-STORE": DICOM, "STOW-RS": DICOMWEB}
EVERY = [(way, deed) for way in WAYS for deed in ("killed", "stopped")]
KINDS = {"sample": EVERY[:1]}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    how_much = amount(metafunc.config)
    metafunc.parametrize(("way", "deed"), KINDS.get(how_much, EVERY))
    metafunc.parametrize("number", range(TRIES[how_much]))


def test_an_archive_that_is_killed_or_stopped(
    stage: Stage, tmp_path: Path, way: str, deed: str, number: int, tally: Tally
) -> None:
    chance = random.Random(number)
    with network_of_its_own() as network:
        archive = Orthanc(network, tmp_path / "archive").start()
        try:
            scene = ArchivedScene(stage, tmp_path / "site", archive, WAYS[way])
            scene.plug_in(SLOW.replace("0.05", "0.15"))
            process = scene.go(*network)
            time.sleep(chance.uniform(0.3, 1.4))
            scene.unplug()
            injected = process.poll() is None
            if deed == "killed":
                archive.process.kill()
                ran = scene.ended(process)
                archive.process.wait()
                archive.start()
            else:
                archive.process.send_signal(signal.SIGSTOP)
                going_on = threading.Timer(4, archive.process.send_signal, [signal.SIGCONT])
                going_on.start()
                ran = scene.ended(process)
                going_on.join()

            def again() -> Ran:
                return scene.upload_all(*network)

            problems = everything(scene, ran, again)
        finally:
            archive.process.kill()
            archive.process.wait()
    tally(f"archive {deed} under an upload, {way}", int(injected), problems)
