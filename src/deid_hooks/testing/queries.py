"""Synthetic queries, on the values that synthetic entries have."""

from __future__ import annotations

from hypothesis import strategies as st

from deid_hooks.matching import (
    Between,
    Condition,
    Equal,
    Query,
    Side,
    Term,
    Wildcard,
    Words,
    fold,
    name_words,
)
from deid_hooks.testing.records import KEYWORDS, MOMENTS, NAMES, OTHER_KEYWORDS, TEXTS, UIDS

FIELDS_OF_AN_ENTRY = ("id", "project", "subject", "created", "timestamp")
SOME_VALUES = st.sampled_from((*NAMES, *TEXTS, *UIDS, *MOMENTS, "\ud800", "TRIAL7"))
SIDES: st.SearchStrategy[Side] = st.sampled_from(("original", "original", "deid", "entry"))


@st.composite
def conditions(draw: st.DrawFn) -> Condition:
    """A condition of any kind, whole or folded."""
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
    words, shortened = sorted(name_words(value)), draw(st.booleans())
    if words and shortened:
        words[0] = words[0][: draw(st.integers(0, len(words[0])))] + "*"
    return Words(tuple(words))


@st.composite
def terms(draw: st.DrawFn) -> Term:
    """A term on the original, the de-identified or the entry's own side."""
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
