"""What makes the words of a name: the same for the reference, the stored words and the terms."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deid_hooks.backends.tables.rows import collect_words
from deid_hooks.dicom.names import has_words, simplify_words, split_name_words
from deid_hooks.query.conditions import Wildcard, meets
from deid_hooks.query.parser import parse_terms
from deid_hooks.records.model import fold
from deid_hooks.testing.records import make_entry

LATIN = "ÆæŒœÐðÞþĦħŁłØøĐđıßŊŋŒœſƒǢǽĲĳŉ"
NAMES = st.text(
    st.sampled_from(LATIN + "aeoÅéñ^= -'山田ヤガカ゛ひПетрЙمحمدİΣς\u0301\u3099"), max_size=12
)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Ærø^Þóra Ð", {"aero", "thora", "d"}),
        ("Straßeł^Œuvre ħ đ ı ø", {"strassel", "oeuvre", "h", "d", "i", "o"}),
        ("Əliyev^Ŋuŋa", {"eliyev", "ngunga"}),
        ("ÆRØ", {"aero"}),
        ("山田^太郎", {"山田", "太郎"}),
        ("ガンダム", {"ガンダム"}),
        ("Пётр^Йорк", {"петр", "иорк"}),
        ("محمد", {"محمد"}),
        ("Αθήνα", {"αθηνα"}),
        ("ʔa", {"ʔa"}),
    ],
)
def test_latin_letters_become_those_that_people_type(name: str, words: set[str]) -> None:
    assert split_name_words(name) == words


@pytest.mark.parametrize("term", ["Aero Thora", "ærø þóra", "AERO", "thor*", "PatientName=ær*"])
def test_a_name_is_found_by_the_letters_that_people_type(term: str) -> None:
    assert parse_terms([term]).matches(make_entry(fields={"PatientName": ("Ærø^Þóra Ð",)}))


@given(NAMES | st.text(max_size=12))
def test_words_are_their_own_words(name: str) -> None:
    words = simplify_words(name)
    assert simplify_words(words) == words
    assert has_words(name, words.split())


@given(st.text(st.characters(categories=["Ll", "Lu"]), max_size=12))
def test_only_latin_letters_change_their_script(name: str) -> None:
    before = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", name).casefold())
    kept = [c for c in before if not c.isascii() and not unicodedata.combining(c)]
    others = {c for c in kept if not unicodedata.name(c, "").startswith("LATIN ")}
    after = set(unicodedata.normalize("NFD", simplify_words(name)))
    assert {c for c in others if c.isalpha() and unicodedata.category(c) != "Lm"} <= after


@given(NAMES, st.integers(0, 12), st.integers(0, 12), st.sampled_from("*?"))
def test_stored_words_miss_no_name_that_a_pattern_matches(
    name: str, begin: int, end: int, sign: str
) -> None:
    from deid_hooks.backends.tables.conditions import _list_words

    begin, end = sorted((begin, end))
    pattern = fold(name[:begin] + sign + name[end:])
    if meets(Wildcard(pattern, folded=True), "PN", [name]):
        stored = collect_words([name])
        for word in _list_words(pattern):
            start = word.removesuffix("*")
            assert any(w == word if start == word else w.startswith(start) for w in stored)
