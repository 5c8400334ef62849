from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from resource import RLIM_INFINITY, RLIMIT_FSIZE, setrlimit
from typing import IO

import pytest
from pydicom import dcmread, dcmwrite

from deid_hooks import files
from deid_hooks.destinations import DestinationError, Outgoing
from deid_hooks.destinations.folder import Folder
from deid_hooks.engines import basic
from deid_hooks.records.keys import Pseudonyms

STUDY, SERIES = "1.2", "1.2.1"

DELIVER = """
import os, sys
from pathlib import Path
if sys.argv[1] == "beside":
    del os.O_TMPFILE
from deid_hooks.destinations import Outgoing
from deid_hooks.destinations.folder import Folder
folder = Folder(sys.argv[3])
folder.check()
for path in sorted(Path(sys.argv[2]).iterdir()):
    result = folder.send(Outgoing(path, "1.2", "1.2.1", path.stem))
    # So long that a pipe holds sixteen of them: nobody is further ahead of who reads them.
    print(result.ljust(4000), flush=True)
folder.finish()
"""


@pytest.fixture(params=["unnamed", "beside", "beside, without links"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The ways in which a new file gets its name, by what the file system can do."""
    if request.param != "unnamed":
        monkeypatch.delattr(os, "O_TMPFILE")
    if request.param == "beside, without links":

        def no_links(*args: object, **kwargs: object) -> None:
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(os, "link", no_links)
    return str(request.param)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def folder(out: Path) -> Folder:
    folder = Folder(str(out))
    folder.check()
    return folder


@pytest.fixture
def staged(tmp_path: Path) -> Path:
    path = tmp_path / "staged.dcm"
    path.write_bytes(b"one")
    return path


def files_in(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir())


def path_of(descriptor: int) -> str:
    return str(Path(f"/proc/self/fd/{descriptor}").readlink())


# What is delivered


def test_a_file_lies_under_its_uids(way: str, folder: Folder, out: Path, staged: Path) -> None:
    assert folder.send(Outgoing(staged, "1.2", "1.2.1", "1.2.1.9")) == "uploaded"
    folder.finish()
    assert files_in(out) == ["1.2/1.2.1/1.2.1.9.dcm"]
    assert (out / "1.2/1.2.1/1.2.1.9.dcm").read_bytes() == b"one"


def test_the_same_file_is_not_sent_twice(way: str, folder: Folder, out: Path, staged: Path) -> None:
    assert not folder.has(Outgoing(staged, STUDY, SERIES, "1.2.3"))
    assert folder.send(Outgoing(staged, STUDY, SERIES, "1.2.3")) == "uploaded"
    assert folder.has(Outgoing(staged, STUDY, SERIES, "1.2.3"))
    assert folder.send(Outgoing(staged, STUDY, SERIES, "1.2.3")) == "already there"
    assert len(files_in(out)) == 1


def test_two_files_with_one_uid_are_two_files(
    way: str, folder: Folder, out: Path, staged: Path
) -> None:
    for content in (b"one", b"two", b"one", b"three", b"two"):
        staged.write_bytes(content)
        folder.send(Outgoing(staged, STUDY, SERIES, "1.2.3"))
    series = out / STUDY / SERIES
    assert {path.name: path.read_bytes() for path in series.iterdir()} == {
        "1.2.3.dcm": b"one",
        "1.2.3-2.dcm": b"two",
        "1.2.3-3.dcm": b"three",
    }
    assert folder.has(Outgoing(staged, STUDY, SERIES, "1.2.3"))


def test_a_file_that_appears_meanwhile_is_not_written_over(
    way: str, folder: Folder, out: Path, staged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if another process had been a moment faster.
    series = out / STUDY / SERIES
    series.mkdir(parents=True)
    (series / "1.2.3.dcm").write_bytes(b"two")
    monkeypatch.setattr(Folder, "has", lambda *args: False)
    assert folder.send(Outgoing(staged, STUDY, SERIES, "1.2.3")) == "uploaded"
    assert folder.send(Outgoing(staged, STUDY, SERIES, "1.2.3")) == "already there"
    assert (series / "1.2.3.dcm").read_bytes() == b"two"
    assert (series / "1.2.3-2.dcm").read_bytes() == b"one"
    assert len(files_in(out)) == 2


def test_a_link_in_the_way_is_not_followed(folder: Folder, out: Path, staged: Path) -> None:
    series = out / STUDY / SERIES
    series.mkdir(parents=True)
    (series / "1.2.3.dcm").symlink_to(staged)
    assert folder.send(Outgoing(staged, STUDY, SERIES, "1.2.3")) == "uploaded"
    assert (series / "1.2.3-2.dcm").read_bytes() == b"one"


def test_files_of_pydicom_that_share_uids_are_all_there(
    readable_files: list[Path], folder: Folder, out: Path, tmp_path: Path, pseudonyms: Pseudonyms
) -> None:
    engine = basic.engine("", pseudonyms)
    staging = tmp_path / "staging"
    staging.mkdir()
    contents = set()
    uids = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number, path in enumerate(readable_files):
            dataset = dcmread(path, force=True)
            if "SOPInstanceUID" not in dataset or "SeriesInstanceUID" not in dataset:
                continue
            engine(dataset)
            file = staging / str(number)
            try:
                dcmwrite(file, dataset)
            except TypeError:
                continue
            contents.add(file.read_bytes())
            uids.append(str(dataset.SOPInstanceUID))
            folder.send(
                Outgoing(file, dataset.StudyInstanceUID, dataset.SeriesInstanceUID, uids[-1])
            )
    folder.finish()
    assert len(uids) - len(set(uids)) > 20, "many files share a UID"
    delivered = [(out / name).read_bytes() for name in files_in(out)]
    assert len(delivered) == len(contents)
    assert set(delivered) == contents


@pytest.mark.parametrize("mask", [0, 0o077, 0o777])
def test_only_the_owner_may_read_whatever_the_umask(
    way: str, out: Path, staged: Path, mask: int
) -> None:
    before = os.umask(mask)
    try:
        folder = Folder(str(out))
        folder.check()
        folder.send(Outgoing(staged, STUDY, SERIES, "1.2.3"))
        folder.finish()
    finally:
        os.umask(before)
    for path in (out, *out.rglob("*")):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600)


@pytest.mark.parametrize(
    "uid",
    ["../../../etc/cron.d/x", "..", ".", "", "1.2/3", "1.2\n", "1..2", "1.2.", "1.²", "1" * 65],
)
def test_what_is_no_uid_never_becomes_a_path(
    folder: Folder, out: Path, staged: Path, uid: str
) -> None:
    for uids in ((uid, "1", "1"), ("1", uid, "1"), ("1", "1", uid)):
        with pytest.raises(DestinationError, match="InstanceUID is not a UID") as caught:
            folder.send(Outgoing(staged, *uids))
        assert len(uid) < 3 or uid not in str(caught.value)
        with pytest.raises(DestinationError):
            folder.has(Outgoing(staged, *uids))
    assert files_in(out.parent) == ["staged.dcm"]


# Durability


def test_nothing_is_named_before_it_is_on_the_disk_nor_reported_before_its_name_is(
    folder: Folder, out: Path, staged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []
    fsync, link = os.fsync, os.link

    def synced(descriptor: int) -> None:
        steps.append(path_of(descriptor))
        fsync(descriptor)

    def linked(*args: object, **kwargs: object) -> None:
        steps.append("named")
        link(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "link", linked)
    folder.send(Outgoing(staged, STUDY, SERIES, "1.2.3"))
    assert len(steps) == 2
    assert steps[0].startswith(f"{out}/#"), "an unnamed file"
    assert steps[1] == "named"
    folder.finish()
    assert {str(out.parent), str(out), f"{out}/1.2", f"{out}/1.2/1.2.1"} <= set(steps[2:])


def test_what_a_killed_run_left_is_made_durable_too(
    folder: Folder, out: Path, staged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.send(Outgoing(staged, STUDY, SERIES, "1.2.3"))
    again = Folder(str(out))
    again.check()
    assert again.send(Outgoing(staged, STUDY, SERIES, "1.2.3")) == "already there"
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(path_of(descriptor)))
    again.finish()
    assert f"{out}/1.2/1.2.1" in synced


@pytest.fixture
def many(tmp_path: Path) -> Path:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(60):
        (folder / f"1.2.3.{number}.dcm").write_bytes(os.urandom(300_000))
    return folder


def delivering(mode: str, source: Path, out: Path, to: IO[str] | int) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", DELIVER, mode, str(source), str(out)]
    return subprocess.Popen(arguments, stdout=to, text=True)


@pytest.mark.parametrize("mode", ["unnamed", "beside"])
@pytest.mark.parametrize("sent", [1, 25])
def test_a_kill_leaves_whole_files_only_and_the_next_run_sends_the_rest(
    many: Path, out: Path, tmp_path: Path, mode: str, sent: int
) -> None:
    with delivering(mode, many, out, subprocess.PIPE) as killed:
        assert killed.stdout is not None
        for _ in range(sent):
            killed.stdout.readline()
        killed.send_signal(signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL
    before = files_in(out)
    assert sent <= len(before) < 60
    for name in before:
        assert (out / name).read_bytes() == (many / Path(name).name).read_bytes()

    results = tmp_path / "results"
    with results.open("w") as to, delivering(mode, many, out, to) as rest:
        pass
    assert rest.returncode == 0
    assert results.read_text().count("already there") == len(before)
    assert results.read_text().count("uploaded") == 60 - len(before)
    assert {Path(name).name for name in files_in(out)} == {path.name for path in many.iterdir()}
    assert {path.name for path in tmp_path.iterdir()} == {"many", "out", "results"}


@pytest.mark.parametrize("mode", ["unnamed", "beside"])
def test_two_processes_share_a_folder(many: Path, out: Path, tmp_path: Path, mode: str) -> None:
    out.mkdir()
    (many / "1.2.3.7.dcm").write_bytes(b"")
    results = tmp_path / "results"
    with (
        results.open("a") as to,
        delivering(mode, many, out, to) as one,
        delivering(mode, many, out, to) as other,
    ):
        pass
    assert one.returncode == other.returncode == 0
    assert results.read_text().count("uploaded") == 60
    assert results.read_text().count("already there") == 60
    assert len(files_in(out)) == 60
    assert {path.name for path in tmp_path.iterdir()} == {"many", "out", "results"}


def test_leftovers_go_and_what_is_in_use_stays(
    out: Path, staged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "O_TMPFILE")
    folder = Folder(str(out))
    folder.check()
    with files.make_new_file(out) as used:
        beside = out.parent / ".out.deid-hooks"
        (in_use,) = beside.iterdir()
        (beside / "0123456789abcdef").write_bytes(b"half")
        (beside / "notes.txt").write_text("somebody's")
        folder.check()
        assert sorted(path.name for path in beside.iterdir()) == sorted([in_use.name, "notes.txt"])
        used.name(out / "whole")
    assert [path.name for path in beside.iterdir()] == ["notes.txt"]
    assert files_in(out) == ["whole"]


def test_a_new_file_that_was_taken_for_a_leftover_is_made_again(
    folder: Folder, out: Path, staged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "O_TMPFILE")
    flock = fcntl.flock

    def too_late(descriptor: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        files.remove_leftovers(out)  # as another process may, before the lock is held
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", too_late)
    assert folder.send(Outgoing(staged, STUDY, SERIES, "1.2.3")) == "uploaded"
    assert files_in(out) == ["1.2/1.2.1/1.2.3.dcm"]


def test_nobody_lures_the_hidden_folder_elsewhere(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "0123456789abcdef").touch()
    (tmp_path / ".out.deid-hooks").symlink_to(precious)
    monkeypatch.delattr(os, "O_TMPFILE")
    with pytest.raises(DestinationError, match="needs a hidden folder beside it"):
        Folder(str(out)).check()
    assert len(list(precious.iterdir())) == 1


# What goes wrong


def test_a_folder_is_made_but_not_what_should_hold_it(tmp_path: Path) -> None:
    with pytest.raises(DestinationError, match=r"is not there\. Create it, or mount"):
        Folder(str(tmp_path / "not mounted" / "out")).check()
    assert not list(tmp_path.iterdir())


def test_a_file_is_no_destination(staged: Path) -> None:
    with pytest.raises(DestinationError, match="is not a folder"):
        Folder(str(staged)).check()


def test_a_destination_that_vanishes_is_not_made_anew(
    way: str, folder: Folder, out: Path, staged: Path
) -> None:
    folder.send(Outgoing(staged, STUDY, SERIES, "1.2.3"))
    shutil.rmtree(out)
    with pytest.raises(DestinationError, match="is not there"):
        folder.send(Outgoing(staged, STUDY, SERIES, "1.2.4"))
    with pytest.raises(DestinationError, match="is not there"):
        folder.finish()
    assert not out.exists()


def test_a_write_that_fails_leaves_nothing(
    way: str, folder: Folder, out: Path, staged: Path
) -> None:
    staged.write_bytes(bytes(50_000))
    setrlimit(RLIMIT_FSIZE, (10_000, RLIM_INFINITY))
    try:
        with pytest.raises(DestinationError, match="can't be written: file too large"):
            folder.send(Outgoing(staged, STUDY, SERIES, "1.2.3"))
    finally:
        setrlimit(RLIMIT_FSIZE, (RLIM_INFINITY, RLIM_INFINITY))
    assert not list(out.rglob("*"))
    assert {path.name for path in out.parent.iterdir()} == {"out", "staged.dcm"}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 kB of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a file system is not permitted here")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_told_and_nothing_half_is_there(
    small_disk: Path, many: Path, way: str
) -> None:
    folder = Folder(str(small_disk / "out"))
    folder.check()
    one, two, *_ = sorted(many.iterdir())
    assert folder.send(Outgoing(one, STUDY, SERIES, "1.2.1")) == "uploaded"
    with pytest.raises(DestinationError, match=r"is full\. Make room, then run it again"):
        folder.send(Outgoing(two, STUDY, SERIES, "1.2.2"))
    folder.finish()
    assert files_in(small_disk) == ["out/1.2/1.2.1/1.2.1.dcm"]
    assert (small_disk / "out/1.2/1.2.1/1.2.1.dcm").read_bytes() == one.read_bytes()


def test_a_read_only_disk_is_told(small_disk: Path, staged: Path) -> None:
    folder = Folder(str(small_disk))
    folder.check()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(DestinationError, match=r"is read-only\. Mount it for writing"):
        folder.check()
    with pytest.raises(DestinationError, match="is read-only"):
        folder.send(Outgoing(staged, STUDY, SERIES, "1.2.3"))


def test_the_top_of_a_file_system_is_refused_where_it_would_take_a_visible_temporary_file(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "O_TMPFILE")
    with pytest.raises(DestinationError, match="Name a folder within one that you may write"):
        Folder(str(small_disk)).check()


def test_renaming_exclusively_never_replaces_a_file(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"one")
    two.write_bytes(b"two")
    with pytest.raises(FileExistsError):
        files.rename_exclusively(one, two)
    assert two.read_bytes() == b"two"
    files.rename_exclusively(one, tmp_path / "three")
    assert (tmp_path / "three").read_bytes() == b"one"
    assert not one.exists()
