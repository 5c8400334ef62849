"""Test that what is read or found equals what was written, whichever way it is asked for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deid_hooks.backends.contract import LogBackend
from deid_hooks.deadline import Deadline
from deid_hooks.dicom.names import split_name_words
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
from deid_hooks.records.model import Block, Entry, Instance, Record, Tombstone, UploadEvent, fold
from deid_hooks.testing.records import (
    KEYWORDS,
    MOMENTS,
    NAMES,
    OTHER_KEYWORDS,
    TEXTS,
    UIDS,
    any_blocks,
    any_entries,
    any_events,
    any_tombstones,
    chain_seals,
    findable_entries,
    fresh_id,
    make_entry,
)
from deid_hooks.testing.stores import Conformance, Open, many


class Reading(Conformance):
    """Equality of what is read, and the ways to read."""

    @many
    @given(st.lists(any_entries | any_events | any_tombstones | any_blocks, max_size=4))
    def test_whatever_was_written_is_read_as_it_was(
        self, backend: LogBackend, records: list[Record]
    ) -> None:
        before = list(backend.everything(Deadline()))
        backend.append(records, chain_seals, Deadline())
        assert list(backend.everything(Deadline())) == [*before, *records]
        for record in records:
            if isinstance(record, Entry | Tombstone):
                assert backend.resolve(record.log_id, Deadline()) == record

    def test_a_new_store_holds_nothing(self, backend: LogBackend) -> None:
        assert backend.read(0, Deadline()).records == ()
        assert backend.resolve(fresh_id(), Deadline()) is None
        assert list(backend.trail(Deadline())) == []

    def test_creating_a_store_that_exists_leaves_it_as_it_is(
        self, backend: LogBackend, another: Open
    ) -> None:
        entry = make_entry()
        backend.append([entry], chain_seals, Deadline())
        another().create(Deadline())
        assert list(backend.everything(Deadline())) == [entry]

    def test_checking_leaves_nothing_in_the_log(self, backend: LogBackend) -> None:
        backend.check(Deadline())
        backend.check(Deadline())
        assert list(backend.everything(Deadline())) == []

    def test_an_acquisition_of_ten_thousand_instances_is_one_entry(
        self, backend: LogBackend
    ) -> None:
        instances = tuple(Instance(f"1.2.{n}", f"2.25.{n}", f'{{"n":{n}}}') for n in range(10_000))
        entry = make_entry(instances=instances)
        backend.append([entry], chain_seals, Deadline(60))
        assert backend.resolve(entry.log_id, Deadline(60)) == entry

    def test_values_of_megabytes_are_kept_whole(self, backend: LogBackend) -> None:
        large = {"d" * 64: bytes(range(256)) * 4096}
        text = "Doe^John山田\0\ud800" * 100_000
        entry = make_entry(large=large, originals=text, fields={"StudyDescription": (text,)})
        backend.append([entry], chain_seals, Deadline(60))
        assert backend.resolve(entry.log_id, Deadline(60)) == entry

    def test_another_backend_reads_the_same(self, backend: LogBackend, another: Open) -> None:
        entry = make_entry(originals='{"a":"\0\ud800"}')
        backend.append([entry], chain_seals, Deadline())
        backend.close()
        assert another().resolve(entry.log_id, Deadline()) == entry

    def test_what_is_read_is_not_remembered_from_before(
        self, backend: LogBackend, another: Open
    ) -> None:
        entry, event = make_entry(), make_entry()
        assert backend.resolve(entry.log_id, Deadline()) is None
        other = another()
        other.append([entry], chain_seals, Deadline())
        assert backend.resolve(entry.log_id, Deadline()) == entry
        other.append([event], chain_seals, Deadline())
        assert list(backend.everything(Deadline())) == [entry, event]

    def test_entries_come_in_the_order_asked_for_without_the_unknown(
        self, backend: LogBackend
    ) -> None:
        entries = [make_entry() for _ in range(5)]
        backend.append(entries, chain_seals, Deadline())
        wanted = [entries[3], entries[0], entries[4]]
        ids = [wanted[0].log_id, fresh_id(), *(entry.log_id for entry in wanted[1:])]
        assert list(backend.entries(ids, Deadline())) == wanted
        assert list(backend.entries([], Deadline())) == []

    def test_uploads_are_those_of_the_entries_asked_for_oldest_first(
        self, backend: LogBackend
    ) -> None:
        ids = [fresh_id() for _ in range(3)]
        events = [
            UploadEvent(log_id, f"t{n}", event, "folder:/x", "sender/1")
            for n, event in enumerate(("cleared", "uploaded"))
            for log_id in ids
        ]
        for event in events:
            backend.append([event], chain_seals, Deadline())
        assert list(backend.uploads(None, Deadline())) == events
        some = [event for event in events if event.log_id != ids[1]]
        assert list(backend.uploads([ids[2], ids[0], fresh_id()], Deadline())) == some
        assert list(backend.uploads([], Deadline())) == []

    def test_the_oldest_entry_of_a_content_is_found_by_its_digest(
        self, backend: LogBackend
    ) -> None:
        entries = [make_entry(digest="a"), make_entry(digest="b"), make_entry(digest="a")]
        backend.append(entries, chain_seals, Deadline())
        assert backend.with_digest("a", Deadline()) == entries[0].log_id
        assert backend.with_digest("b", Deadline()) == entries[1].log_id
        assert backend.with_digest("A", Deadline()) is None

    def test_blocks_are_those_of_the_patients_asked_for_oldest_first(
        self, backend: LogBackend
    ) -> None:
        blocks = [
            Block(fresh_id(), f"t{n}", patient, "TRIAL7", "who", "why", n == 2)
            for n, patient in enumerate(("p", "q", "p", "r"))
        ]
        backend.append(blocks, chain_seals, Deadline())
        assert list(backend.blocks(["p", "r"], Deadline())) == [blocks[0], blocks[2], blocks[3]]
        assert list(backend.blocks(["P"], Deadline())) == []

    def test_the_label_of_a_patient_is_that_of_the_oldest_entry_which_has_one(
        self, backend: LogBackend
    ) -> None:
        def of(label: str, *patients: str, project: str = "TRIAL7") -> Entry:
            return make_entry(deid={"PatientID": (label,)}, patients=patients, project=project)

        backend.append(
            [of("", "p"), of("both", "p", "q"), of("other", "p", project="TRIAL8")],
            chain_seals,
            Deadline(),
        )
        assert backend.subject("TRIAL7", "p", Deadline()) is None
        backend.append(
            [of("SUBJ-1", "p"), of("SUBJ-2", "p"), of("SUBJ-3", "q")], chain_seals, Deadline()
        )
        assert backend.subject("TRIAL7", "p", Deadline()) == "SUBJ-1"
        assert backend.subject("TRIAL7", "q", Deadline()) == "SUBJ-3"
        assert backend.subject("TRIAL8", "p", Deadline()) == "other"
        assert backend.subject("trial7", "p", Deadline()) is None


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
        backend.append(entries, chain_seals, Deadline())
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
        backend.append(entries, chain_seals, Deadline())
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
        backend.append([known, other], chain_seals, Deadline())
        assert list(backend.search(parse_terms([text]), Deadline())) == [known.log_id]

    def test_other_text_is_found_in_its_own_case_only(self, backend: LogBackend) -> None:
        known = make_entry(fields={"PatientID": ("abc",)})
        backend.append([known, make_entry(fields={"PatientID": ("ABC",)})], chain_seals, Deadline())
        assert list(backend.search(parse_terms(["PatientID=abc"]), Deadline())) == [known.log_id]

    def test_hundreds_of_values_in_one_term_are_searched_for_at_once(
        self, backend: LogBackend
    ) -> None:
        known = [make_entry(fields={"SeriesInstanceUID": (f"1.2.{n}",)}) for n in (1, 499, 700)]
        backend.append(known, chain_seals, Deadline())
        conditions = tuple(Equal(f"1.2.{n}") for n in range(500))
        query = Query((Term("original", "SeriesInstanceUID", conditions),))
        assert list(backend.search(query, Deadline())) == [known[0].log_id, known[1].log_id]

    def test_many_results_come_oldest_first(self, backend: LogBackend) -> None:
        entries = [make_entry() for _ in range(300)]
        for start in range(0, 300, 100):
            backend.append(entries[start : start + 100], chain_seals, Deadline(30))
        found = list(backend.search(parse_terms(["PatientID=4711"]), Deadline(30)))
        assert found == [entry.log_id for entry in entries]


def _assert_as_the_reference(backend: LogBackend, entries: list[Entry], query: Query) -> None:
    ours = {entry.log_id for entry in entries}  # the store holds those of earlier examples too
    found = [log_id for log_id in backend.search(query, Deadline()) if log_id in ours]
    assert found == [entry.log_id for entry in entries if query.matches(entry)]
