"""What a process may have runs out: descriptors, the size of files, room for what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.aftermath import everything
from tests.faults.conftest import chosen
from tests.faults.scene import Scene
from tests.faults.tally import Tally
from tests.needed import program

pytestmark = pytest.mark.ci

DESCRIPTORS = range(6, 16)
SIZES = range(10_000, 170_000, 8_000)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for name, cases in (("descriptors", DESCRIPTORS), ("size", SIZES)):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, chosen(metafunc.config, cases, 2, 5))


def test_too_few_descriptors(scene: Scene, descriptors: int, tally: Tally) -> None:
    ran = scene.upload_all(program("prlimit"), f"--nofile={descriptors}")
    enough = ran.code == 0  # which the most of them are, just
    assert not enough or descriptors > min(DESCRIPTORS)
    tally("too few descriptors", 1, everything(scene, ran))


def test_files_that_may_not_get_that_large(scene: Scene, size: int, tally: Tally) -> None:
    ran = scene.upload_all(program("prlimit"), f"--fsize={size}")
    tally("files may not get that large", int(ran.code != 0), everything(scene, ran))


@pytest.mark.parametrize("stream", [">", "2>"])
@pytest.mark.parametrize("buffered", ["", "1"])
def test_no_room_for_what_it_says(scene: Scene, stream: str, buffered: str, tally: Tally) -> None:
    to_a_full_disk = ("sh", "-c", f'exec "$@" {stream}/dev/full', "sh")
    assert Path("/dev/full").exists()
    ran = scene.upload_all(*to_a_full_disk, PYTHONUNBUFFERED=buffered)
    assert scene.files() == scene.stage.undisturbed, "an upload goes on without its report"
    assert ran.code == (1 if stream == ">" else 0)
    tally("no room for what it says", 1, everything(scene, ran))
