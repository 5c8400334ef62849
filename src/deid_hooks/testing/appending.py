"""Test that an append writes all or none, knows what it holds, and overwrites nothing."""

from __future__ import annotations

import random
import threading
from dataclasses import replace
from typing import Any

import pytest

from deid_hooks.backends.contract import LogBackend
from deid_hooks.deadline import Deadline
from deid_hooks.errors import Forgotten, IdConflict, LogError
from deid_hooks.records.model import (
    Block,
    Entry,
    Erasure,
    Instance,
    Record,
    Tombstone,
    UploadEvent,
)
from deid_hooks.testing.records import chain_seals, fresh_id, make_entry
from deid_hooks.testing.stores import Conformance, Open, Writer

_STONE = Erasure("2026-01-01T00:00:00.000000Z", "who", "why")

CHANGES: list[dict[str, Any]] = [
    {"project": "TRIAL8"},
    {"timestamp": None},
    {"fields": {}},
    {"fields": {"PatientID": ("4711 ",), "PatientName": ("Doe^John",)}},
    {"deid": {"PatientID": ("SUBJ-008",)}},
    {"originals": '{"00100020":{"Value":["4712"],"vr":"LO"}}'},
    {"instances": (Instance("1.2.3.1", "2.25.1"),)},
    {"uids": ()},
    {"large": {"d": b"x"}},
    {"patients": ("p",)},
]
"""What makes an entry another one."""


class Appending(Conformance):
    """All or nothing, and ids."""

    def test_an_append_of_nothing_writes_nothing(self, backend: LogBackend) -> None:
        backend.append([], chain_seals, Deadline())
        assert list(backend.everything(Deadline())) == []

    def test_hundreds_of_records_of_every_kind_are_written_in_their_order(
        self, backend: LogBackend
    ) -> None:
        records: list[Record] = []
        for number in range(150):
            entry = make_entry()
            event = UploadEvent(entry.log_id, f"t{number}", "cleared", "folder:/x", "sender/1")
            records += [entry, event, Tombstone(fresh_id(), "t", ("folder:/x",), _STONE)]
        backend.append(records, chain_seals, Deadline(60))
        assert list(backend.everything(Deadline(60))) == records

    def test_an_entry_that_is_repeated_stands_once_and_the_others_are_written(
        self, backend: LogBackend
    ) -> None:
        known, new = make_entry(), make_entry()
        backend.append([known], chain_seals, Deadline())
        backend.append([known], chain_seals, Deadline())
        backend.append([known, new, known], chain_seals, Deadline())
        assert list(backend.everything(Deadline())) == [known, new]

    def test_when_and_by_whom_it_was_written_does_not_make_a_record_another(
        self, backend: LogBackend
    ) -> None:
        entry, block = make_entry(), Block(fresh_id(), "t", "p", "", "who", "why")
        stone = Tombstone(fresh_id(), "t", ("d",), _STONE)
        known: list[Record] = [entry, block, stone]
        backend.append(known, chain_seals, Deadline())
        again: list[Record] = [
            replace(entry, created="later", uploader="another"),
            replace(block, at="later", who="another"),
            replace(stone, erasure=replace(_STONE, at="later", who="another")),
        ]
        backend.append(again, chain_seals, Deadline())
        assert list(backend.everything(Deadline())) == known

    @pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
    def test_other_content_under_a_known_id_is_a_conflict_whatever_its_digest(
        self, backend: LogBackend, change: dict[str, Any]
    ) -> None:
        known = make_entry()
        backend.append([known], chain_seals, Deadline())
        with pytest.raises(IdConflict):
            backend.append([replace(known, **change)], chain_seals, Deadline())
        assert list(backend.everything(Deadline())) == [known]

    def test_nothing_of_an_append_is_written_if_one_of_it_is_a_conflict(
        self, backend: LogBackend
    ) -> None:
        known = make_entry()
        backend.append([known], chain_seals, Deadline())
        first, last = make_entry(), make_entry()
        with pytest.raises(IdConflict):
            backend.append([first, replace(known, project="other"), last], chain_seals, Deadline())
        assert list(backend.everything(Deadline())) == [known]
        backend.append([first, last], chain_seals, Deadline())
        assert list(backend.everything(Deadline())) == [known, first, last]

    def test_two_of_one_id_in_one_append_are_a_conflict_if_they_differ(
        self, backend: LogBackend
    ) -> None:
        entry = make_entry()
        with pytest.raises(IdConflict):
            backend.append([entry, replace(entry, project="other")], chain_seals, Deadline())
        assert list(backend.everything(Deadline())) == []

    def test_events_blocks_and_tombstones_that_are_repeated_stand_once(
        self, backend: LogBackend
    ) -> None:
        records: list[Record] = [
            UploadEvent(fresh_id(), "t", "cleared", "d", "u"),
            Block(fresh_id(), "t", "p", "", "who", "why"),
            Tombstone(fresh_id(), "t", ("d",), _STONE),
        ]
        backend.append([*records, *records], chain_seals, Deadline())
        backend.append(records, chain_seals, Deadline())
        assert list(backend.everything(Deadline())) == records

    def test_events_of_other_ids_all_stand(self, backend: LogBackend) -> None:
        event = UploadEvent(fresh_id(), "t", "cleared", "d", "u")
        events = [
            event,
            replace(event, id=fresh_id()),
            replace(event, id=fresh_id(), event="uploaded"),
            replace(event, log_id=fresh_id()),
        ]
        backend.append(events, chain_seals, Deadline())
        assert list(backend.everything(Deadline())) == events

    def test_an_event_is_never_changed(self, backend: LogBackend) -> None:
        event = UploadEvent(fresh_id(), "t", "cleared", "d", "u")
        backend.append([event], chain_seals, Deadline())
        backend.append([replace(event, at="t2", uploader="v")], chain_seals, Deadline())
        for changed in (replace(event, event="uploaded"), replace(event, destination="D")):
            with pytest.raises(IdConflict):
                backend.append([changed], chain_seals, Deadline())
        assert list(backend.everything(Deadline())) == [event]

    def test_blocks_and_tombstones_are_never_changed(self, backend: LogBackend) -> None:
        block = Block(fresh_id(), "t", "p", "", "who", "why")
        stone = Tombstone(fresh_id(), "t", ("d",), _STONE)
        backend.append([block, stone], chain_seals, Deadline())
        with pytest.raises(IdConflict):
            backend.append([replace(block, lifted=True)], chain_seals, Deadline())
        with pytest.raises(IdConflict):
            backend.append([replace(stone, destinations=())], chain_seals, Deadline())
        with pytest.raises(IdConflict):
            backend.append([replace(block, reason="")], chain_seals, Deadline())
        assert list(backend.everything(Deadline())) == [block, stone]

    def test_a_tombstone_from_elsewhere_takes_no_entry_away(self, backend: LogBackend) -> None:
        entry = make_entry()
        backend.append([entry], chain_seals, Deadline())
        with pytest.raises(IdConflict):
            backend.append([Tombstone(entry.log_id, "t", (), _STONE)], chain_seals, Deadline())
        assert backend.resolve(entry.log_id, Deadline()) == entry

    def test_an_entry_with_a_tombstone_from_elsewhere_is_forgotten(
        self, backend: LogBackend
    ) -> None:
        stone, new = Tombstone(fresh_id(), "t", ("d",), _STONE), make_entry()
        backend.append([stone], chain_seals, Deadline())
        with pytest.raises(Forgotten):
            backend.append([new, make_entry(log_id=stone.log_id)], chain_seals, Deadline())
        assert list(backend.everything(Deadline())) == [stone]

    def test_of_two_that_write_one_id_at_once_one_wins(self, backend: LogBackend) -> None:
        for _ in range(10):
            first = make_entry()
            both = [first, replace(first, project="other")]
            ends: list[str] = []

            def write(entry: Entry, ends: list[str] = ends) -> None:
                try:
                    backend.append([entry], chain_seals, Deadline())
                    ends.append("returned")
                except LogError as error:
                    ends.append(type(error).__name__)

            threads = [threading.Thread(target=write, args=(entry,)) for entry in both]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert sorted(ends) == ["IdConflict", "returned"]
            assert backend.resolve(first.log_id, Deadline()) in both


_WRITERS = 4
_APPENDS = 12


class Ordering(Conformance):
    """Order and cursors, also while others write."""

    def test_records_come_in_the_order_in_which_they_were_written(
        self, backend: LogBackend, another: Open
    ) -> None:
        records: list[Record] = []
        other = another()
        for number in range(20):
            entry = make_entry()
            event = UploadEvent(entry.log_id, "t", "cleared", "folder:/x", "sender/1")
            (other if number % 3 else backend).append([event, entry], chain_seals, Deadline())
            records += [event, entry]
        assert list(backend.everything(Deadline())) == records
        assert list(other.everything(Deadline())) == records

    def test_a_cursor_goes_on_where_it_stopped(self, backend: LogBackend) -> None:
        first, second = make_entry(), make_entry()
        backend.append([first], chain_seals, Deadline())
        page = backend.read(0, Deadline())
        assert page.records == (first,)
        assert backend.read(page.cursor, Deadline()).records == ()
        backend.append([second], chain_seals, Deadline())
        assert backend.read(page.cursor, Deadline()).records == (second,)
        assert backend.read(0, Deadline()).records == (first, second)

    def test_a_reader_that_follows_several_writers_misses_nothing(
        self, backend: LogBackend, another: Open, url: str
    ) -> None:
        writers = [
            threading.Thread(target=_write, args=(backend if n % 2 else another(), n))
            for n in range(_WRITERS)
        ]
        followed: list[Record] = []
        cursor = 0
        with Writer(backend, url, count=_APPENDS) as elsewhere:
            for writer in writers:
                writer.start()
            ended = False
            while not ended:
                ended = not any(writer.is_alive() for writer in writers)
                if ended:
                    written_elsewhere = elsewhere.all_said()
                while (page := backend.read(cursor, Deadline())).records:
                    followed += page.records
                    cursor = page.cursor
        assert followed == list(another().everything(Deadline()))
        ids = {record.log_id for record in followed if hasattr(record, "log_id")}
        assert len(followed) == len(ids) == (_WRITERS + 1) * _APPENDS
        assert ids >= set(written_elsewhere)


def _write(backend: LogBackend, seed: int) -> None:
    random_ = random.Random(seed)  # noqa: S311 - sizes, not secrets
    for _ in range(_APPENDS):
        backend.append(
            [make_entry(originals="x" * random_.choice((1, 100_000)))], chain_seals, Deadline(30)
        )
