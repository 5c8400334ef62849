"""The SQLite store: durable or not at all, and noticed when it was taken away."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from deid_hooks import Entry, Forgotten, LogUnavailable
from deid_hooks.backends import Deadline
from deid_hooks.backends.sqlite import SQLiteBackend
from deid_hooks.records.model import (
    Erasure,
    Instance,
    Tombstone,
    make_log_id,
)
from deid_hooks.testing.records import chain_seals
from tests.needed import program

Store = SQLiteBackend


def entry(name: str = "Doe^John", log_id: str = "", **values: object) -> Entry:
    made = Entry(
        log_id=log_id or make_log_id(),
        created="2026-01-01T00:00:00.000000Z",
        uploader="test/1",
        project="TRIAL7",
        timestamp="2006-08-15T10:15:00",
        fields={
            "PatientName": (name,),
            "PatientID": ("4711",),
            "SeriesInstanceUID": ("1.2.3",),
            "SeriesTime": ("101500", "101501"),
        },
        deid={"PatientID": ("SUBJ-007",), "SeriesInstanceUID": ("2.25.3",)},
        originals='{"00100010":{"Value":[{"Alphabetic":"x\\u0000\\ud800"}],"vr":"PN"}}',
        instances=(Instance("1.2.3.1", "2.25.31", "{}"), Instance("1.2.3.1", "2.25.31", '{"a":1}')),
        uids=(("2.25.9", "1.2.9"),),
        large={"d" * 64: b"\0large"},
        digest=make_log_id() * 2,
        key="k",
    )
    return replace(made, **values)  # type: ignore[arg-type]


def soon() -> Deadline:
    return Deadline(5)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    backend = SQLiteBackend(f"sqlite:///{path}")
    backend.create(soon())
    yield backend
    backend.close()


def test_the_statements_that_administrators_know_work_in_sqlite3(store: Store, path: Path) -> None:
    known = entry("John Doe")
    store.append([known], chain_seals, soon())

    def ask(sql: str) -> str:
        shell = [program("sqlite3"), str(path), sql]
        return subprocess.run(shell, capture_output=True, text=True, check=True).stdout.strip()

    assert ask("SELECT id FROM deid_log WHERE PatientName = 'John Doe';") == known.log_id
    before = "SELECT SeriesInstanceUID FROM deid_log WHERE timestamp < '2006-08-31';"
    assert ask(before) == "1.2.3"
    assert ask("SELECT log_id FROM deid_log_instance LIMIT 1") == known.log_id
    assert ask("SELECT uid FROM deid_log_uid WHERE deid_uid = '2.25.9'") == "1.2.9"


def test_what_was_forgotten_does_not_come_back_and_leaves_no_byte(store: Store, path: Path) -> None:
    canary = entry("Canary^Carla")
    store.append([canary, entry()], chain_seals, soon())
    assert any(b"Canary^Carla" in file.read_bytes() for file in path.parent.iterdir())
    store.erase([canary.log_id], Erasure("t", "who", "why"), chain_seals, soon())
    assert isinstance(store.resolve(canary.log_id, soon()), Tombstone)
    with pytest.raises(Forgotten):
        store.append([canary], chain_seals, soon())
    store.close()
    assert not any(b"Canary^Carla" in file.read_bytes() for file in path.parent.iterdir())


def test_files_are_their_owners_only_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        backend = SQLiteBackend(f"sqlite:///{tmp_path}/new/log.db")
        backend.create(soon())
        backend.append([entry()], chain_seals, soon())
        modes = {f.name: f.stat().st_mode & 0o777 for f in (tmp_path / "new").iterdir()}
        assert modes == {"log.db": 0o600, "log.db-wal": 0o600, "log.db-shm": 0o600}
        backend.close()
    finally:
        os.umask(before)


def delete(path: Path) -> None:
    path.unlink()


def delete_the_wal(path: Path) -> None:
    path.with_name("log.db-wal").unlink()


def replace_it(path: Path) -> None:
    another(path).replace(path)


def overwrite_it(path: Path) -> None:
    # From another process: opening and closing the file in ours would drop SQLite's locks.
    subprocess.run(["cp", str(another(path)), str(path)], check=True)


def another(path: Path) -> Path:
    other = SQLiteBackend(f"sqlite:///{path.with_name('other.db')}")
    other.create(soon())
    other.close()
    return path.with_name("other.db")


def replace_it_by_its_copy(path: Path) -> None:
    """What was logged up to now is in the copy, and so is the id of the store."""
    for end in ("", "-wal"):
        subprocess.run(["cp", f"{path}{end}", f"{path}{end}.copy"], check=True)
    for end in ("", "-wal"):
        Path(f"{path}{end}.copy").replace(f"{path}{end}")
    path.with_name("log.db-shm").unlink()


HARMS = [delete, delete_the_wal, replace_it, replace_it_by_its_copy, overwrite_it]
Harm = Callable[[Path], None]


@pytest.mark.parametrize("harm", HARMS)
def test_a_log_that_was_taken_away_takes_no_entry_or_shows_that_it_has_it(
    store: Store, path: Path, harm: Harm
) -> None:
    store.append([entry()], chain_seals, soon())
    harm(path)
    after = entry()
    try:
        store.append([after], chain_seals, soon())
    except LogUnavailable:
        return
    assert harm is overwrite_it  # the files are the same, so it is noticed in what they hold
    with pytest.raises(LogUnavailable):
        store.resolve(after.log_id, soon())


@pytest.mark.parametrize("harm", HARMS)
def test_a_log_that_was_taken_away_after_an_entry_was_written_does_not_resolve_it(
    store: Store, path: Path, harm: Harm
) -> None:
    written = entry()
    store.append([written], chain_seals, soon())
    harm(path)
    with pytest.raises(LogUnavailable, match=r"deleted or replaced|no log|damaged"):
        store.resolve(written.log_id, soon())


def test_a_missing_log_is_not_begun_in_silence(path: Path) -> None:
    backend = SQLiteBackend(f"sqlite:///{path}")
    for call in (backend.check, lambda d: backend.append([entry()], chain_seals, d)):
        with pytest.raises(LogUnavailable, match="there is no log"):
            call(soon())
    assert not path.exists()


@pytest.mark.parametrize("content", [b"", b"no database" * 200])
def test_what_is_no_log_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(LogUnavailable):
        SQLiteBackend(f"sqlite:///{path}").check(soon())


def test_a_log_of_a_newer_version_is_refused(store: Store, path: Path) -> None:
    store.close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE deid_log_store SET version = 99")
    with pytest.raises(LogUnavailable, match="has version 99, this program knows"):
        store.check(soon())


def test_a_lock_that_outlasts_the_deadline_is_told_and_nothing_is_written(
    store: Store, path: Path
) -> None:
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    waiting = entry()
    with pytest.raises(LogUnavailable, match="locked"):
        store.append([waiting], chain_seals, Deadline(0.3))
    holder.execute("ROLLBACK")
    holder.close()
    assert store.resolve(waiting.log_id, soon()) is None
    store.append([waiting], chain_seals, soon())


_WRITER = """
import sys
from deid_hooks.backends import Deadline
from deid_hooks.backends.sqlite import SQLiteBackend
from deid_hooks.testing.records import chain_seals
from tests.backends.sqlite.test_store import entry
backend = SQLiteBackend(sys.argv[1])
for _ in range(int(sys.argv[2])):
    written = entry()
    backend.append([written], chain_seals, Deadline(10))
    print(written.log_id, flush=True)
"""


def writer(path: Path, times: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _WRITER, f"sqlite:///{path}", str(times)]
    root = Path(__file__).parents[3]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root)


def stored(path: Path) -> set[str]:
    with sqlite3.connect(path) as connection:
        return {log_id for (log_id,) in connection.execute("SELECT id FROM deid_log")}


def test_six_processes_lose_nothing_and_none_is_starved(store: Store, path: Path) -> None:
    writers = [writer(path, 40) for _ in range(6)]
    acknowledged = [log_id for each in writers for log_id in each.communicate()[0].split()]
    assert [each.returncode for each in writers] == [0] * 6
    assert len(acknowledged) == 240
    assert stored(path) == set(acknowledged)


def test_a_copy_that_was_restored_is_used_again(store: Store, path: Path, tmp_path: Path) -> None:
    known = entry()
    store.append([known], chain_seals, soon())
    store.close()
    shutil.copy(path, tmp_path / "backup.db")
    path.unlink()
    with pytest.raises(LogUnavailable):
        store.check(soon())
    (tmp_path / "backup.db").replace(path)
    assert store.resolve(known.log_id, soon()) == known
