"""The chain over all records: what breaks it, and what does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deid_hooks.backends.contract import is_same
from deid_hooks.records.chain import (
    Blocks,
    Head,
    Sealer,
    Verification,
    commit_terms,
    erase_salt,
    erase_terms,
    find_difference,
    make_leaf,
    parse_head,
    parse_seal,
)
from deid_hooks.records.model import (
    AccessRow,
    Block,
    Entry,
    Erased,
    Erasure,
    Record,
    Tombstone,
    UploadEvent,
    get_id,
)
from deid_hooks.testing.records import (
    any_access_rows,
    any_blocks,
    any_entries,
    any_events,
    any_tombstones,
    make_entry,
)

SEALER = Sealer({"site": b"k" * 32})
OTHER = Sealer({"site": b"x" * 32})
ERASURE = Erasure("t", "dpo", "asked to")
Log = list[tuple[Record, str]]


def make_row(number: int, *log_ids: str) -> AccessRow:
    asked = f"PatientID={number}"
    return commit_terms(
        AccessRow(f"row {number}", f"t{number}", "jane", "desk", "search", asked, log_ids, "why")
    )


def seal(records: list[Record], head: str = "", sealer: Sealer = SEALER) -> Log:
    return list(zip(records, sealer.seal(head, map(make_leaf, records)), strict=True))


def make_log() -> Log:
    """Return a log with a record of every kind: entry 0, row 2 about it, blocks 3 and 4."""
    entry = make_entry(log_id="A" * 32)
    return seal(
        [
            entry,
            UploadEvent(entry.log_id, "t1", "cleared", "folder:/a", "sender/1"),
            make_row(2, entry.log_id),
            Block("block 3", "t3", "patient", "", "dpo"),
            Block("block 4", "t4", "patient", "", "dpo", lifted=True),
            make_entry(log_id="B" * 32),
            make_row(6),
        ]
    )


def erase(log: Log) -> Log:
    """Return a log in which the first entry was forgotten, as a store does it."""
    (entry, its_seal), event, (row, of_row), *rest = log
    assert isinstance(entry, Entry)
    assert isinstance(row, AccessRow)
    stone = Tombstone(entry.log_id, entry.created, ("folder:/a",), ERASURE)
    return [
        (Erased("entry", entry.log_id), erase_salt(its_seal)),
        event,
        (erase_terms(row), of_row),
        *rest,
        *seal([stone], log[-1][1]),
    ]


def find_faults(log: Log, head: Head | None = None, sealer: Sealer = SEALER) -> list[str]:
    verification = Verification(sealer, [head] if head else [])
    found = [fault for row in log for fault in verification.check(*row)]
    return [f"{fault.n} {fault.what}" for fault in (*found, *verification.finish())]


def make_head(log: Log) -> Head:
    verification = Verification(SEALER)
    for row in log:
        list(verification.check(*row))
    head = verification.make_head("now")
    assert head is not None
    return head


def test_a_log_that_nobody_touched_is_whole() -> None:
    assert find_faults(make_log()) == []
    assert find_faults([]) == []
    assert find_faults(make_log()[:3]) == []


def test_numbers_have_no_gap_and_each_record_follows_the_last_one() -> None:
    log = make_log()
    seals = [parse_seal(text) for _, text in log]
    assert [found and found.n for found in seals] == list(range(7))
    assert [found and found.control for found in seals] == [-1, -1, -1, -1, 3, 4, 4]
    assert [bool(found and found.genesis) for found in seals] == [True, *[False] * 6]


@given(st.one_of(any_entries, any_events, any_blocks, any_tombstones, any_access_rows))
def test_the_seal_of_any_record_holds_and_is_read_as_it_was_written(record: Record) -> None:
    [(_, text)] = seal([record])
    assert text.isascii()
    assert SEALER.find_fault(record, text) == ""
    found = parse_seal(text)
    assert found is not None
    assert (found.id, str(found)) == (get_id(record), text)


CHANGED = [
    *((5, name) for name in ("project", "created", "uploader", "originals", "digest")),
    *((1, name) for name in ("log_id", "at", "event", "destination", "uploader")),
    *((3, name) for name in ("id", "at", "patient", "project", "who", "reason")),
    *((2, name) for name in ("id", "at", "who", "where", "action", "asked", "reason")),
    *((2, name) for name in ("salt", "commitment")),
]


@pytest.mark.parametrize(("place", "name"), CHANGED)
def test_whatever_is_changed_is_found(place: int, name: str) -> None:
    log = make_log()
    changed: Any = {name: "x"}
    log[place] = replace(log[place][0], **changed), log[place][1]
    assert [fault[:2] for fault in find_faults(log)] == [f"{place} "]


def test_what_was_asked_can_be_blanked_only_with_an_erasure_that_names_its_entry() -> None:
    log = make_log()
    row = log[2][0]
    assert isinstance(row, AccessRow)
    log[2] = erase_terms(row), log[2][1]
    assert find_faults(log) == ["2 what was asked was removed, and no erasure names it"]
    assert find_faults(erase(make_log())) == []


@pytest.mark.parametrize("added", [{"asked": "x"}, {"reason": "x"}])
def test_what_is_put_into_an_erased_row_is_found(added: dict[str, Any]) -> None:
    log = erase(make_log())
    log[2] = replace(log[2][0], **added), log[2][1]
    assert find_faults(log) == ["2 what was asked, or the reason, was added later"]


def test_the_contents_of_two_records_cannot_be_swapped() -> None:
    log = make_log()
    first, second = log[0][0], log[5][0]
    assert isinstance(first, Entry)
    assert isinstance(second, Entry)
    log[0] = replace(second, log_id=first.log_id), log[0][1]
    log[5] = replace(first, log_id=second.log_id), log[5][1]
    assert [fault[:2] for fault in find_faults(log)] == ["0 ", "5 "]
    log[0], log[5] = (second, log[5][1]), (first, log[0][1])
    assert len(find_faults(log)) > 2


@pytest.mark.parametrize("place", range(6))
def test_a_record_that_was_removed_is_missed(place: int) -> None:
    log = make_log()
    del log[place]
    assert any("missing" in fault for fault in find_faults(log))


def test_an_entry_that_is_gone_without_an_erasure_is_found() -> None:
    log = make_log()
    log[0] = Erased("entry", "A" * 32), erase_salt(log[0][1])
    assert find_faults(log) == ["0 it was removed, and no erasure names it"]
    log[1] = Erased("upload", "A" * 32), log[1][1]
    assert "1 it was removed, and only entries can be erased" in find_faults(log)


def test_a_record_that_was_inserted_or_moved_is_found() -> None:
    log = make_log()
    assert find_faults([*log[:2], log[3], log[2], *log[4:]])
    forged = seal([make_row(9)], log[1][1], OTHER)
    assert "2 its seal was changed" in find_faults([*log[:2], *forged, *log[2:]])


def test_who_has_the_log_and_not_the_key_cannot_make_a_log() -> None:
    forged = seal([record for record, _ in make_log()], sealer=OTHER)
    assert len(find_faults(forged)) == 7
    assert find_faults(forged, sealer=OTHER) == [], "with the key anybody could"
    assert "another key" in find_faults(seal([make_row(1)], sealer=Sealer({"x": b"x" * 32})))[0]


def test_records_cut_off_at_the_end_are_missed_by_who_kept_the_head() -> None:
    log = make_log()
    head = make_head(log)
    assert parse_head(str(head)) == head
    assert find_faults(log[:4]) == []
    assert find_faults(log[:4], head) == ["3 the log ends before record 6, which it once had"]
    assert find_faults(log, make_head(log[:4])) == []
    assert find_faults([*log, *seal([make_row(8)], log[-1][1])], head) == []


def test_another_end_and_another_log_are_not_the_ones_whose_head_was_kept() -> None:
    log = make_log()
    other_end = [*log[:5], *seal([make_row(7), make_row(8)], log[4][1])]
    assert find_faults(other_end, make_head(log)) == [
        "6 it is another record than the log had there once"
    ]
    [fault] = find_faults(make_log(), make_head(log))
    assert "another log" in fault


def test_seals_of_erased_records_tell_nothing_of_them() -> None:
    log = erase(make_log())
    guessed = make_entry(log_id="A" * 32)
    found = parse_seal(log[0][1])
    assert found is not None
    assert found.salt == ""
    assert find_difference(guessed, found) == "it was changed"


def test_a_row_is_held_already_whole_or_erased_since() -> None:
    row = make_row(7)
    assert is_same(row, row)
    assert is_same(erase_terms(row), row)
    assert not is_same(row, erase_terms(row))
    assert not is_same(row, make_row(7)), "another salt"


class TestBlocks:
    """That these are all blocks that the log ever had is proven by its last record."""

    @staticmethod
    def add(log: Log, blocks: Blocks | None = None) -> str:
        found = [(record, text) for record, text in log if isinstance(record, Block)]
        return (blocks or Blocks(SEALER)).add(found, log[-1][1] if log else "")

    def test_all_blocks_are_taken_in_and_later_ones_follow(self) -> None:
        log, blocks = make_log(), Blocks(SEALER)
        assert self.add([], blocks) == ""
        assert self.add(log, blocks) == ""
        more = seal([Block("block 7", "t", "other", "", "dpo"), make_row(8)], log[-1][1])
        assert self.add(more, blocks) == ""
        assert [block.id for block in blocks.found] == ["block 3", "block 4", "block 7"]

    @pytest.mark.parametrize("gone", [[3], [4], [3, 4]])
    def test_a_block_that_was_removed_is_missed(self, gone: list[int]) -> None:
        log = [row for number, row in enumerate(make_log()) if number not in gone]
        assert self.add(log) == "a block was removed"

    def test_once_the_blocks_are_back_they_are_taken_in(self) -> None:
        log, blocks = make_log(), Blocks(SEALER)
        assert self.add([row for row in log if row != log[4]], blocks) == "a block was removed"
        assert blocks.found == []
        assert self.add(log, blocks) == ""

    def test_a_block_that_was_removed_with_the_end_is_missed_by_who_saw_it(self) -> None:
        log, blocks = make_log(), Blocks(SEALER)
        assert self.add(log, blocks) == ""
        assert blocks.add([], log[2][1]) == "its last records were removed"
        assert blocks.add([], "") == "its last record has no seal"

    def test_a_changed_block_and_a_forged_end_are_found(self) -> None:
        log = make_log()
        lifted: Any = {"lifted": True}
        log[3] = replace(log[3][0], **lifted), log[3][1]
        assert self.add(log) == "a block: it was changed"
        log = make_log()
        last = parse_seal(log[-1][1])
        assert last is not None
        forged = str(replace(last, control=-1))
        assert Blocks(SEALER).add([], forged) == "its last record: its seal was changed"


BOTH = Sealer({"site": b"k" * 32, "new": b"n" * 32})


def test_a_key_that_was_replaced_seals_nothing_more() -> None:
    log = seal([make_row(1), make_row(2)])
    log += seal([make_row(3)], log[-1][1], BOTH)
    assert find_faults(log, sealer=BOTH) == []
    assert "2 it was sealed with another key" in find_faults(log)
    log += seal([make_row(4)], log[-1][1], SEALER)
    assert find_faults(log, sealer=BOTH) == ["3 it was sealed with a key that was replaced before"]


def test_a_lost_key_vouches_for_the_records_that_it_may_have_sealed() -> None:
    lost = Sealer({"site": 1, "new": b"n" * 32})
    log = seal([make_row(1), make_row(2)])
    assert find_faults([*log, *seal([make_row(3)], log[-1][1], lost)], sealer=lost) == []
    late = seal([make_row(3)], log[-1][1])
    assert find_faults([*log, *late], sealer=lost) == [
        "2 it was sealed with a key that was lost before"
    ]
