"""Queries as JSON objects, for stores that are asked over a wire: the same query comes back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, assert_never

from deid_hooks.query.conditions import Between, Condition, Equal, Query, Term, Wildcard, Words
from deid_hooks.query.parser import ENTRY_FIELDS
from deid_hooks.records.json_codec import decode_text, encode_text

Json = dict[str, Any]


def encode_query(query: Query) -> Json:
    """A JSON object with the member ``terms``: side, name and conditions of each."""
    return {
        "terms": [
            {
                "side": term.side,
                "name": encode_text(term.name),
                "conditions": [_condition(condition) for condition in term.conditions],
            }
            for term in query.terms
        ]
    }


def decode_query(document: Mapping[str, Any]) -> Query:
    """The query that :func:`encode_query` wrote.

    Raises ValueError, which quotes no value, for anything else.
    """
    try:
        terms = tuple(_term_of(each) for each in _list(_exactly(document, "terms")["terms"]))
    except (TypeError, KeyError, ValueError, AttributeError, LookupError):
        raise ValueError("this is no query") from None
    return Query(terms)


def _condition(condition: Condition) -> Json:
    match condition:
        case Equal():
            return {"equal": encode_text(condition.value), "folded": condition.folded}
        case Wildcard():
            return {"wildcard": encode_text(condition.pattern), "folded": condition.folded}
        case Words():
            return {"words": [encode_text(word) for word in condition.words]}
        case Between():
            ends = {"low": condition.low, "high": condition.high}
            return {name: None if end is None else encode_text(end) for name, end in ends.items()}
        case _:
            assert_never(condition)


def _term_of(document: Json) -> Term:
    members = _exactly(document, "side", "name", "conditions")
    side, name = members["side"], decode_text(members["name"])
    if side not in ("original", "deid", "entry") or (side == "entry" and name not in ENTRY_FIELDS):
        raise ValueError
    conditions = tuple(_condition_of(each) for each in _list(members["conditions"]))
    return Term(side, name, conditions)


def _condition_of(document: Json) -> Condition:
    if "equal" in document:
        members = _exactly(document, "equal", "folded")
        return Equal(decode_text(members["equal"]), _flag(members["folded"]))
    if "wildcard" in document:
        members = _exactly(document, "wildcard", "folded")
        return Wildcard(decode_text(members["wildcard"]), _flag(members["folded"]))
    if "words" in document:
        words = _list(_exactly(document, "words")["words"])
        return Words(tuple(decode_text(word) for word in words))
    members = _exactly(document, "low", "high")
    low, high = (
        None if members[end] is None else decode_text(members[end]) for end in ("low", "high")
    )
    return Between(low, high)


def _exactly(document: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    if set(document) != set(names):
        raise ValueError
    return document


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value
