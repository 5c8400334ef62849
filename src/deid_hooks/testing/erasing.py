"""Test that erasing takes what identifies a patient, everywhere, and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from unittest.mock import ANY

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deid_hooks.backends.contract import LogBackend, Page
from deid_hooks.deadline import Deadline
from deid_hooks.errors import Forgotten, IdConflict, LogError
from deid_hooks.query.parser import parse_terms
from deid_hooks.records.chain import Fault, Verification, commit_terms, erase_salt, erase_terms
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
    SEALER,
    any_access_rows,
    chain_seals,
    fresh_id,
    make_entry,
)
from deid_hooks.testing.stores import Conformance, Open, Writer, many

ERASURE = Erasure("2026-02-03T04:05:06.000000Z", "administrator", "consent withdrawn")


class Erasing(Conformance):
    """Tombstones, and what is left."""

    def test_a_tombstone_takes_the_place_of_an_entry(
        self, backend: LogBackend, another: Open
    ) -> None:
        gone, left = make_entry(digest="gone", patients=("p",)), make_entry()
        backend.append([gone, left, *_uploads(gone)], chain_seals, Deadline())
        reader = another()
        assert reader.resolve(gone.log_id, Deadline()) == gone
        backend.erase([gone.log_id], ERASURE, chain_seals, Deadline(30))
        sent_to = ("folder:/a", "folder:/b")
        stone = Tombstone(gone.log_id, gone.created, sent_to, ERASURE, gone.project)
        for each in (backend, reader):
            assert each.resolve(gone.log_id, Deadline()) == stone
            sealed = each.sealed_tombstone(gone.log_id, Deadline())
            assert sealed is not None
            assert sealed[0] == stone
            assert each.seals or SEALER.find_fault(*sealed) == ""
            assert list(each.entries([gone.log_id, left.log_id], Deadline())) == [left]
            assert list(each.search(parse_terms(["PatientID=4711"]), Deadline())) == [left.log_id]
            assert each.with_digest("gone", Deadline()) is None
            assert each.subject("TRIAL7", "p", Deadline()) is None

    def test_what_was_read_before_is_not_read_again_and_the_tombstone_comes_last(
        self, backend: LogBackend
    ) -> None:
        gone, left = make_entry(), make_entry()
        events = _uploads(gone)
        backend.append([gone, left, *events], chain_seals, Deadline())
        cursor = backend.read(0, Deadline()).cursor
        backend.erase([gone.log_id], ERASURE, chain_seals, Deadline(30))
        [stone] = backend.read(cursor, Deadline()).records
        assert isinstance(stone, Tombstone)
        assert list(backend.everything(Deadline())) == [left, *events, stone]
        place = Erased("entry", gone.log_id)
        assert backend.read(0, Deadline()).records == (place, left, *events, stone)
        assert list(backend.uploads([gone.log_id], Deadline())) == events

    def test_an_erased_entry_never_comes_back(self, backend: LogBackend, another: Open) -> None:
        gone, new = make_entry(), make_entry()
        backend.append([gone], chain_seals, Deadline())
        backend.erase([gone.log_id], ERASURE, chain_seals, Deadline(30))
        for each in (backend, another()):
            with pytest.raises(Forgotten):
                each.append([new, gone], chain_seals, Deadline())
            with pytest.raises(Forgotten):
                each.append([replace(gone, project="other")], chain_seals, Deadline())
        [only] = backend.everything(Deadline())
        assert isinstance(only, Tombstone)

    def test_unknown_and_erased_ids_are_passed_over(self, backend: LogBackend) -> None:
        first, second = make_entry(), make_entry()
        backend.append([first, second], chain_seals, Deadline())
        backend.erase([first.log_id], ERASURE, chain_seals, Deadline(30))
        again = replace(ERASURE, reason="again")
        unknown = (fresh_id(), "", "a\0b", "\ud800", "x" * 5000)
        backend.erase(
            [first.log_id, *unknown, second.log_id, second.log_id], again, chain_seals, Deadline(30)
        )
        erasures = [r.erasure for r in backend.everything(Deadline()) if isinstance(r, Tombstone)]
        assert erasures == [ERASURE, again]
        backend.erase([], ERASURE, chain_seals, Deadline(30))

    def test_what_was_asked_about_an_id_that_is_not_there_stays(self, backend: LogBackend) -> None:
        left, nowhere = make_entry(), fresh_id()
        row = commit_terms(
            AccessRow(fresh_id(), "t", "who", "host", "show", nowhere, (nowhere, left.log_id))
        )
        backend.append([left, row], chain_seals, Deadline())
        backend.erase([nowhere], ERASURE, chain_seals, Deadline(30))
        assert [row for row, _ in backend.trail(Deadline())] == [row]

    def test_values_that_another_entry_has_too_stay_with_it(self, backend: LogBackend) -> None:
        large = {"d" * 64: b"x" * 10_000}
        gone, left = make_entry(large=large), make_entry(large=large)
        backend.append([gone, left], chain_seals, Deadline())
        backend.erase([gone.log_id], ERASURE, chain_seals, Deadline(30))
        assert backend.resolve(left.log_id, Deadline()) == left

    def test_what_was_asked_about_an_erased_entry_is_erased_from_the_trail(
        self, backend: LogBackend
    ) -> None:
        gone, left = make_entry(), make_entry()
        backend.append([gone, left], chain_seals, Deadline())
        rows = [
            commit_terms(
                AccessRow(fresh_id(), "t", "who", "host", "search", "PatientID=4711", ids, "why")
            )
            for ids in ((gone.log_id, left.log_id), (left.log_id,), ())
        ]
        backend.append(rows, chain_seals, Deadline())
        before = list(backend.trail(Deadline()))
        backend.erase([fresh_id()], ERASURE, chain_seals, Deadline(30))
        assert list(backend.trail(Deadline())) == before
        backend.erase([gone.log_id], ERASURE, chain_seals, Deadline(30))
        trail = list(backend.trail(Deadline()))
        assert [row for row, _ in trail] == [erase_terms(rows[0]), *rows[1:]]
        assert [seal for _, seal in trail] == [seal for _, seal in before]
        backend.append(rows, chain_seals, Deadline())  # a copy made before brings nothing back
        assert list(backend.trail(Deadline())) == trail


def _uploads(entry: Entry) -> list[UploadEvent]:
    return [
        UploadEvent(entry.log_id, "t1", "cleared", "folder:/a", "sender/1"),
        UploadEvent(entry.log_id, "t2", "cleared", "folder:/b", "sender/1"),
        UploadEvent(entry.log_id, "t3", "uploaded", "folder:/a", "sender/1"),
    ]


class Sealing(Conformance):
    """Seals, which the log gives and the store keeps, and the rows of the access trail."""

    @many
    @given(st.lists(any_access_rows, max_size=3))
    def test_access_rows_are_read_as_they_were_written(
        self, backend: LogBackend, rows: list[AccessRow]
    ) -> None:
        before = [row for row, _ in backend.trail(Deadline())]
        backend.append(rows, chain_seals, Deadline())
        assert [row for row, _ in backend.trail(Deadline())] == [*before, *rows]

    def test_an_access_row_that_is_repeated_stands_once_and_is_never_changed(
        self, backend: LogBackend
    ) -> None:
        first, second = _make_access_row(), _make_access_row()
        backend.append([first, second], chain_seals, Deadline())
        backend.append([first], chain_seals, Deadline())
        with pytest.raises(IdConflict):
            backend.append([replace(first, who="another")], chain_seals, Deadline())
        assert [row for row, _ in backend.trail(Deadline())] == [first, second]

    def test_each_record_is_read_with_the_seal_that_the_log_gave_it(
        self, backend: LogBackend, another: Open
    ) -> None:
        self.skip_if_store_seals(backend)
        entry = make_entry()
        records: list[Record] = [
            entry,
            UploadEvent(entry.log_id, "t", "cleared", "d", "u"),
            Block(fresh_id(), "t", "p", "", "who"),
            _make_access_row(),
            Tombstone(fresh_id(), "t", (), ERASURE),
            make_entry(),
        ]
        given: list[str] = []

        def seal(head: str, new: Sequence[Record]) -> list[str]:
            assert head == (given[-1] if given else "")
            seals = chain_seals(head, new)
            given.extend(seals)
            return seals

        backend.append(records[:2], seal, Deadline())
        another().append(records[2:4], seal, Deadline())
        backend.append(records[4:], seal, Deadline())
        reader = another()
        assert reader.read(0, Deadline()) == Page(tuple(records), tuple(given), ANY)
        assert list(reader.sealed_entries([entry.log_id], Deadline())) == [(entry, given[0])]
        assert list(reader.sealed_uploads(None, Deadline())) == [(records[1], given[1])]
        blocks = reader.blocks_after(0, Deadline())
        assert (blocks.blocks, blocks.head) == (((records[2], given[2]),), given[-1])
        assert reader.blocks_after(blocks.cursor, Deadline()).blocks == ()
        assert list(reader.trail(Deadline())) == [(records[3], given[3])]
        assert find_faults(backend) == []

    def test_of_an_erased_entry_the_seal_stays_and_the_tombstone_is_sealed(
        self, backend: LogBackend, another: Open
    ) -> None:
        self.skip_if_store_seals(backend)
        gone, left = make_entry(), make_entry()
        row = replace(_make_access_row(), log_ids=(gone.log_id,))
        backend.append([gone, left, row], chain_seals, Deadline())
        before = backend.read(0, Deadline()).seals
        backend.erase([gone.log_id], ERASURE, chain_seals, Deadline(30))
        page = another().read(0, Deadline())
        assert page.seals[:3] == (erase_salt(before[0]), *before[1:])
        assert page.seals[0] != before[0]
        assert page.records[0] == Erased("entry", gone.log_id)
        assert find_faults(backend) == []

    def test_a_copy_keeps_the_seals_of_what_was_erased(
        self, backend: LogBackend, another: Open
    ) -> None:
        self.skip_if_store_seals(backend)
        gone, left = make_entry(), make_entry()
        stone = Tombstone(gone.log_id, gone.created, (), ERASURE)
        seals = chain_seals("", [gone, left, stone])
        seals[0] = erase_salt(seals[0])
        records: list[Record] = [Erased("entry", gone.log_id), left, stone]
        backend.append(records, lambda head, new: seals, Deadline())
        assert another().read(0, Deadline()) == Page(tuple(records), tuple(seals), ANY)
        with pytest.raises(Forgotten):
            backend.append([gone], chain_seals, Deadline())
        with pytest.raises(IdConflict):
            backend.append([Erased("entry", left.log_id)], chain_seals, Deadline())

    def test_the_log_is_asked_for_seals_once_with_the_last_one_and_what_is_new(
        self, backend: LogBackend
    ) -> None:
        self.skip_if_store_seals(backend)
        known, new, last = make_entry(), make_entry(), _make_access_row()
        asked: list[tuple[str, list[Record]]] = []

        def seal(head: str, records: Sequence[Record]) -> list[str]:
            asked.append((head, list(records)))
            return [f"seal {len(asked)} of {number}" for number, _ in enumerate(records)]

        backend.append([known], seal, Deadline())
        backend.append([known, new, new, last, known], seal, Deadline())
        backend.append([known, last], seal, Deadline())
        backend.append([], seal, Deadline())
        assert asked == [("", [known]), ("seal 1 of 0", [new, last])]

    def test_nothing_is_written_if_the_log_gives_no_seals(self, backend: LogBackend) -> None:
        self.skip_if_store_seals(backend)
        entry = make_entry()

        def refuse(head: str, records: Sequence[Record]) -> list[str]:
            raise IdConflict(entry.log_id)

        with pytest.raises(IdConflict):
            backend.append([entry], refuse, Deadline())
        with pytest.raises(LogError):
            backend.append([entry, make_entry()], lambda head, records: ["one"], Deadline())
        assert list(backend.everything(Deadline())) == []
        backend.append([entry], chain_seals, Deadline())
        assert list(backend.everything(Deadline())) == [entry]

    def test_many_that_append_at_once_leave_one_chain(
        self, backend: LogBackend, another: Open, url: str
    ) -> None:
        self.skip_if_store_seals(backend)

        def append(backend: LogBackend) -> None:
            for _ in range(8):
                backend.append([_make_access_row(), make_entry()], chain_seals, Deadline(30))

        threads = [threading.Thread(target=append, args=(each,)) for each in (backend, another())]
        with Writer(backend, url, job="access rows", count=8) as writer:
            for thread in threads:
                thread.start()
            elsewhere = writer.all_said()
            for thread in threads:
                thread.join()
        records = [record for record, _ in backend.chain(Deadline())]
        assert len(records) == 48
        assert {get_id(record) for record in records} >= set(elsewhere)
        assert find_faults(backend) == [], "a record was sealed over another head"


def find_faults(backend: LogBackend) -> list[Fault]:
    """Return what is wrong with the chain of a log that the kit wrote."""
    verification = Verification(SEALER)
    found = [
        f for record, seal in backend.chain(Deadline()) for f in verification.check(record, seal)
    ]
    return [*found, *verification.finish()]


def _make_access_row() -> AccessRow:
    row = AccessRow(fresh_id(), "t", "who", "host", "show", "PatientName=Doe", ("a",), "why")
    return commit_terms(row)
