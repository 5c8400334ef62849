"""Who looked is known, and nobody looks without a trace."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from deid_hooks.access import identify_user
from tests.admin.conftest import Desk
from tests.whole.site import Site


def test_the_trail_says_who_looked_for_what_and_what_was_found(delivered: Desk) -> None:
    found = delivered("search", "Doe", "Modality=CT", "--reason", "a finding").ids
    delivered("search", "Doe", "Modality=CT", "--format", "ids", "--reason", "a finding")
    row = delivered("access").rows[0]
    assert (row["action"], row["asked"]) == ("search", "Doe\nModality=CT")
    assert row["reason"] == "a finding"
    assert row["log_ids"][0] in found[1]
    assert row["who"] and row["where"]


def test_variables_do_not_say_who_it_was(tmp_path: Path) -> None:
    site = Site(tmp_path / "site")
    names = ("LOGNAME", "USER", "LNAME", "USERNAME", "SUDO_USER")
    variables = dict.fromkeys(names, "dr-adams") | {"SUDO_UID": ""}
    assert site.run("search", "Doe", **variables).returncode == 1
    trail = site.run("access", "--format", "jsonl", **variables)
    assert trail.returncode == 0, trail.stderr
    assert f'"who": "{identify_user()}"' in trail.stdout
    assert "dr-adams" not in trail.stdout


def test_looking_at_the_trail_is_in_the_trail(delivered: Desk) -> None:
    delivered("access", "--who", "nobody")
    assert delivered("access").rows[0]["action"] == "access"
    assert delivered("access").rows[0]["asked"] == "who=nobody"


def test_looks_are_found_by_time_by_user_and_by_entry(delivered: Desk) -> None:
    [log_id] = delivered("search", "Modality=CT", "--format", "ids").ids
    delivered("search", "Modality=CR", "--format", "ids")
    assert [row["asked"] for row in delivered("access", "--entry", log_id).rows] == ["Modality=CT"]
    assert delivered("access", "--at", "..2020").code == 1
    assert len(delivered("access", "--at", "2020..").rows) > 2
    who = delivered("access").rows[0]["who"]
    assert delivered("access", "--who", who).rows
    assert delivered("access", "--who", who + "x").code == 1


def test_a_time_that_does_not_exist_and_an_id_that_is_none_are_wrong_use(desk: Desk) -> None:
    assert desk("access", "--at", "2026-02-31").code == 2
    assert desk("access", "--entry", "nonsense").code == 2


def test_a_reason_is_required_where_the_settings_say_so(
    delivered: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEID_HOOKS_REQUIRE_REASON", "true")
    before = delivered.trail()
    for words in (["search", "Doe"], ["show", "0" * 32], ["access"], ["copy", delivered.url, "x:"]):
        refused = delivered(*words)
        assert (refused.code, refused.out) == (2, "")
        assert "--reason" in refused.err
        assert delivered(*words, "--reason", "  ").code == 2
    assert delivered.trail() == before
    assert delivered("search", "Doe", "--reason", "why").code == 0


def test_whoever_requires_a_reason_writes_true_or_false(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEID_HOOKS_REQUIRE_REASON", "perhaps")
    assert desk("search", "Doe").code == 2
    monkeypatch.setenv("DEID_HOOKS_REQUIRE_REASON", "false")
    assert desk("search", "Doe").code == 1


def test_the_csv_of_the_trail_has_every_column_and_no_formula(delivered: Desk) -> None:
    delivered("search", "PatientID==+1-2")
    delivered("search", "Doe", "--reason", "=1+1")
    [_, row, *_] = list(csv.DictReader(io.StringIO(delivered("access", "--format", "csv").out)))
    assert row["reason"] == "'=1+1"
    assert {"at", "who", "where", "asked", "log_ids", "salt", "commitment", "seal"} <= set(row)
