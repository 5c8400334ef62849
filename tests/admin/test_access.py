"""Who looked is known, and nobody looks without a trace."""

from __future__ import annotations

import csv
import io

import pytest

from tests.admin.conftest import Desk


def test_the_trail_says_who_looked_for_what_and_what_was_found(delivered: Desk) -> None:
    found = delivered("search", "Doe", "Modality=CT", "--reason", "a finding").ids
    delivered("search", "Doe", "Modality=CT", "--format", "ids", "--reason", "a finding")
    row = delivered("access").rows[0]
    assert (row["action"], row["asked"]) == ("search", "Doe\nModality=CT")
    assert row["reason"] == "a finding"
    assert row["log_ids"][0] in found[1]
    assert row["who"] and row["where"]


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


def test_a_whole_trail_is_whole_and_its_head_is_the_last_seal(delivered: Desk) -> None:
    delivered("search", "Doe")
    delivered("search", "Roe")
    assert delivered("access", "verify").code == 0
    [(seal,)] = delivered.sql("SELECT seal FROM deid_log_chain ORDER BY seq DESC LIMIT 1")
    assert delivered("access", "head").out.strip() == seal
    assert delivered("access", "verify", "--head", seal).code == 0


def test_a_changed_row_breaks_the_trail(delivered: Desk) -> None:
    delivered("search", "Doe")
    delivered("search", "Roe")
    delivered.sql("UPDATE deid_log_access SET who = 'another' WHERE asked = 'Doe'")
    broken = delivered("access", "verify")
    assert broken.code == 1
    [(row,)] = delivered.sql("SELECT id FROM deid_log_access WHERE asked = 'Doe'")
    assert [each["row"] for each in broken.rows] == [row]


def test_rows_cut_off_at_the_end_are_missed_by_the_head_that_was_kept(delivered: Desk) -> None:
    delivered("search", "Doe")
    delivered("search", "Roe")
    (delivered.folder / "head.txt").write_text(delivered("access", "head").out)
    delivered.sql("DELETE FROM deid_log_access WHERE asked = 'Roe'")
    assert delivered("access", "verify").code == 0
    assert delivered("access", "verify", "--head", "@head.txt").code == 1


def test_the_csv_of_the_trail_has_every_column_and_no_formula(delivered: Desk) -> None:
    delivered("search", "PatientID==+1-2")
    delivered("search", "Doe", "--reason", "=1+1")
    [_, row, *_] = list(csv.DictReader(io.StringIO(delivered("access", "--format", "csv").out)))
    assert row["reason"] == "'=1+1"
    assert {"at", "who", "where", "asked", "log_ids", "salt", "commitment", "seal"} <= set(row)
