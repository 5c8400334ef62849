"""An older log is read, never written, and upgraded by init --upgrade only."""

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
from deid_hooks.query.parser import parse_terms
from deid_hooks.records.chain import commit_terms, find_breaks, seal_records
from deid_hooks.records.keys import derive_trail_key
from deid_hooks.records.model import AccessRow, Entry, Erasure
from deid_hooks.testing.records import fresh_id, leave_unsealed, make_entry
from tests.backends.version_1 import FOUND_BY_NAME, SECRET, read_records, unpack

RECORDS = read_records()
ENTRIES = [record for record, _ in RECORDS if isinstance(record, Entry)]


@pytest.fixture
def old(path: Path) -> SQLiteBackend:
    return SQLiteBackend(f"sqlite:///{unpack(path)}")


def read_all(store: SQLiteBackend) -> list[tuple[object, str]]:
    page = store.read(0, Deadline())
    found: list[tuple[object, str]] = []
    while page.records:
        found += zip(page.records, page.seals, strict=True)
        page = store.read(page.cursor, Deadline())
    return found


def assert_whole(store: SQLiteBackend) -> None:
    """Everything that version 1 held is read back equal, and found."""
    assert read_all(store) == RECORDS
    assert [store.resolve(entry.log_id, Deadline()) for entry in ENTRIES] == ENTRIES
    trail = list(store.trail(Deadline()))
    assert len(trail) == 6
    assert list(find_breaks(trail, derive_trail_key(SECRET), trail[-1][1])) == []
    for term, name in FOUND_BY_NAME.items():
        wanted = [e.log_id for e in ENTRIES if name in e.fields.get("PatientName", ())]
        assert wanted
        assert list(store.search(parse_terms([term]), Deadline())) == wanted
    for entry in ENTRIES:
        terms = [f"{k}=={v[0]}" for k, v in entry.fields.items() if v and v[0].isascii()]
        for query in (parse_terms([term]) for term in terms):
            wanted = [e.log_id for e in ENTRIES if query.matches(e)]
            assert list(store.search(query, Deadline())) == wanted
    store.statistics(Deadline())


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
            "version": connection.execute("SELECT version FROM deid_log_store").fetchall(),
            "steps": sorted(connection.execute("SELECT name FROM deid_log_migration").fetchall()),
        }
    finally:
        connection.close()


def test_an_older_log_is_read(old: SQLiteBackend, path: Path) -> None:
    before = path.read_bytes()
    assert_whole(old)
    old.close()
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "write",
    [
        lambda log: log.append([make_entry()], leave_unsealed, Deadline()),
        lambda log: log.erase([ENTRIES[0].log_id], Erasure("t", "who", "why"), Deadline()),
        lambda log: log.check(Deadline()),
    ],
)
def test_an_older_log_is_not_written(
    old: SQLiteBackend, path: Path, write: Callable[[SQLiteBackend], None]
) -> None:
    with pytest.raises(LogUnavailable, match=r"has version 1.*deid-hooks init --upgrade"):
        write(old)
    assert read_all(old) == RECORDS
    old.close()


def test_who_reads_an_older_log_is_recorded_in_its_trail(old: SQLiteBackend) -> None:
    key = derive_trail_key(SECRET)
    rows = [
        commit_terms(AccessRow(fresh_id(), "t", "who", "host", "show", asked, ()), key)
        for asked in ("PatientID=4711", "PatientName=\ud800\0", "x")
    ]
    old.append(rows[:2], partial(seal_records, key=key), Deadline())
    old.append(rows, partial(seal_records, key=key), Deadline())
    for _ in range(2):
        trail = list(old.trail(Deadline()))
        assert [row for row, _ in trail[-3:]] == rows
        assert list(find_breaks(trail, key)) == []
        old.upgrade(Deadline(60))
    old.check(Deadline())


def test_an_upgraded_log_holds_the_same_and_is_like_a_fresh_one(
    old: SQLiteBackend, path: Path, tmp_path: Path
) -> None:
    assert "to 2" in old.upgrade(Deadline(60))
    assert_whole(old)
    old.check(Deadline())
    entry = make_entry()
    old.append([entry], lambda head, new: ["seal" if head == RECORDS[-1][1] else head], Deadline())
    assert old.upgrade(Deadline()) == ""
    old.close()
    fresh = SQLiteBackend(f"sqlite:///{tmp_path}/fresh.db")
    fresh.create(Deadline())
    for record, seal in [*RECORDS, (entry, "")]:
        fresh.append([record], lambda head, new, seal=seal: [seal], Deadline())  # type: ignore[misc]
    fresh.close()
    assert describe(path) == describe(tmp_path / "fresh.db")


def test_the_log_as_it_was_is_kept_beside_it(old: SQLiteBackend, path: Path) -> None:
    done = old.upgrade(Deadline(60))
    old.close()
    [copy] = [file for file in path.parent.iterdir() if ".version-1." in file.name]
    assert str(copy) in done
    assert copy.stat().st_mode & 0o777 == 0o600
    kept = SQLiteBackend(f"sqlite:///{copy}")
    assert_whole(kept)
    kept.close()


def test_names_are_found_by_their_words_after_the_upgrade(old: SQLiteBackend) -> None:
    query = parse_terms(["Aero Thora"])
    assert old.explain(query, Deadline())[0][1].startswith("none")
    old.upgrade(Deadline(60))
    assert "deid_word" in old.explain(query, Deadline())[0][1]
    old.close()


KILLED = """
import os, signal, sys
from deid_hooks.backends.sqlite import SQLiteBackend, migrations
from deid_hooks.deadline import Deadline

left = int(sys.argv[2])
run = migrations.SQLiteChanges.run

def run_or_die(self, sql, *values):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return run(self, sql, *values)

migrations.SQLiteChanges.run = run_or_die
SQLiteBackend(sys.argv[1]).upgrade(Deadline(60))
"""


def test_a_killed_upgrade_changes_nothing_and_is_repeated(old: SQLiteBackend, path: Path) -> None:
    for statements in (0, 1, 3, 5, 8, 13, 20, 30):
        command = [sys.executable, "-c", KILLED, old.url, str(statements)]
        if subprocess.run(command).returncode == 0:
            break
        assert read_all(old) == RECORDS
        with pytest.raises(LogUnavailable, match="has version 1"):
            old.check(Deadline())
    old.upgrade(Deadline(60))
    assert_whole(old)
    old.close()


def test_of_two_upgrades_at_once_one_waits(old: SQLiteBackend, path: Path) -> None:
    program = (
        "import sys; from deid_hooks.deadline import Deadline;"
        "from deid_hooks.backends.sqlite import SQLiteBackend;"
        "print(SQLiteBackend(sys.argv[1]).upgrade(Deadline(60)))"
    )
    command = [sys.executable, "-c", program, old.url]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = sorted(process.communicate()[0].strip() for process in both)
    assert said[0] == ""
    assert "from version 1 to 2" in said[1]
    assert [process.returncode for process in both] == [0, 0]
    assert_whole(old)
    old.close()


def test_nothing_is_erased_as_long_as_a_copy_keeps_it(old: SQLiteBackend, path: Path) -> None:
    old.upgrade(Deadline(60))
    [copy] = path.parent.glob("*.version-1.*")
    gone, erasure = ENTRIES[0].log_id, Erasure("t", "alice", "asked to")
    with pytest.raises(LogUnavailable, match=f"{copy.name}.* nothing was erased.*[Dd]elete it"):
        old.erase([gone], erasure, Deadline(60))
    assert read_all(old) == RECORDS
    copy.unlink()
    old.erase([gone], erasure, Deadline(60))
    assert old.resolve(gone, Deadline()) != ENTRIES[0]
    old.close()


def test_a_copy_that_was_cut_off_does_not_stay(old: SQLiteBackend, path: Path) -> None:
    cut_off = path.with_name(f"{path.name}.version-1.20260101T000000Z.part")
    cut_off.write_bytes(path.read_bytes()[:9000])
    old.upgrade(Deadline(60))
    assert not cut_off.exists()
    assert len(list(path.parent.glob("*.version-1.*"))) == 1
    old.close()


def test_a_log_without_room_for_its_copy_is_not_upgraded(
    old: SQLiteBackend, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deid_hooks.backends.sqlite import migrations

    monkeypatch.setattr(migrations, "_MARGIN", 1 << 60)
    with pytest.raises(LogUnavailable, match="nothing was upgraded"):
        old.upgrade(Deadline())
    assert read_all(old) == RECORDS
    old.close()


@pytest.mark.parametrize(
    ("version", "words"),
    [(VERSION + 1, f"version {VERSION + 1}, .* knows 2"), (UPGRADING, "being")],
)
def test_a_newer_log_is_neither_read_nor_written(
    store: SQLiteBackend, path: Path, version: int, words: str
) -> None:
    store.append([make_entry()], leave_unsealed, Deadline())
    execute(path, f"UPDATE deid_log_store SET version = {version}")
    fresh = SQLiteBackend(store.url)
    for log in (store, fresh):
        calls: list[Callable[[Deadline], object]] = [
            partial(log.append, [make_entry()], leave_unsealed),
            log.check,
            partial(log.read, 0),
            log.upgrade,
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


FIELD = """
import sys
from deid_hooks.records import fields

fields.LATER_FIELDS = ("BodyPartExamined",)
fields.INDEXED_FIELDS = (*fields.INDEXED_FIELDS, "BodyPartExamined")

from deid_hooks.backends.tables import migrations
from deid_hooks.backends.tables.columns import Column

migrations.STEPS["3: BodyPartExamined"] = lambda changes: changes.add_column(
    "deid_log", Column("BodyPartExamined")
)

from deid_hooks.backends.sqlite import SQLiteBackend
from deid_hooks.deadline import Deadline
from deid_hooks.query.parser import parse_terms
from deid_hooks.testing.records import fresh_id, leave_unsealed, make_entry
from tests.backends.sqlite.test_migrations import assert_whole

old, fresh = map(SQLiteBackend, sys.argv[1:])
assert old.upgrade(Deadline(60))
assert_whole(old)
fresh.create(Deadline())
for log in (old, fresh):
    log.check(Deadline())
    entry = make_entry(fields={"BodyPartExamined": ("CHEST", "LUNG")})
    log.append([entry], leave_unsealed, Deadline())
    assert log.resolve(entry.log_id, Deadline()) == entry
    for value in ("CHEST", "LUNG"):
        found = log.search(parse_terms([f"BodyPartExamined={value}"]), Deadline())
        assert list(found) == [entry.log_id]
    log.close()
"""


def test_an_indexed_field_is_added_in_one_place_and_by_one_step(
    old: SQLiteBackend, path: Path, tmp_path: Path
) -> None:
    fresh = tmp_path / "fresh.db"
    command = [sys.executable, "-c", FIELD, old.url, f"sqlite:///{fresh}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert done.returncode == 0, done.stderr
    both = [describe(each) for each in (path, fresh)]
    assert sorted(both[0]["columns"]["deid_log"]) == sorted(both[1]["columns"]["deid_log"])
    steps = sorted((name,) for name in (*STEPS, "3: BodyPartExamined"))
    assert both[0]["steps"] == both[1]["steps"] == steps
