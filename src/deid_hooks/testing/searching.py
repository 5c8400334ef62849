"""Synthetic queries, on the values that synthetic entries have."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deid_hooks.backends.contract import LogBackend
from deid_hooks.deadline import Deadline
from deid_hooks.dicom.names import fold, split_name_words
from deid_hooks.errors import TermError
from deid_hooks.query.conditions import (
    Between,
    Condition,
    Equal,
    Query,
    Side,
    Term,
    Wildcard,
    Words,
)
from deid_hooks.query.parser import parse_terms
from deid_hooks.records.model import Entry
from deid_hooks.testing.records import (
    KEYWORDS,
    MOMENTS,
    NAMES,
    OTHER_KEYWORDS,
    TEXTS,
    UIDS,
    findable_entries,
    leave_unsealed,
    make_entry,
)
from deid_hooks.testing.stores import Conformance, many

FIELDS_OF_AN_ENTRY = ("id", "project", "subject", "created", "timestamp")
SOME_VALUES = st.sampled_from((*NAMES, *TEXTS, *UIDS, *MOMENTS, "\ud800", "TRIAL7"))
SIDES: st.SearchStrategy[Side] = st.sampled_from(("original", "original", "deid", "entry"))


@st.composite
def conditions(draw: st.DrawFn) -> Condition:
    """Return a condition of any kind, whole or folded."""
    value = draw(SOME_VALUES)
    folded = draw(st.booleans())
    kind = draw(st.sampled_from([Equal, Wildcard, Between, Words]))
    if kind is Equal:
        return Equal(fold(value) if folded else value, folded)
    if kind is Wildcard:
        at = draw(st.integers(0, len(value)))
        end = draw(st.integers(at, len(value)))
        pattern = value[:at] + draw(st.sampled_from(["*", "?", "**", "?*"])) + value[end:]
        return Wildcard(fold(pattern) if folded else pattern, folded)
    if kind is Between:
        low, high = draw(st.tuples(st.none() | SOME_VALUES, st.none() | SOME_VALUES))
        return Between(low, high)
    words, shortened = sorted(split_name_words(value)), draw(st.booleans())
    if words and shortened:
        words[0] = words[0][: draw(st.integers(0, len(words[0])))] + "*"
    return Words(tuple(words))


@st.composite
def terms(draw: st.DrawFn) -> Term:
    """Return a term on the original, the de-identified or the entry's own side."""
    side = draw(SIDES)
    names = (*KEYWORDS, "SOPInstanceUID", *OTHER_KEYWORDS, "00100020")
    if side == "entry":
        names = FIELDS_OF_AN_ENTRY
    elif side == "deid":
        names = (*KEYWORDS, "SOPInstanceUID", "FrameOfReferenceUID")
    name = draw(st.sampled_from(names))
    return Term(side, name, tuple(draw(st.lists(conditions(), min_size=1, max_size=3))))


queries = st.lists(terms(), min_size=1, max_size=2).map(lambda made: Query(tuple(made)))
"""Queries of one or two terms."""


_SOME_ENTRIES = st.lists(findable_entries, min_size=1, max_size=5)


class Searching(Conformance):
    """The whole term language."""

    @many
    @given(entries=_SOME_ENTRIES, asked=st.lists(queries, min_size=3, max_size=8))
    def test_search_finds_what_the_reference_finds(
        self, backend: LogBackend, entries: list[Entry], asked: list[Query]
    ) -> None:
        backend.append(entries, leave_unsealed, Deadline())
        for query in asked:
            _assert_as_the_reference(backend, entries, query)

    @many
    @given(
        entries=_SOME_ENTRIES,
        name=st.sampled_from((*KEYWORDS, "SOPInstanceUID", "InstitutionName", "project")),
        value=SOME_VALUES,
        sign=st.sampled_from(["=", "=="]),
        side=st.sampled_from(["", "deid:"]),
    )
    def test_terms_as_people_write_them_find_what_the_reference_finds(
        self,
        backend: LogBackend,
        entries: list[Entry],
        name: str,
        value: str,
        sign: str,
        side: str,
    ) -> None:
        try:
            query = parse_terms([f"{side}{name}{sign}{value}"])
        except TermError:
            return
        backend.append(entries, leave_unsealed, Deadline())
        _assert_as_the_reference(backend, entries, query)

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("Doe^John", "PatientName=doe^john"),
            ("Doe^John", "PatientName=DOE^J*"),
            ("Müller^Jörg", "jorg muller"),
            ("山田^太郎", "太郎"),
            ("Stra\u00dfe^Anna", "PatientName=STRASSE^ANNA"),
        ],
    )
    def test_a_name_is_found_in_any_case_and_order(
        self, backend: LogBackend, name: str, text: str
    ) -> None:
        known = make_entry(fields={"PatientName": (name,)})
        other = make_entry(fields={"PatientName": ("Roe^Richard",)})
        backend.append([known, other], leave_unsealed, Deadline())
        assert list(backend.search(parse_terms([text]), Deadline())) == [known.log_id]

    def test_other_text_is_found_in_its_own_case_only(self, backend: LogBackend) -> None:
        known = make_entry(fields={"PatientID": ("abc",)})
        backend.append(
            [known, make_entry(fields={"PatientID": ("ABC",)})], leave_unsealed, Deadline()
        )
        assert list(backend.search(parse_terms(["PatientID=abc"]), Deadline())) == [known.log_id]

    def test_hundreds_of_values_in_one_term_are_searched_for_at_once(
        self, backend: LogBackend
    ) -> None:
        known = [make_entry(fields={"SeriesInstanceUID": (f"1.2.{n}",)}) for n in (1, 499, 700)]
        backend.append(known, leave_unsealed, Deadline())
        conditions = tuple(Equal(f"1.2.{n}") for n in range(500))
        query = Query((Term("original", "SeriesInstanceUID", conditions),))
        assert list(backend.search(query, Deadline())) == [known[0].log_id, known[1].log_id]

    def test_many_results_come_oldest_first(self, backend: LogBackend) -> None:
        entries = [make_entry() for _ in range(300)]
        for start in range(0, 300, 100):
            backend.append(entries[start : start + 100], leave_unsealed, Deadline(30))
        found = list(backend.search(parse_terms(["PatientID=4711"]), Deadline(30)))
        assert found == [entry.log_id for entry in entries]


def _assert_as_the_reference(backend: LogBackend, entries: list[Entry], query: Query) -> None:
    ours = {entry.log_id for entry in entries}  # the store holds those of earlier examples too
    found = [log_id for log_id in backend.search(query, Deadline()) if log_id in ours]
    assert found == [entry.log_id for entry in entries if query.matches(entry)]
