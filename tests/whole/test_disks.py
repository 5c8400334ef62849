"""Disks that fill up or turn read-only in the middle: nothing leaves unlogged, nothing half."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.whole.site import LOG, SERIES, Site


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[None]:
    """A file system of that size at a folder. Needs root, and the right to mount."""
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={kilobytes}k,mode=0700"
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], capture_output=True)


def completes(site: Site, undisturbed: Site) -> None:
    site.upload(SERIES)
    assert site.files() == undisturbed.files()
    assert site.unlogged() == []


@pytest.fixture
def undisturbed(tmp_path: Path) -> Site:
    made = Site(tmp_path / "undisturbed")
    made.upload(SERIES)
    return made


@pytest.mark.parametrize("kilobytes", [250, 350, 500, 700])
def test_a_log_whose_disk_fills_up_stops_the_upload(
    tmp_path: Path, undisturbed: Site, kilobytes: int
) -> None:
    store = tmp_path / "site" / Path(LOG).parent
    with small_disk(store, 4000):
        site = Site(tmp_path / "site")
        remount(store, f"size={kilobytes}k")
        refused = site.upload(SERIES)
        remount(store, "size=20000k")
        if site.files() != undisturbed.files():
            assert refused.returncode in (3, 69)
            assert "Unable to" in refused.stderr + refused.stdout
        assert site.unlogged() == []
        completes(site, undisturbed)


def test_a_log_that_turns_read_only_stops_the_upload(tmp_path: Path, undisturbed: Site) -> None:
    store = tmp_path / "site" / Path(LOG).parent
    with small_disk(store, 20_000):
        site = Site(tmp_path / "site")
        for wait in (0.0, 0.4, 0.5, 0.6):
            process = site.start("upload", str(SERIES), "folder:delivered", "--project", "TRIAL7")
            time.sleep(wait)
            remount(store, "ro")
            process.communicate(timeout=60)
            remount(store, "rw")
            wanted = undisturbed.files()
            assert all(wanted.get(name) == content for name, content in site.files().items())
            assert site.unlogged() == []
        completes(site, undisturbed)


@pytest.mark.parametrize("kilobytes", [100, 200])
def test_a_destination_that_fills_up_holds_whole_files_only(
    tmp_path: Path, undisturbed: Site, kilobytes: int
) -> None:
    site = Site(tmp_path / "site")
    with small_disk(site.delivered, kilobytes):
        failed = site.upload(SERIES)
        assert failed.returncode == 3
        assert "is full" in failed.stdout
        wanted = undisturbed.files()
        assert all(wanted.get(name) == content for name, content in site.files().items())
        remount(site.delivered, "size=50000k")
        completes(site, undisturbed)
