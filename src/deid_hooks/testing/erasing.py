"""Erasing takes what identifies a patient, everywhere, for good, and nothing else."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deid_hooks.backends.contract import LogBackend
from deid_hooks.deadline import Deadline
from deid_hooks.errors import Forgotten, IdConflict, TrailMoved
from deid_hooks.query.parser import parse_terms
from deid_hooks.records.chain import breaks, erased, linked
from deid_hooks.records.model import AccessRow, Entry, Erasure, Tombstone, UploadEvent
from deid_hooks.testing.process import TRAIL_KEY
from deid_hooks.testing.records import any_looks, fresh_id, make_entry
from deid_hooks.testing.stores import Conformance, Open, Writer, many

ERASURE = Erasure("2026-02-03T04:05:06.000000Z", "administrator", "consent withdrawn")


class Erasing(Conformance):
    """Tombstones, and what is left."""

    def test_a_tombstone_takes_the_place_of_an_entry(
        self, backend: LogBackend, another: Open
    ) -> None:
        gone, left = make_entry(digest="gone", patients=("p",)), make_entry()
        backend.append([gone, left, *_uploads(gone)], Deadline())
        reader = another()
        assert reader.resolve(gone.log_id, Deadline()) == gone
        backend.erase([gone.log_id], ERASURE, Deadline(30))
        stone = Tombstone(gone.log_id, gone.created, ("folder:/a", "folder:/b"), ERASURE)
        for each in (backend, reader):
            assert each.resolve(gone.log_id, Deadline()) == stone
            assert list(each.entries([gone.log_id, left.log_id], Deadline())) == [left]
            assert list(each.search(parse_terms(["PatientID=4711"]), Deadline())) == [left.log_id]
            assert each.with_digest("gone", Deadline()) is None
            assert each.subject("TRIAL7", "p", Deadline()) is None

    def test_what_was_read_before_is_not_read_again_and_the_tombstone_comes_last(
        self, backend: LogBackend
    ) -> None:
        gone, left = make_entry(), make_entry()
        events = _uploads(gone)
        backend.append([gone, left, *events], Deadline())
        cursor = backend.read(0, Deadline()).cursor
        backend.erase([gone.log_id], ERASURE, Deadline(30))
        [stone] = backend.read(cursor, Deadline()).records
        assert isinstance(stone, Tombstone)
        assert list(backend.everything(Deadline())) == [left, *events, stone]
        assert list(backend.uploads([gone.log_id], Deadline())) == events

    def test_an_erased_entry_never_comes_back(self, backend: LogBackend, another: Open) -> None:
        gone, new = make_entry(), make_entry()
        backend.append([gone], Deadline())
        backend.erase([gone.log_id], ERASURE, Deadline(30))
        for each in (backend, another()):
            with pytest.raises(Forgotten):
                each.append([new, gone], Deadline())
            with pytest.raises(Forgotten):
                each.append([replace(gone, project="other")], Deadline())
        [only] = backend.everything(Deadline())
        assert isinstance(only, Tombstone)

    def test_unknown_and_erased_ids_are_passed_over(self, backend: LogBackend) -> None:
        first, second = make_entry(), make_entry()
        backend.append([first, second], Deadline())
        backend.erase([first.log_id], ERASURE, Deadline(30))
        again = replace(ERASURE, reason="again")
        unknown = (fresh_id(), "", "a\0b", "\ud800", "x" * 5000)
        backend.erase([first.log_id, *unknown, second.log_id, second.log_id], again, Deadline(30))
        erasures = [r.erasure for r in backend.everything(Deadline()) if isinstance(r, Tombstone)]
        assert erasures == [ERASURE, again]
        backend.erase([], ERASURE, Deadline(30))

    def test_values_that_another_entry_has_too_stay_with_it(self, backend: LogBackend) -> None:
        large = {"d" * 64: b"x" * 10_000}
        gone, left = make_entry(large=large), make_entry(large=large)
        backend.append([gone, left], Deadline())
        backend.erase([gone.log_id], ERASURE, Deadline(30))
        assert backend.resolve(left.log_id, Deadline()) == left

    def test_what_was_asked_about_an_erased_entry_is_erased_from_the_trail(
        self, backend: LogBackend
    ) -> None:
        gone, left = make_entry(), make_entry()
        backend.append([gone, left], Deadline())
        rows: list[AccessRow] = []
        for ids in ((gone.log_id, left.log_id), (left.log_id,), ()):
            row = AccessRow(fresh_id(), "t", "who", "host", "search", "PatientID=4711", ids, "why")
            rows.append(linked(row, rows[-1].seal if rows else "", TRAIL_KEY))
        backend.append(rows, Deadline())
        backend.erase([gone.log_id], ERASURE, Deadline(30))
        trail = list(backend.trail(Deadline()))
        assert trail == [erased(rows[0]), *rows[1:]]
        assert list(breaks(trail, TRAIL_KEY)) == []
        backend.append(rows, Deadline())  # a copy that was made before brings nothing back
        assert list(backend.trail(Deadline())) == trail


def _uploads(entry: Entry) -> list[UploadEvent]:
    return [
        UploadEvent(entry.log_id, "t1", "cleared", "folder:/a", "sender/1"),
        UploadEvent(entry.log_id, "t2", "cleared", "folder:/b", "sender/1"),
        UploadEvent(entry.log_id, "t3", "uploaded", "folder:/a", "sender/1"),
    ]


class Trails(Conformance):
    """Rows that follow one another."""

    @many
    @given(st.lists(any_looks, max_size=3))
    def test_rows_are_read_as_they_were_linked(
        self, backend: LogBackend, rows: list[AccessRow]
    ) -> None:
        before = list(backend.trail(Deadline()))
        chain = before[:]
        for row in rows:
            chain.append(linked(row, chain[-1].seal if chain else "", TRAIL_KEY))
        backend.append(chain[len(before) :], Deadline())
        assert list(backend.trail(Deadline())) == chain
        assert backend.trail_head(Deadline()) == (chain[-1].seal if chain else "")

    def test_a_row_that_does_not_follow_the_last_one_is_not_written(
        self, backend: LogBackend, another: Open
    ) -> None:
        first = linked(_look(), "", TRAIL_KEY)
        backend.append([first], Deadline())
        for previous in ("", "elsewhere"):
            with pytest.raises(TrailMoved):
                another().append([linked(_look(), previous, TRAIL_KEY)], Deadline())
        second = linked(_look(), first.seal, TRAIL_KEY)
        backend.append([second], Deadline())
        with pytest.raises(TrailMoved):
            backend.append([linked(_look(), first.seal, TRAIL_KEY)], Deadline())
        assert list(backend.trail(Deadline())) == [first, second]

    def test_a_row_that_is_repeated_stands_once_and_is_never_changed(
        self, backend: LogBackend
    ) -> None:
        first = linked(_look(), "", TRAIL_KEY)
        second = linked(_look(), first.seal, TRAIL_KEY)
        backend.append([first, second], Deadline())
        backend.append([first], Deadline())
        other = linked(AccessRow(first.id, "t", "another", "host", "show", "", ()), "", TRAIL_KEY)
        with pytest.raises(IdConflict):
            backend.append([other], Deadline())
        assert list(backend.trail(Deadline())) == [first, second]

    def test_many_that_look_at_once_leave_one_chain(
        self, backend: LogBackend, another: Open, url: str
    ) -> None:
        def look(backend: LogBackend) -> None:
            for _ in range(8):
                backend.look(_look(), lambda row, head: linked(row, head, TRAIL_KEY), Deadline(30))

        threads = [threading.Thread(target=look, args=(each,)) for each in (backend, another())]
        with Writer(backend, url, job="looks", count=8) as writer:
            for thread in threads:
                thread.start()
            elsewhere = writer.all_said()
            for thread in threads:
                thread.join()
        trail = list(backend.trail(Deadline()))
        assert len(trail) == 24
        assert {row.id for row in trail} >= set(elsewhere)
        assert list(breaks(trail, TRAIL_KEY, backend.trail_head(Deadline()))) == []


def _look() -> AccessRow:
    return AccessRow(fresh_id(), "t", "who", "host", "show", "PatientName=Doe", ("a",), "why")
