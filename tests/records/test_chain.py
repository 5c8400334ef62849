"""The access trail: what breaks its chain, and what does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from deid_hooks.backends.contract import is_same
from deid_hooks.records.chain import commit_terms, erase_terms, find_breaks, seal_records
from deid_hooks.records.model import AccessRow, UploadEvent

KEY = b"k" * 32
Trail = list[tuple[AccessRow, str]]


def make_row(number: int) -> AccessRow:
    asked = f"PatientID={number}"
    row = AccessRow(str(number), f"t{number}", "jane", "desk", "search", asked, ("a", "b"), "why")
    return commit_terms(row, KEY)


def make_trail(length: int, key: bytes = KEY) -> Trail:
    rows = [make_row(number) for number in range(length)]
    return list(zip(rows, seal_records("", rows, key), strict=True))


def breaks(trail: Trail, head: str | None = None) -> list[str]:
    return [found.row_id for found in find_breaks(trail, KEY, head)]


def test_a_trail_that_nobody_touched_is_whole() -> None:
    assert breaks(make_trail(5)) == []
    assert breaks([]) == []


def test_other_records_have_no_seal_and_rows_are_sealed_over_the_last_one() -> None:
    event = UploadEvent("id", "t", "cleared", "d", "u")
    first, second = make_row(1), make_row(2)
    seals = seal_records("head", [event, first, event, second], KEY)
    assert seals[0] == seals[2] == ""
    assert seals[1::2] == [
        *seal_records("head", [first], KEY),
        *seal_records(seals[1], [second], KEY),
    ]


@pytest.mark.parametrize(
    "name",
    ["id", "at", "who", "where", "action", "asked", "log_ids", "reason", "salt", "commitment"],
)
def test_a_row_that_was_changed_breaks_it(name: str) -> None:
    trail = make_trail(3)
    changed: Any = {name: ("c",) if name == "log_ids" else "x"}
    trail[1] = replace(trail[1][0], **changed), trail[1][1]
    assert breaks(trail)


def test_a_row_that_was_removed_inserted_or_moved_breaks_it() -> None:
    trail = make_trail(4)
    assert breaks([trail[0], *trail[2:]]) == ["2"]
    assert breaks(trail[1:])
    assert breaks([trail[0], trail[2], trail[1], trail[3]])
    row = make_row(9)
    forged = row, seal_records(trail[1][1], [row], b"x" * 32)[0]
    assert breaks([*trail[:2], forged, *trail[2:]])


def test_rows_cut_off_at_the_end_are_missed_by_who_kept_the_head() -> None:
    trail = make_trail(4)
    assert breaks(trail[:2]) == []
    assert breaks(trail[:2], trail[3][1])
    assert breaks(trail, trail[1][1]) == []
    assert breaks([], trail[1][1])
    assert breaks([], "") == []


def test_erasing_what_was_asked_leaves_the_trail_whole() -> None:
    trail = make_trail(3)
    trail[1] = erase_terms(trail[1][0]), trail[1][1]
    assert breaks(trail) == []
    assert "PatientID" not in repr(trail[1])


def test_a_row_is_held_already_whole_or_erased_since() -> None:
    row = make_row(7)
    assert is_same(row, row)
    assert is_same(erase_terms(row), row)
    assert not is_same(row, erase_terms(row))
    assert not is_same(row, make_row(7)), "another salt"


@pytest.mark.parametrize("added", [{"asked": "x"}, {"reason": "x"}])
def test_what_is_put_into_an_erased_row_breaks_it(added: dict[str, str]) -> None:
    trail = make_trail(3)
    changed: Any = added
    trail[1] = replace(erase_terms(trail[1][0]), **changed), trail[1][1]
    assert breaks(trail)


def test_a_trail_sealed_with_another_key_is_not_ours() -> None:
    assert len(breaks(make_trail(3, b"x" * 32))) == 3


def test_equal_terms_have_commitments_that_differ() -> None:
    assert make_row(1).commitment != make_row(1).commitment
