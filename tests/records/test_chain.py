"""The access trail: what breaks its chain, and what does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deid_hooks.records.chain import breaks, erased, linked, same_row
from deid_hooks.records.model import AccessRow

KEY = b"k" * 32


def row(number: int, asked: str = "PatientName=Doe^John") -> AccessRow:
    return AccessRow(f"{number}", "t", "who", "host", "search", asked, (f"{number:032X}",), "why")


def trail(length: int) -> list[AccessRow]:
    rows: list[AccessRow] = []
    for number in range(length):
        rows.append(linked(row(number), rows[-1].seal if rows else "", KEY))
    return rows


def test_a_trail_that_nobody_touched_is_whole() -> None:
    assert list(breaks(trail(5), KEY)) == []
    assert list(breaks([], KEY)) == []


@given(st.sampled_from(["id", "at", "who", "where", "action", "asked", "reason", "log_ids"]))
def test_a_row_that_was_changed_is_found(name: str) -> None:
    rows = trail(3)
    changed: Any = {name: ("x",) if name == "log_ids" else "x"}
    rows[1] = replace(rows[1], **changed)
    assert "1" in {found.row_id for found in breaks(rows, KEY)} or name == "id"
    assert list(breaks(rows, KEY))


def test_a_row_removed_inserted_or_moved_is_found() -> None:
    rows = trail(4)
    assert list(breaks([rows[0], *rows[2:]], KEY))
    assert list(breaks(rows[1:], KEY))
    assert list(breaks([rows[0], rows[2], rows[1], rows[3]], KEY))
    assert list(breaks([*rows[:2], linked(row(9), rows[1].seal, b"x" * 32), *rows[2:]], KEY))


def test_what_was_cut_off_the_end_is_missed_by_who_kept_the_head() -> None:
    rows = trail(4)
    assert list(breaks(rows[:2], KEY)) == []
    assert list(breaks(rows[:2], KEY, rows[3].seal))
    assert list(breaks(rows, KEY, rows[1].seal)) == []
    assert list(breaks([], KEY, rows[1].seal))
    assert list(breaks([], KEY, "")) == []


def test_terms_are_erased_without_breaking_the_chain() -> None:
    rows = trail(3)
    rows[1] = erased(rows[1])
    assert list(breaks(rows, KEY)) == []
    assert "Doe" not in repr([rows[1].asked, rows[1].reason])
    assert same_row(rows[1], trail(3)[1]) is False  # another salt
    whole = linked(row(7), "", KEY)
    assert same_row(whole, whole)
    assert same_row(erased(whole), whole)
    assert not same_row(whole, erased(whole))


@pytest.mark.parametrize("name", ["asked", "reason"])
def test_terms_put_in_after_they_were_erased_are_found(name: str) -> None:
    rows = trail(3)
    added: Any = {name: "PatientName=Roe^Jane"}
    rows[1] = replace(erased(rows[1]), **added)
    assert list(breaks(rows, KEY))


def test_a_chain_sealed_with_another_key_is_not_ours() -> None:
    assert len(list(breaks(trail(3), b"x" * 32))) == 3


def test_what_was_asked_cannot_be_guessed_from_an_erased_row() -> None:
    first, second = linked(row(1), "", KEY), linked(row(1), "", KEY)
    assert first.commitment != second.commitment
