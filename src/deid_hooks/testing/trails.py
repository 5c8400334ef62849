"""The access trail is one chain, however many write to it."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deid_hooks.backend import LogBackend
from deid_hooks.deadline import Deadline
from deid_hooks.entry import AccessRow
from deid_hooks.errors import IdConflict, TrailMoved
from deid_hooks.testing.process import TRAIL_KEY
from deid_hooks.testing.records import any_looks, fresh_id
from deid_hooks.testing.stores import Conformance, Open, Writer, many
from deid_hooks.trail import breaks, linked


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
