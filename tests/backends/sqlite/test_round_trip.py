"""What is read equals what was written, in the order of the log."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from hypothesis import strategies as st

from deid_hooks.backends.sqlite import SQLiteBackend, reading
from deid_hooks.deadline import Deadline
from deid_hooks.records.model import AccessRow, Record, Tombstone, UploadEvent
from deid_hooks.records.model import Erasure as Erased
from deid_hooks.testing.records import any_text, chain_seals, fresh_id, make_entry

ids = st.builds(fresh_id)
events = st.builds(UploadEvent, ids, *[any_text] * 4)
tombstones = st.builds(
    Tombstone, ids, any_text, st.lists(any_text).map(tuple), st.builds(Erased, *[any_text] * 3)
)
rows = st.builds(AccessRow, ids, *[any_text] * 5, st.lists(any_text).map(tuple), any_text)


def test_large_values_are_kept_once_for_all_entries(store: SQLiteBackend, path: Path) -> None:
    value = bytes(range(256)) * 4096
    entries = [make_entry(large={"d" * 64: value}) for _ in range(10)]
    store.append(entries, chain_seals, Deadline())
    assert list(store.everything(Deadline())) == entries
    store.close()
    assert path.stat().st_size < 3 * len(value)


def test_two_values_that_claim_one_digest_are_both_kept(store: SQLiteBackend) -> None:
    entries = [make_entry(large={"d" * 64: value}) for value in (b"one", b"other")]
    store.append(entries, chain_seals, Deadline())
    assert list(store.everything(Deadline())) == entries


@pytest.mark.parametrize(("records_a_page", "characters"), [(1, 10**9), (3, 10**9), (50, 1)])
def test_pages_of_any_size_give_everything_once_and_in_order(
    store: SQLiteBackend, monkeypatch: pytest.MonkeyPatch, records_a_page: int, characters: int
) -> None:
    monkeypatch.setattr(reading, "_RECORDS_A_PAGE", records_a_page)
    monkeypatch.setattr(reading, "_BYTES_A_PAGE", characters)
    monkeypatch.setattr(reading, "_ROWS_A_PAGE", records_a_page)
    entries = [make_entry() for _ in range(8)]
    records: list[Record] = []
    for entry in entries:
        event = UploadEvent(entry.log_id, "t", "cleared", "folder:/x", "test/1")
        row = AccessRow(fresh_id(), "t", "who", "host", "show", "", (entry.log_id,))
        records += [row, entry, event]
        store.append([row, entry, event], chain_seals, Deadline())
    assert list(store.everything(Deadline())) == records
    assert list(store.entries([entry.log_id for entry in entries], Deadline())) == entries
    events = [record for record in records if isinstance(record, UploadEvent)]
    assert list(store.uploads(None, Deadline())) == events
    some = [entry.log_id for entry in entries[2:5]]
    assert list(store.uploads(some, Deadline())) == events[2:5]
    assert list(store.uploads([], Deadline())) == []


def test_a_cursor_goes_on_where_it_stopped_also_after_an_erasure(store: SQLiteBackend) -> None:
    first, last = make_entry(), make_entry()
    store.append([first, last], chain_seals, Deadline())
    cursor = store.read(0, Deadline()).cursor
    assert store.read(cursor, Deadline()).records == ()
    store.erase([last.log_id], Erased("t", "who", "why"), chain_seals, Deadline())
    page = store.read(cursor, Deadline())
    assert [type(record) for record in page.records] == [Tombstone]
    later = make_entry()
    store.append([later], chain_seals, Deadline())
    assert store.read(page.cursor, Deadline()).records == (later,)


def test_many_places_whose_seals_are_damaged_do_not_end_the_reading(
    store: SQLiteBackend, path: Path
) -> None:
    events = [UploadEvent(fresh_id(), "t", "cleared", "d", "u") for _ in range(500)]
    store.append(events, chain_seals, Deadline())
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM deid_log_upload WHERE seq <= 450")
        connection.execute("UPDATE deid_log_chain SET seal = 'x' WHERE seq <= 450")
    assert list(store.everything(Deadline())) == events[450:]


def test_uploads_of_more_entries_than_one_question_can_name_keep_their_order(
    store: SQLiteBackend,
) -> None:
    events = [UploadEvent(fresh_id(), "t", "cleared", "d", "u") for _ in range(1_200)]
    store.append(events, chain_seals, Deadline())
    wanted = [event.log_id for event in reversed(events[1:])]
    assert list(store.uploads(wanted, Deadline())) == events[1:]
