"""A program that reads the log leaves a row of it before it gets anything."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from deid_hooks import DeidHooks, LogError, LogUnavailable, SettingsError
from deid_hooks.backends import Deadline, Entry
from deid_hooks.log import Log
from tests.hooks.series import fill, series


@pytest.fixture
def hooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DeidHooks:
    monkeypatch.setenv("DEID_HOOKS_SECRET", "ab" * 32)
    made = DeidHooks.load("tester/1.0", url=f"sqlite:///{tmp_path}/log.db")
    made.init()
    with made.acquisition() as acquisition:
        fill(acquisition, series())
        acquisition.post_deid()
    return made


def trail(hooks: DeidHooks) -> list[tuple[str, str, int, str]]:
    rows = hooks.gate.open_log().backend.trail(Deadline())
    return [(row.action, row.asked, len(row.log_ids), row.reason) for row, _ in rows]


def test_what_is_found_and_read_is_in_the_trail_with_the_reason(hooks: DeidHooks) -> None:
    reader = hooks.reading(reason="a finding")
    [log_id] = reader.search("id=*")
    [entry] = reader.entries([log_id])
    assert isinstance(entry, Entry)
    assert trail(hooks) == [("read", "id=*", 1, "a finding"), ("read", "", 1, "a finding")]


def test_nothing_is_given_if_the_trail_cannot_be_written(
    hooks: DeidHooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Log, row: object) -> None:
        raise LogUnavailable("the disk is full")

    [log_id] = hooks.reading().search("id=*")
    monkeypatch.setattr(Log, "record_access", refuse)
    for ask in (hooks.reading().search("id=*"), hooks.reading().entries([log_id])):
        with pytest.raises(LogUnavailable):
            next(iter(ask))


def test_an_entry_that_was_altered_is_not_given(hooks: DeidHooks, tmp_path: Path) -> None:

    [log_id] = hooks.reading().search("id=*")
    with sqlite3.connect(tmp_path / "log.db") as connection:
        connection.execute("UPDATE deid_log SET project = 'other'")
    with pytest.raises(LogError, match="was altered"):
        list(hooks.reading().entries([log_id]))


def test_a_reason_is_asked_for_where_the_settings_require_one(
    hooks: DeidHooks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEID_HOOKS_REQUIRE_REASON", "true")
    strict = DeidHooks.load("tester/1.0", url=f"sqlite:///{tmp_path}/log.db")
    with pytest.raises(SettingsError, match="reason"):
        strict.reading()
    assert list(strict.reading(reason="why").search("id=*"))
