"""A log of the version before is read, an older one is not; init --upgrade upgrades both."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from deid_hooks.backends.sqlite import SQLiteBackend
from deid_hooks.backends.tables.migrations import STEPS, UPGRADING, VERSION
from deid_hooks.deadline import Deadline
from deid_hooks.errors import LogUnavailable
from deid_hooks.log import Log
from deid_hooks.query.parser import parse_terms
from deid_hooks.records.model import Block, Erasure, UploadEvent
from deid_hooks.testing.records import chain_seals, make_entry
from tests.backends.upgrading import (
    FOREIGN,
    KEYRING,
    NEW_FIELD,
    OLDER,
    ROOT,
    VERSION_1,
    VERSION_2,
    OldLog,
    assert_found,
    assert_one_waits,
    assert_upgraded,
    find_faults,
    read_all,
    record_accesses,
    start_upgrade,
    upgrade,
    write_again,
)

MODULE = "deid_hooks.backends.sqlite.migrations"
ERASURE = Erasure("t", "who", "why")


@pytest.fixture(params=OLDER, ids=repr)
def old(request: pytest.FixtureRequest) -> OldLog:
    """Each older version."""
    found: OldLog = request.param
    return found


@pytest.fixture
def log(old: OldLog, path: Path) -> SQLiteBackend:
    """A log of an older version."""
    return SQLiteBackend(f"sqlite:///{old.unpack(path)}")


@pytest.fixture
def readable(path: Path) -> SQLiteBackend:
    """A log of the version before."""
    return SQLiteBackend(f"sqlite:///{VERSION_2.unpack(path)}")


def execute(path: Path, sql: str) -> None:
    """Change a database from another process: closing its files here would drop our locks."""
    program = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute(sys.argv[2])"
    command = [sys.executable, "-c", f"{program}; c.commit()", str(path), sql]
    subprocess.run(command, check=True)


def describe(path: Path) -> dict[str, Any]:
    """Return tables, columns, indexes and views of a database, whatever spaces its SQL has."""
    connection = sqlite3.connect(path)
    try:
        names = connection.execute("SELECT type, name FROM sqlite_master").fetchall()
        views = "SELECT name, sql FROM sqlite_master WHERE type = 'view'"
        return {
            "names": sorted(names),
            "columns": {
                name: [row[1:] for row in connection.execute(f"PRAGMA table_info([{name}])")]
                for kind, name in names
                if kind == "table"
            },
            "indexes": {
                name: [row[2] for row in connection.execute(f"PRAGMA index_info([{name}])")]
                for kind, name in names
                if kind == "index"
            },
            "views": sorted(connection.execute(views).fetchall()),
            "words": sorted(
                connection.execute(
                    "SELECT id, word FROM deid_word JOIN deid_log ON seq = entry"
                ).fetchall()
            ),
            "seals": connection.execute("SELECT seal FROM deid_log_chain ORDER BY seq").fetchall(),
            "version": connection.execute("SELECT version FROM deid_log_store").fetchall(),
            "steps": sorted(connection.execute("SELECT name FROM deid_log_migration").fetchall()),
        }
    finally:
        connection.close()


def test_the_log_of_the_version_before_is_read(readable: SQLiteBackend, path: Path) -> None:
    before = path.read_bytes()
    assert read_all(readable) == VERSION_2.records
    assert_found(readable, VERSION_2.entries)
    sealed = [(record, seal) for record, seal in VERSION_2.records if seal]
    assert list(readable.trail(Deadline())) == sealed
    readable.close()
    assert path.read_bytes() == before


def test_who_reads_it_is_recorded_in_its_trail(readable: SQLiteBackend) -> None:
    rows = record_accesses(readable)
    found = read_all(readable)
    assert [record for record, _ in found] == [*(r for r, _ in VERSION_2.records), *rows]
    assert all(seal for _, seal in list(readable.trail(Deadline()))[-3:])
    upgrade(readable)
    assert [row.asked for row, _ in list(readable.trail(Deadline()))[-3:]] == [
        r.asked for r in rows
    ]
    assert find_faults(readable) == []
    readable.close()


@pytest.mark.parametrize(
    "write",
    [
        lambda log: log.append([make_entry()], chain_seals, Deadline()),
        lambda log: log.append(
            [UploadEvent("a", "t", "cleared", "d", "u")], chain_seals, Deadline()
        ),
        lambda log: log.append([Block("a", "t", "p", "", "who")], chain_seals, Deadline()),
        lambda log: log.append([], chain_seals, Deadline()),
        lambda log: log.erase([VERSION_2.entries[0].log_id], ERASURE, chain_seals, Deadline()),
        lambda log: log.blocks_after(0, Deadline()),
        lambda log: log.check(Deadline()),
    ],
)
def test_nothing_else_is_written_to_it(
    readable: SQLiteBackend, write: Callable[[SQLiteBackend], None]
) -> None:
    with pytest.raises(LogUnavailable, match=r"has version 2.*deid-hooks init --upgrade"):
        write(readable)
    assert read_all(readable) == VERSION_2.records
    readable.close()


@pytest.mark.parametrize(
    "call",
    [
        lambda log: log.read(0, Deadline()),
        lambda log: log.resolve(VERSION_1.entries[0].log_id, Deadline()),
        lambda log: list(log.search(parse_terms(["Aero"]), Deadline())),
        lambda log: list(log.trail(Deadline())),
        lambda log: record_accesses(log),
        lambda log: log.append([make_entry()], chain_seals, Deadline()),
        lambda log: log.erase([VERSION_1.entries[0].log_id], ERASURE, chain_seals, Deadline()),
        lambda log: log.check(Deadline()),
    ],
)
def test_an_older_log_is_neither_read_nor_written(
    path: Path, call: Callable[[SQLiteBackend], object]
) -> None:
    log = SQLiteBackend(f"sqlite:///{VERSION_1.unpack(path)}")
    before = path.read_bytes()
    with pytest.raises(LogUnavailable, match=r"has version 1.*deid-hooks init --upgrade"):
        call(log)
    log.close()
    assert path.read_bytes() == before


def test_an_upgraded_log_holds_the_same_and_is_like_a_fresh_one(
    log: SQLiteBackend, old: OldLog, path: Path, tmp_path: Path
) -> None:
    assert f"from version {old.version} to {VERSION}" in upgrade(log)
    assert_upgraded(log, old)
    record_accesses(log)
    assert find_faults(log) == []
    assert upgrade(log) == ""
    sealed = read_all(log)
    log.close()
    fresh = SQLiteBackend(f"sqlite:///{tmp_path}/fresh.db")
    write_again(fresh, sealed)
    assert read_all(fresh) == sealed
    fresh.close()
    assert describe(path) == describe(tmp_path / "fresh.db")


def test_a_log_of_another_site_secret_is_not_upgraded(
    log: SQLiteBackend, old: OldLog, path: Path
) -> None:
    before = path.read_bytes()
    with pytest.raises(LogUnavailable, match="another site secret"):
        upgrade(log, FOREIGN)
    log.close()
    assert path.read_bytes() == before
    assert list(path.parent.glob("*.version-*")) == []
    assert upgrade(log)
    assert_upgraded(log, old)
    log.close()


def test_the_log_as_it_was_is_kept_beside_it(log: SQLiteBackend, old: OldLog, path: Path) -> None:
    before = path.read_bytes()
    done = upgrade(log)
    log.close()
    [copy] = [file for file in path.parent.iterdir() if f".version-{old.version}." in file.name]
    assert str(copy) in done
    assert copy.stat().st_mode & 0o777 == 0o600
    assert sqlite3.connect(copy).execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert len(copy.read_bytes()) == len(before)
    again = SQLiteBackend(f"sqlite:///{copy}")
    assert upgrade(again)
    assert_upgraded(again, old)
    again.close()


def test_names_are_found_by_their_words_after_the_upgrade(log: SQLiteBackend) -> None:
    upgrade(log)
    assert "deid_word" in log.explain(parse_terms(["Aero Thora"]), Deadline())[0][1]
    log.close()


def test_a_killed_upgrade_changes_nothing_and_is_repeated(
    log: SQLiteBackend, old: OldLog, path: Path
) -> None:
    before = path.read_bytes()
    for changes in (0, 1, 3, 6, 10, 14, 16, 20, 30, 1000):
        if start_upgrade(log, MODULE, changes).wait() == 0:
            break
        with pytest.raises(LogUnavailable, match=f"has version {old.version}"):
            log.check(Deadline())
        log.close()
        assert path.read_bytes() == before
    assert changes > 10
    assert_upgraded(log, old)
    log.close()


def test_of_two_upgrades_at_once_one_waits(log: SQLiteBackend, old: OldLog) -> None:
    assert_one_waits(log, MODULE, old)
    log.close()


def test_nothing_is_erased_as_long_as_a_copy_keeps_it(readable: SQLiteBackend, path: Path) -> None:
    upgrade(readable)
    before = read_all(readable)
    [copy] = path.parent.glob("*.version-2.*")
    gone = VERSION_2.entries[0].log_id
    with pytest.raises(LogUnavailable, match=f"{copy.name}.* nothing was erased.*[Dd]elete it"):
        readable.erase([gone], ERASURE, chain_seals, Deadline(60))
    assert read_all(readable) == before
    copy.unlink()
    Log(readable, KEYRING).erase([gone], ERASURE, 60)
    assert readable.resolve(gone, Deadline()) != VERSION_2.entries[0]
    assert find_faults(readable) == []
    readable.close()


def test_a_copy_that_was_cut_off_does_not_stay(log: SQLiteBackend, path: Path) -> None:
    cut_off = path.with_name(f"{path.name}.version-2.20260101T000000Z.part")
    cut_off.write_bytes(path.read_bytes()[:9000])
    upgrade(log)
    assert not cut_off.exists()
    assert len(list(path.parent.glob("*.version-*"))) == 1
    log.close()


def test_a_log_without_room_for_its_copy_is_not_upgraded(
    log: SQLiteBackend, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deid_hooks.backends.sqlite import migrations

    before = path.read_bytes()
    monkeypatch.setattr(migrations, "_MARGIN", 1 << 60)
    with pytest.raises(LogUnavailable, match="nothing was upgraded"):
        upgrade(log)
    log.close()
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("version", "words"),
    [(VERSION + 1, f"version {VERSION + 1}, .* knows {VERSION}"), (UPGRADING, "being")],
)
def test_a_newer_log_is_neither_read_nor_written(
    store: SQLiteBackend, path: Path, version: int, words: str
) -> None:
    store.append([make_entry()], chain_seals, Deadline())
    execute(path, f"UPDATE deid_log_store SET version = {version}")
    fresh = SQLiteBackend(store.url)
    for log in (store, fresh):
        calls: list[Callable[[Deadline], object]] = [
            partial(log.append, [make_entry()], chain_seals),
            log.check,
            partial(log.read, 0),
            partial(log.upgrade, chain_seals),
        ]
        for call in calls:
            with pytest.raises(LogUnavailable, match=words):
                call(Deadline())
        log.close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("ALTER TABLE deid_log ADD COLUMN Later TEXT", "deid_log has a column later"),
        ("ALTER TABLE deid_log_block DROP COLUMN reason", "deid_log_block has no column reason"),
        ("DROP TABLE deid_log_chain", "deid_log_chain has no column"),
    ],
)
def test_check_names_a_column_that_is_missing_or_too_much(
    store: SQLiteBackend, path: Path, change: str, words: str
) -> None:
    execute(path, change)
    with pytest.raises(LogUnavailable, match=words):
        store.check(Deadline())


PROGRAM = """
import sys
from deid_hooks.log import make_backend

old, fresh = map(make_backend, sys.argv[1:3])
assert upgrade(old)
assert_upgraded(old, OldLog(int(sys.argv[3])))
fresh.create(Deadline())
for log in (old, fresh):
    use_new_field(log)
    log.close()
"""


def test_an_indexed_field_is_added_in_one_place_and_by_one_step(
    log: SQLiteBackend, old: OldLog, path: Path, tmp_path: Path
) -> None:
    fresh = tmp_path / "fresh.db"
    urls = (log.url, f"sqlite:///{fresh}")
    command = [sys.executable, "-c", NEW_FIELD + PROGRAM, *urls, str(old.version)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    both = [describe(each) for each in (path, fresh)]
    assert sorted(both[0]["columns"]["deid_log"]) == sorted(both[1]["columns"]["deid_log"])
    steps = sorted((name,) for name in (*STEPS, "4: BodyPartExamined"))
    assert both[0]["steps"] == both[1]["steps"] == steps
