"""An append ends in one of three ways: durable, nothing was written, or all of it or none."""

from __future__ import annotations

import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from deid_hooks.backends.sqlite import SQLiteBackend
from deid_hooks.deadline import Deadline
from deid_hooks.errors import AppendUnknown, LogUnavailable
from deid_hooks.records.model import Record
from deid_hooks.testing.records import chain_seals, make_entry
from tests.needed import missing

SECRET = "Qzxjkvw^Patient"


class Faulty(sqlite3.Connection):
    """A connection to a disk that can be told to fail or to hang."""

    fault: Callable[[str], None] = staticmethod(lambda sql: None)

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        type(self).fault(sql)
        return super().execute(sql, *values)

    def executemany(self, sql: str, *values: Any) -> sqlite3.Cursor:
        type(self).fault(sql)
        return super().executemany(sql, *values)


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> type[Faulty]:
    real = sqlite3.connect
    monkeypatch.setattr(
        sqlite3, "connect", lambda *args, **named: real(*args, factory=Faulty, **named)
    )
    monkeypatch.setattr(Faulty, "fault", staticmethod(lambda sql: None))
    return Faulty


def error(code: int, name: str) -> sqlite3.OperationalError:
    made = sqlite3.OperationalError(f"near {SECRET}")
    made.sqlite_errorcode, made.sqlite_errorname = code, name
    return made


FULL = error(sqlite3.SQLITE_FULL, "SQLITE_FULL")
BROKEN = error(sqlite3.SQLITE_IOERR_FSYNC, "SQLITE_IOERR_FSYNC")


def set_fault(
    monkeypatch: pytest.MonkeyPatch, faults: type[Faulty], start: str, failure: Exception
) -> None:
    def fault(sql: str) -> None:
        if sql.startswith(start):
            raise failure

    monkeypatch.setattr(faults, "fault", staticmethod(fault))


@pytest.mark.parametrize(
    "start",
    ["BEGIN", "INSERT INTO deid_log ", "INSERT INTO deid_instance", "INSERT INTO deid_word"],
)
@pytest.mark.parametrize(("failure", "cause"), [(FULL, "disk of .* is full"), (BROKEN, "errors")])
def test_a_failure_before_the_commit_writes_nothing(
    faults: type[Faulty],
    store: SQLiteBackend,
    monkeypatch: pytest.MonkeyPatch,
    start: str,
    failure: Exception,
    cause: str,
) -> None:
    known, failed = make_entry(), make_entry(fields={"PatientName": (SECRET,)})
    store.append([known], chain_seals, Deadline())
    set_fault(monkeypatch, faults, start, failure)
    with pytest.raises(LogUnavailable, match=cause) as caught:
        store.append([make_entry(), failed], chain_seals, Deadline())
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    monkeypatch.setattr(faults, "fault", staticmethod(lambda sql: None))
    assert list(store.everything(Deadline())) == [known]
    store.append([failed], chain_seals, Deadline())
    assert store.resolve(failed.log_id, Deadline()) == failed


def test_after_a_commit_that_failed_nobody_claims_to_know_and_a_repetition_settles_it(
    faults: type[Faulty], store: SQLiteBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = make_entry()
    store.append([make_entry()], chain_seals, Deadline())
    before = store._sessions["writer"].opened
    set_fault(monkeypatch, faults, "COMMIT", BROKEN)
    with pytest.raises(AppendUnknown, match="unknown"):
        store.append([entry], chain_seals, Deadline())
    monkeypatch.setattr(faults, "fault", staticmethod(lambda sql: None))
    store.append([entry], chain_seals, Deadline())
    assert store._sessions["writer"].opened is not before
    assert store.resolve(entry.log_id, Deadline()) == entry


@contextmanager
def hanging(monkeypatch: pytest.MonkeyPatch, faults: type[Faulty], start: str) -> Iterator[None]:
    """Statements that begin like this hang until the end of the block."""
    over = threading.Event()
    monkeypatch.setattr(
        faults, "fault", staticmethod(lambda sql: over.wait(60) if sql.startswith(start) else None)
    )
    try:
        yield
    finally:
        monkeypatch.setattr(faults, "fault", staticmethod(lambda sql: None))
        over.set()


def test_a_commit_that_hangs_is_given_up_at_the_deadline(
    faults: type[Faulty], store: SQLiteBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.append([make_entry()], chain_seals, Deadline())
    entry = make_entry()
    with hanging(monkeypatch, faults, "COMMIT"), pytest.raises(AppendUnknown):
        store.append([entry], chain_seals, Deadline(0.3))
    store.append([entry], chain_seals, Deadline())
    assert store.resolve(entry.log_id, Deadline()) == entry


def test_a_hang_before_the_log_was_locked_is_known_to_have_written_nothing(
    faults: type[Faulty], store: SQLiteBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.append([make_entry()], chain_seals, Deadline())
    entry = make_entry()
    with hanging(monkeypatch, faults, "BEGIN IMMEDIATE"), pytest.raises(LogUnavailable):
        store.append([entry], chain_seals, Deadline(0.3))
    later = make_entry()
    store.append([later], chain_seals, Deadline())
    assert store.resolve(entry.log_id, Deadline()) is None


def test_whoever_waits_behind_a_call_that_hangs_waits_no_longer_than_its_own_deadline(
    faults: type[Faulty], store: SQLiteBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.append([make_entry()], chain_seals, Deadline())
    with hanging(monkeypatch, faults, "COMMIT"):
        first = threading.Thread(target=swallow, args=(store, make_entry(), 1.0))
        first.start()
        behind = make_entry()
        with pytest.raises((AppendUnknown, LogUnavailable)):
            store.append([behind], chain_seals, Deadline(0.3))
        first.join()
    store.append([behind], chain_seals, Deadline())
    assert store.resolve(behind.log_id, Deadline()) == behind


def swallow(store: SQLiteBackend, record: Record, seconds: float) -> None:
    with pytest.raises((AppendUnknown, LogUnavailable)):
        store.append([record], chain_seals, Deadline(seconds))


def test_a_read_that_hangs_is_given_up_and_appends_go_on(
    faults: type[Faulty], store: SQLiteBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.append([make_entry()], chain_seals, Deadline())
    with hanging(monkeypatch, faults, "SELECT id FROM deid_log WHERE digest"):
        with pytest.raises(LogUnavailable, match="no answer"):
            store.with_digest("x", Deadline(0.3))
        store.append([make_entry()], chain_seals, Deadline())
    assert store.with_digest("x", Deadline()) is None


def test_a_reader_does_not_wait_behind_a_writer(
    faults: type[Faulty], store: SQLiteBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = make_entry()
    store.append([known], chain_seals, Deadline())
    with hanging(monkeypatch, faults, "COMMIT"):
        writer = threading.Thread(target=swallow, args=(store, make_entry(), 1.0))
        writer.start()
        assert store.resolve(known.log_id, Deadline(0.8)) == known
        writer.join()


@contextmanager
def mounted(folder: Path, kilobytes: int) -> Iterator[None]:
    options = f"size={kilobytes}k,mode=0700"
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        missing("mounting is not permitted")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_is_told_and_what_was_acknowledged_stays(tmp_path: Path) -> None:
    with mounted(tmp_path, 3000):
        store = SQLiteBackend(f"sqlite:///{tmp_path}/log.db")
        store.create(Deadline())
        kept = []
        with pytest.raises((LogUnavailable, AppendUnknown), match="is full"):
            for _ in range(100):
                kept.append(make_entry(originals="x" * 100_000))
                store.append([kept[-1]], chain_seals, Deadline())
        fill(tmp_path / "filler")
        with pytest.raises(LogUnavailable, match="is full"):
            store.check(Deadline())
        (tmp_path / "filler").unlink()
        *acknowledged, failed = kept
        for entry in acknowledged:
            assert store.resolve(entry.log_id, Deadline()) == entry
        assert store.resolve(failed.log_id, Deadline()) in (None, failed)
        store.close()


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(b"x" * 4096)


def test_a_disk_that_became_read_only_is_told(tmp_path: Path) -> None:
    with mounted(tmp_path, 3000):
        store = SQLiteBackend(f"sqlite:///{tmp_path}/log.db")
        store.create(Deadline())
        store.close()
        remount = ["mount", "-o", "remount,ro", str(tmp_path)]
        subprocess.run(remount, check=True)
        for call in (
            store.check,
            lambda d: store.append([make_entry()], chain_seals, d),
            store.create,
        ):
            with pytest.raises(LogUnavailable, match="read-only"):
                call(Deadline())
