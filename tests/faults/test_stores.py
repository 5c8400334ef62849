"""Logs and destinations that are full, gone, replaced, frozen; and clocks that go back."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.faults.aftermath import completed, everything, kept, leaks, message, out_there
from tests.faults.conftest import amount, chosen
from tests.faults.scene import Ran, Scene, Stage, sqlite_log
from tests.faults.tally import WRONG_MESSAGE, Problem, Tally
from tests.needed import program
from tests.whole.disks import kilobytes_used, remount, small_disk
from tests.whole.site import LOG, Site

pytestmark = pytest.mark.ci

STORE = Path(LOG).parent
ROOM = (40, 100, 200, 400)
MOMENTS = ("post_deid", "pre_upload", "post_upload")

AT = """
import subprocess
from deid_hooks import hookimpl
calls = 0
@hookimpl
def {moment}(event):
    global calls
    calls += 1
    if calls == 2:  # in a process of its own: ours must not open and close the files of the log
        subprocess.run(["sh", "-ec", {script!r}], check=True)
        open("injected", "w").close()
"""


def upload_with(scene: Scene, moment: str, script: str) -> tuple[Ran, bool]:
    """An upload in which a script runs at the second call of a hook, and whether it did."""
    scene.plug_in(AT.format(moment=moment, script=script))
    ran = scene.upload_all()
    scene.unplug()
    return ran, (scene.folder / "injected").exists()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    def some(names: tuple[str, ...], cases: Sequence[tuple[object, ...]], sample: int) -> None:
        metafunc.parametrize(names, chosen(metafunc.config, cases, sample, len(cases)))

    if "room" in metafunc.fixturenames:
        whole = amount(metafunc.config) == "whole"
        sizes = range(40, 460, 10) if whole else ROOM
        staging = range(0, 160, 10) if whole else (40, 100)  # one series waits there at a time
        rooms = [(kb, place) for kb in sizes for place in ("log", "delivered")]
        some(("room", "place"), [*rooms, *((kb, "tmp") for kb in staging)], 5)
    if "taking" in metafunc.fixturenames:
        some(("taking", "moment"), [(t, m) for t in TAKEN for m in MOMENTS], 3)
    if "turning" in metafunc.fixturenames:
        cases = [(t, p, m) for t in TURNED for p in ("log", "delivered", "tmp") for m in MOMENTS]
        some(("turning", "place", "moment"), cases, 2)


def test_a_disk_that_fills_up(
    stage: Stage, tmp_path: Path, room: int, place: str, tally: Tally
) -> None:
    scene = stage.site(tmp_path / "site")
    with OnADisk(scene, place) as disk:
        remount(disk, f"size={kilobytes_used(disk) + room}k")
        ran = scene.upload_all()
        full = ran.code != 0 or free(disk) < 8
        problems = [*out_there(scene), *kept(scene, ran), *leaks(scene, ran)]
        problems += message(ran, scene.files() == stage.undisturbed)
        remount(disk, "size=20000k")
        problems += completed(scene)
    tally(f"disk of the {named(place)} full", int(full), problems)


TURNED = {
    "read-only": ("mount -o remount,ro {disk}", "mount -o remount,rw {disk}"),
    "unmounted": ("umount --lazy {disk}", "mount --bind {kept} {disk}"),
}


def test_a_disk_that_is_taken_away(
    stage: Stage, tmp_path: Path, turning: str, place: str, moment: str, tally: Tally
) -> None:
    scene = stage.site(tmp_path / "site")
    take, give = TURNED[turning]
    with OnADisk(scene, place) as disk:
        kept_at = tmp_path / "kept"
        kept_at.mkdir()
        subprocess.run(["mount", "--bind", str(disk), str(kept_at)], check=True)
        try:
            ran, injected = upload_with(scene, moment, take.format(disk=disk))
            shell = give.format(disk=disk, kept=kept_at)
            # Read-only is refused while a descriptor is open for writing, as the log's is.
            changed = injected or "busy" in ran.err + ran.out
            subprocess.run(["sh", "-c", shell], check=True)
            problems = [*out_there(scene), *kept(scene, ran), *leaks(scene, ran)]
            problems += message(ran, scene.files() == stage.undisturbed)
            problems += completed(scene)
        finally:
            subprocess.run(["umount", "--lazy", str(kept_at)], check=True)
            if turning == "unmounted":
                subprocess.run(["umount", "--lazy", str(disk)], capture_output=True)
    tally(f"disk of the {named(place)} {turning}", int(changed), problems)


TAKEN = {
    "deleted": "rm log.db log.db-wal log.db-shm",
    "replaced": "cp {other} new.db; rm log.db-wal log.db-shm; mv new.db log.db",
    "overwritten in place": "cp {other} log.db",
    "robbed of its -wal": "rm log.db-wal log.db-shm",
}


@pytest.fixture(scope="session")
def other(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The log of another site."""
    return Site(tmp_path_factory.mktemp("other") / "site").folder / LOG


def test_a_log_that_is_taken_away(
    scene: Scene, other: Path, taking: str, moment: str, tally: Tally
) -> None:
    saved = scene.folder / "saved"
    script = f"mkdir saved; cp -p {STORE}/log.db {STORE}/log.db-wal saved/; cd {STORE};" + TAKEN[
        taking
    ].format(other=other)
    ran, injected = upload_with(scene, moment, script)
    problems = [*leaks(scene, ran), *message(ran, scene.files() == scene.stage.undisturbed)]
    # What was logged before stands in the log that was taken, what came later in the one there.
    found = scene.folder / "found"
    found.mkdir()
    for path in (scene.folder / STORE).glob("log.db*"):
        shutil.copy2(path, found / path.name)
    logs = [sqlite_log(saved / "log.db")]
    if readable(found / "log.db"):
        logs.append(sqlite_log(found / "log.db"))
    problems += out_there(scene, *logs)
    for path in (scene.folder / STORE).glob("log.db*"):
        path.unlink()
    shutil.copytree(saved, scene.folder / STORE, dirs_exist_ok=True)
    shutil.rmtree(found)
    shutil.rmtree(saved)
    problems += completed(scene)
    tally(f"log {taking}", int(injected), problems)


def test_a_log_that_is_locked_for_longer_than_the_deadline(scene: Scene, tally: Tally) -> None:
    connection = sqlite3.connect(scene.folder / LOG)
    connection.execute("BEGIN IMMEDIATE")
    ran = scene.upload_all(DEID_HOOKS_DEADLINE="1")
    connection.close()
    problems = everything(scene, ran)
    if ran.code != 69:
        problems.append(Problem(WRONG_MESSAGE, f"exit code {ran.code} of a log that is locked"))
    tally("log locked for longer than the deadline", 1, problems)


def test_a_clock_that_is_set_back(scene: Scene, tally: Tally) -> None:
    """By libfaketime: an hour back as soon as the first series is logged."""
    faketime = program("faketime")
    library = next(Path("/usr/lib").rglob("libfaketimeMT.so.1"), None)
    assert library, f"{faketime} comes with a library"
    clock = scene.folder / "clock"
    clock.write_text("+0")
    faked = {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    scene.plug_in(AT.format(moment="post_deid", script="echo -3600s > clock"))
    scene.environment |= faked
    ran = scene.upload_all()
    scene.unplug()
    for name in faked:
        del scene.environment[name]
    created = [row[0] for row in scene.sql("SELECT created FROM deid_log ORDER BY seq")]
    went_back = created != sorted(created)
    tally("clock set back by an hour", int(went_back), everything(scene, ran))


class OnADisk:
    """The log's or the destination's folder on a file system of its own, with what it holds."""

    def __init__(self, scene: Scene, place: str) -> None:
        self._folder = scene.folder / (STORE if place == "log" else place)
        self._scene = scene
        self._disk = small_disk(self._folder, 20_000)

    def __enter__(self) -> Path:
        aside = self._folder.with_name("aside")
        self._folder.rename(aside)
        self._disk.__enter__()
        shutil.copytree(aside, self._folder, dirs_exist_ok=True)
        self._folder.chmod(0o700)
        shutil.rmtree(aside)
        self._scene.before = self._scene.marks()
        return self._folder

    def __exit__(self, *error: object) -> None:
        self._disk.__exit__(None, None, None)


def named(place: str) -> str:
    return {"log": "log", "delivered": "destination", "tmp": "temporary folder"}[place]


def free(disk: Path) -> int:
    """Kilobytes that are free there."""
    status = os.statvfs(disk)
    return status.f_bavail * status.f_frsize // 1024


def readable(log: Path) -> bool:
    """Whether it is a log that plain sqlite3 can read."""
    try:
        connection = sqlite3.connect(log)
        connection.execute("SELECT count(*) FROM deid_log").fetchone()
    except sqlite3.Error:
        return False
    connection.close()
    return True
