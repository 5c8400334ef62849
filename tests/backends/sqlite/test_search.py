"""Search finds exactly what the reference matcher finds, by an index where there is one."""

from __future__ import annotations

import sqlite3

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from deid_hooks.backends.sqlite import SQLiteBackend, reading
from deid_hooks.backends.sqlite.reading import SQLiteRenderer
from deid_hooks.backends.tables.conditions import is_indexed, translate
from deid_hooks.deadline import Deadline
from deid_hooks.errors import TermError
from deid_hooks.query.conditions import UNIVERSAL, Equal, Query, Term, Words
from deid_hooks.query.parser import parse_terms
from deid_hooks.records.model import Entry
from deid_hooks.testing.reading import SOME_VALUES, queries
from deid_hooks.testing.records import (
    KEYWORDS,
    chain_seals,
    findable_entries,
    make_entry,
)

from .conftest import NewStore


def found(store: SQLiteBackend, query: Query) -> list[str]:
    return list(store.search(query, Deadline()))


def expected(entries: list[Entry], query: Query) -> list[str]:
    return [entry.log_id for entry in entries if query.matches(entry)]


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    entries=st.lists(findable_entries, min_size=1, max_size=6),
    asked=st.lists(queries, min_size=3, max_size=12),
)
def test_search_finds_what_the_reference_finds(
    new_store: NewStore, entries: list[Entry], asked: list[Query]
) -> None:
    store = new_store()
    store.append(entries, chain_seals, Deadline())
    for query in asked:
        wanted = expected(entries, query)
        event("some" if 0 < len(wanted) < len(entries) else "all or none")
        assert found(store, query) == wanted
        assert list(without_index(store, query)) == wanted


def without_index(store: SQLiteBackend, query: Query) -> list[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "_find_by_index", lambda opened, query: None)
        patch.setattr(reading, "_ENTRIES_A_SCAN", 2)
        return found(store, query)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    entries=st.lists(findable_entries, min_size=1, max_size=6),
    name=st.sampled_from((*KEYWORDS, "SOPInstanceUID", "InstitutionName", "project", "timestamp")),
    value=SOME_VALUES,
    sign=st.sampled_from(["=", "=="]),
    side=st.sampled_from(["", "deid:"]),
)
def test_terms_as_people_write_them_find_what_the_reference_finds(
    new_store: NewStore, entries: list[Entry], name: str, value: str, sign: str, side: str
) -> None:
    try:
        query = parse_terms([f"{side}{name}{sign}{value}"])
    except TermError:
        return
    store = new_store()
    store.append(entries, chain_seals, Deadline())
    assert found(store, query) == expected(entries, query)


@pytest.mark.parametrize(
    "text",
    [
        "id=65774D086757457C9DCF96E762803606",
        "PatientID=4711",
        "PatientID=47*",
        "PatientName=Doe^J*",
        "PatientName==Doe^John",
        '"John Doe"',
        "StudyDate=20060801-20060831",
        "timestamp=2006-08",
        "SeriesInstanceUID=1.2.3,1.2.4",
        "SOPInstanceUID=1.2.3",
        "deid:SOPInstanceUID=2.25.1",
        "deid:FrameOfReferenceUID=2.25.1",
        "deid:PatientID=SUBJ-007",
        "subject=SUBJ-007",
    ],
)
def test_what_is_asked_most_is_found_without_reading_the_whole_log(
    store: SQLiteBackend, text: str
) -> None:
    store.append([make_entry()], chain_seals, Deadline())
    node = translate(parse_terms([text]))
    assert is_indexed(node)
    where, values = SQLiteRenderer(scan=False).render(node)
    assert not any(step.startswith("SCAN deid_log") for step in plan(store, where, values))


def plan(store: SQLiteBackend, where: str, values: list[str | bytes]) -> list[str]:
    connection = sqlite3.connect(store.url.removeprefix("sqlite:///"))
    try:
        sql = f"EXPLAIN QUERY PLAN SELECT seq FROM deid_log WHERE {where}"
        return [row[3] for row in connection.execute(sql, values)]
    finally:
        connection.close()


def test_thousands_of_values_in_one_term_are_searched_for_at_once(store: SQLiteBackend) -> None:
    known = [make_entry(fields={"SeriesInstanceUID": (f"1.2.{n}",)}) for n in (1, 4_999, 7_000)]
    store.append(known, chain_seals, Deadline())
    conditions = tuple(Equal(f"1.2.{n}") for n in range(5_000))
    query = Query((Term("original", "SeriesInstanceUID", conditions),))
    assert found(store, query) == [known[0].log_id, known[1].log_id]


def test_thousands_of_names_in_one_term_are_searched_for_at_once(store: SQLiteBackend) -> None:
    known = make_entry()
    store.append([known, make_entry(fields={"PatientName": ("Roe",)})], chain_seals, Deadline())
    conditions = (*(Words((f"name{n}",)) for n in range(5_000)), Words(("doe",)))
    assert found(store, Query((Term("original", "PatientName", conditions),))) == [known.log_id]


def test_more_than_an_index_should_give_at_once_comes_by_pages(
    store: SQLiteBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_MOST_BY_INDEX", 10)
    monkeypatch.setattr(reading, "_ENTRIES_A_SCAN", 7)
    entries = [make_entry() for _ in range(50)]
    store.append(entries, chain_seals, Deadline())
    query = parse_terms(["PatientID=4711"])
    assert found(store, query) == [entry.log_id for entry in entries]


def test_a_search_that_is_given_up_holds_nothing_up(store: SQLiteBackend) -> None:
    entries = [make_entry() for _ in range(3)]
    store.append(entries, chain_seals, Deadline())
    results = store.search(Query((Term("original", "PatientID", (UNIVERSAL,)),)), Deadline())
    assert next(results) == entries[0].log_id
    another = make_entry()
    store.append([another], chain_seals, Deadline(5))
    assert store.resolve(another.log_id, Deadline(5)) == another
