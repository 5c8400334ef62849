"""Making, opening and recognising a log; what is not ours is left alone."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deid_hooks.backends.sqlite import SQLiteBackend, schema
from deid_hooks.deadline import Deadline
from deid_hooks.errors import LogUnavailable
from deid_hooks.testing.records import chain_seals, make_entry


def backend(path: Path) -> SQLiteBackend:
    return SQLiteBackend(f"sqlite:///{path}")


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.mark.parametrize(
    "url",
    [
        *("sqlite:", "sqlite://", "sqlite:///", "sqlite:log.db", "mysql:///log.db"),
        *("sqlite:///a?b=c", "sqlite:///a#b", "sqlite:///a%00b", "", "log.db"),
    ],
)
def test_a_url_of_no_sqlite_file_is_refused_at_once(url: str) -> None:
    with pytest.raises(LogUnavailable, match="sqlite:///"):
        SQLiteBackend(url)


@pytest.mark.parametrize(
    ("written", "name"),
    [("log%20a.db", "log a.db"), ("l%C3%B6g.db", "l\u00f6g.db"), ("a%3Fb%23c%25.db", "a?b#c%.db")],
)
def test_a_name_with_any_character_can_be_written_in_a_url(
    tmp_path: Path, written: str, name: str
) -> None:
    store = SQLiteBackend(f"sqlite:///{tmp_path}/{written}")
    store.create(Deadline())
    store.check(Deadline())
    assert (tmp_path / name).exists()
    store.close()


def test_a_relative_path_starts_where_the_backend_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = SQLiteBackend("sqlite:///log.db")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    store.create(Deadline())
    store.close()
    assert (tmp_path / "log.db").exists()


def test_nothing_is_opened_or_made_before_the_first_call(tmp_path: Path) -> None:
    store = backend(tmp_path / "new" / "log.db")
    assert not store.exists()
    store.close()
    assert list(tmp_path.iterdir()) == []


def test_making_a_log_that_exists_changes_nothing(store: SQLiteBackend, path: Path) -> None:
    entry = make_entry()
    store.append([entry], chain_seals, Deadline())
    store.create(Deadline())
    backend(path).create(Deadline())
    assert store.resolve(entry.log_id, Deadline()) == entry


def test_processes_that_make_one_log_at_once_make_one(path: Path) -> None:
    program = (
        "import sys; from deid_hooks.deadline import Deadline;"
        "from deid_hooks.backends.sqlite import SQLiteBackend;"
        "b = SQLiteBackend(sys.argv[1]); b.create(Deadline(30)); b.check(Deadline(30))"
    )
    command = [sys.executable, "-c", program, f"sqlite:///{path}"]
    makers = [subprocess.Popen(command) for _ in range(4)]
    assert [maker.wait() for maker in makers] == [0] * 4
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT count(*) FROM deid_log_store").fetchone() == (1,)
    connection.close()


def test_a_creation_that_breaks_off_leaves_nothing_that_passes_for_a_log(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(connection: sqlite3.Connection) -> None:
        connection.execute("CREATE TABLE deid_log (seq INTEGER PRIMARY KEY)")
        raise sqlite3.OperationalError

    with monkeypatch.context() as patch, umask(0):
        patch.setattr(schema, "make_tables", half)
        with pytest.raises(LogUnavailable):
            backend(path).create(Deadline())
    assert path.stat().st_mode & 0o777 == 0o600  # from the first moment, not once it is opened
    with pytest.raises(LogUnavailable, match="deid-hooks init"):
        backend(path).check(Deadline())
    again = backend(path)
    again.create(Deadline())
    again.check(Deadline())
    again.close()


def test_somebody_elses_database_is_refused_and_left_as_it_is(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE patients (name TEXT)")
    connection.commit()
    connection.close()
    before = path.read_bytes()
    store = backend(path)
    for call in (
        store.check,
        store.create,
        lambda d: store.append([make_entry()], chain_seals, d),
    ):
        with pytest.raises(LogUnavailable, match="not a de-id log"):
            call(Deadline())
    store.close()
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["log.db"]


def test_a_folder_in_its_place_is_refused(path: Path) -> None:
    path.mkdir()
    for call in (backend(path).check, backend(path).create):
        with pytest.raises(LogUnavailable):
            call(Deadline())


def test_a_circle_of_links_is_refused(path: Path) -> None:
    path.symlink_to(path)
    for call in (backend(path).check, backend(path).create):
        with pytest.raises(LogUnavailable):
            call(Deadline())


def test_a_log_behind_a_link_is_used_and_a_link_that_leads_elsewhere_is_noticed(
    store: SQLiteBackend, path: Path
) -> None:
    link = path.with_name("link.db")
    link.symlink_to(path)
    linked = backend(link)
    entry = make_entry()
    linked.append([entry], chain_seals, Deadline())
    assert store.resolve(entry.log_id, Deadline()) == entry
    other = backend(path.with_name("other.db"))
    other.create(Deadline())
    other.close()
    link.unlink()
    link.symlink_to(path.with_name("other.db"))
    with pytest.raises(LogUnavailable, match="replaced"):
        linked.append([make_entry()], chain_seals, Deadline())
    linked.close()


def test_a_wal_that_lost_its_log_is_not_thrown_away_by_making_a_new_one(
    store: SQLiteBackend, path: Path, tmp_path: Path
) -> None:
    entry = make_entry()
    store.append([entry], chain_seals, Deadline())
    copied = tmp_path / "after a crash" / "log.db"
    copied.parent.mkdir()
    for end in ("", "-wal"):
        subprocess.run(["cp", f"{path}{end}", f"{copied}{end}"], check=True)
    saved = copied.rename(copied.with_name("saved"))
    assert backend(copied).exists()
    with pytest.raises(LogUnavailable, match="-wal"):
        backend(copied).create(Deadline())
    copied.write_bytes(b"")
    for call in (backend(copied).create, backend(copied).check):
        with pytest.raises(LogUnavailable):
            call(Deadline())
    saved.replace(copied)
    restored = backend(copied)
    assert restored.resolve(entry.log_id, Deadline()) == entry
    restored.close()


def test_a_backup_in_another_journal_mode_is_a_log_like_any_other(
    store: SQLiteBackend, path: Path
) -> None:
    entry = make_entry()
    store.append([entry], chain_seals, Deadline())
    store.close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = DELETE")
    connection.close()
    assert store.resolve(entry.log_id, Deadline()) == entry


def test_what_others_could_read_is_theirs_no_more(store: SQLiteBackend, path: Path) -> None:
    store.close()
    path.chmod(0o664)
    with umask(0):
        store.append([make_entry()], chain_seals, Deadline())
    files = sorted(path.parent.iterdir())
    assert {file.name: file.stat().st_mode & 0o777 for file in files} == {
        "log.db": 0o600,
        "log.db-shm": 0o600,
        "log.db-wal": 0o600,
    }


def test_the_folders_that_were_missing_are_their_owners_only(tmp_path: Path) -> None:
    with umask(0):
        backend(tmp_path / "a" / "b" / "log.db").create(Deadline())
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("a", "a/b")] == [0o700, 0o700]


def test_a_folder_where_nothing_may_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LogUnavailable):
        backend(tmp_path / "file" / "log.db").create(Deadline())


def test_the_last_to_close_leaves_one_file(store: SQLiteBackend, path: Path) -> None:
    store.append([make_entry()], chain_seals, Deadline())
    store.read(0, Deadline())
    store.close()
    store.close()
    assert [file.name for file in path.parent.iterdir()] == ["log.db"]


def test_closing_a_log_that_is_gone_raises_nothing(store: SQLiteBackend, path: Path) -> None:
    store.append([make_entry()], chain_seals, Deadline())
    shutil.rmtree(path.parent)
    store.close()
    path.parent.mkdir()
