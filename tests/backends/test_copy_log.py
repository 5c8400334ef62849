"""A log moves from any store to any other, and what arrives is proven to be all of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from deid_hooks import LogUnavailable
from deid_hooks.backends import Deadline, LogBackend, Seal
from deid_hooks.backends.contract import Page
from deid_hooks.copy_log import CopyFailed, compute_sum, copy_log
from deid_hooks.log import make_backend
from deid_hooks.records.model import AccessRow, Block, Entry, Erasure, Record, UploadEvent
from deid_hooks.testing.records import chain_seals, fresh_id, make_entry

ERASURE = Erasure("t", "who", "why")
Make = Callable[[str], LogBackend]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def made(kind: str) -> LogBackend:
        log = make_backend(f"{kind}:///{tmp_path}/{fresh_id()}")
        log.create(Deadline())
        return log

    return made


def a_bit_of_everything() -> list[Record]:
    entries = [make_entry(originals=text) for text in ("{}", "\0\ud800", "x" * 200_000)]
    events = [UploadEvent(e.log_id, "t", "cleared", "folder:/x", "sender/1") for e in entries]
    first = AccessRow(fresh_id(), "t", "who", "host", "show", "PatientID=1", ())
    second = AccessRow(fresh_id(), "t", "who", "host", "show", "", ())
    return [*entries, first, *events, second, Block(fresh_id(), "t", "p", "", "who")]


def copied(source: LogBackend, target: LogBackend) -> int:
    return copy_log(source, target, 10, lambda records: None).total


@pytest.mark.parametrize(("source", "target"), [("sqlite", "jsonl"), ("jsonl", "sqlite")])
def test_everything_arrives_in_its_order(make: Make, source: str, target: str) -> None:
    old, new = make(source), make(target)
    records = a_bit_of_everything()
    old.append(records, chain_seals, Deadline())
    assert copied(old, new) == len(records)
    assert list(new.everything(Deadline())) == records
    assert list(new.chain(Deadline())) == list(old.chain(Deadline()))


def test_a_target_whose_chain_goes_another_way_is_refused(make: Make) -> None:
    old, new = make("sqlite"), make("sqlite")
    rows = [AccessRow(fresh_id(), "t", "who", "host", "show", "", ()) for _ in range(2)]
    old.append(rows[:1], chain_seals, Deadline())
    new.append(rows[1:], chain_seals, Deadline())
    with pytest.raises(CopyFailed, match="another log"):
        copied(old, new)
    assert list(new.everything(Deadline())) == rows[1:]


def test_a_copy_that_was_interrupted_goes_on(make: Make) -> None:
    old, new = make("sqlite"), make("sqlite")
    records: list[Record] = [make_entry() for _ in range(500)]
    old.append(records, chain_seals, Deadline())
    seals = [seal for _, seal in old.chain(Deadline())]
    new.append(records[:250], lambda head, these: seals[:250], Deadline())
    heard: list[int] = []
    copy_log(old, new, 10, heard.append)
    assert list(new.everything(Deadline())) == records
    assert sum(heard) == 500


def test_a_copy_is_brought_up_to_date_with_what_came_and_what_was_forgotten(make: Make) -> None:
    old, new = make("sqlite"), make("jsonl")
    gone, left = make_entry(), make_entry()
    old.append([gone, left], chain_seals, Deadline())
    copied(old, new)
    old.erase([gone.log_id], ERASURE, chain_seals, Deadline())
    old.append([make_entry()], chain_seals, Deadline())
    copied(old, new)
    assert compute_sum(old, 10) == compute_sum(new, 10)
    assert list(new.chain(Deadline())) == list(old.chain(Deadline()))
    fresh = make("jsonl")
    copied(old, fresh)
    assert list(fresh.chain(Deadline())) == list(old.chain(Deadline()))
    assert new.resolve(gone.log_id, Deadline()) == old.resolve(gone.log_id, Deadline())


def test_what_was_forgotten_at_the_target_is_not_brought_back(make: Make) -> None:
    old, new = make("sqlite"), make("sqlite")
    entry = make_entry()
    old.append([entry], chain_seals, Deadline())
    copied(old, new)
    new.erase([entry.log_id], ERASURE, chain_seals, Deadline())
    with pytest.raises(CopyFailed, match="does not hold what the source holds"):
        copied(old, new)
    assert new.resolve(entry.log_id, Deadline()) != entry


def test_a_target_that_holds_more_or_something_else_is_no_copy(make: Make) -> None:
    old, new = make("sqlite"), make("sqlite")
    entry = make_entry()
    old.append([entry], chain_seals, Deadline())
    new.append([make_entry()], chain_seals, Deadline())
    with pytest.raises(CopyFailed, match="another log"):
        copied(old, new)
    other = make("sqlite")
    other.append([replace(entry, project="other")], chain_seals, Deadline())
    with pytest.raises(CopyFailed, match="another log"):
        copied(old, other)


def test_a_target_that_changes_what_it_is_given_is_found_out(make: Make) -> None:
    old, new = make("sqlite"), make("sqlite")
    old.append([make_entry(originals="é")], chain_seals, Deadline())
    write = new.append
    new.append = lambda records, seal, deadline: write(  # type: ignore[method-assign]
        [replace(r, originals="e") if isinstance(r, Entry) else r for r in records], seal, deadline
    )
    with pytest.raises(CopyFailed):
        copied(old, new)


def test_a_source_that_goes_away_is_told_and_the_copy_goes_on_later(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = make("sqlite"), make("sqlite")
    records: list[Record] = [make_entry() for _ in range(450)]
    old.append(records, chain_seals, Deadline())
    read, pages = old.read, 0

    def reads(after: int, deadline: Deadline) -> Page:
        nonlocal pages
        pages += 1
        if pages == 3:
            raise LogUnavailable("the log can't be reached")
        return read(after, deadline)

    monkeypatch.setattr(old, "read", reads)
    with pytest.raises(LogUnavailable):
        copied(old, new)
    copied(old, new)
    assert list(new.everything(Deadline())) == records


def test_a_target_that_somebody_writes_to_meanwhile_is_refused(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = make("sqlite"), make("sqlite")
    old.append([make_entry() for _ in range(300)], chain_seals, Deadline())
    write, calls = new.append, 0

    def append(records: Sequence[Record], seal: Seal, deadline: Deadline) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            write([make_entry()], chain_seals, deadline)
        write(records, seal, deadline)

    monkeypatch.setattr(new, "append", append)
    with pytest.raises(CopyFailed, match="another log"):
        copied(old, new)
