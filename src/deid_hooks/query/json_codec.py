"""Queries as JSON objects, for stores that are asked over a wire: the same query comes back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

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
from deid_hooks.query.parser import ENTRY_FIELDS
from deid_hooks.records.json_codec import (
    WRONG_FORM,
    ObjectCodec,
    decode_text,
    describe_list,
    describe_object,
    encode_text,
)

Json = dict[str, Any]

_CONDITIONS: dict[type[Condition], ObjectCodec[Any]] = {
    Equal: ObjectCodec(Equal, {"value": "equal"}),
    Wildcard: ObjectCodec(Wildcard, {"pattern": "wildcard"}),
    Words: ObjectCodec(Words),
    Between: ObjectCodec(Between),
}
_BY_MEMBERS = {codec.members: codec for codec in _CONDITIONS.values()}


def encode_query(query: Query) -> Json:
    """Return a JSON object with the member ``terms``: side, name and conditions of each."""
    return {
        "terms": [
            {
                "side": term.side,
                "name": encode_text(term.name),
                "conditions": [_CONDITIONS[type(each)].encode(each) for each in term.conditions],
            }
            for term in query.terms
        ]
    }


def decode_query(document: Mapping[str, Any]) -> Query:
    """Return the query that :func:`encode_query` wrote.

    Raises ValueError, which quotes no value, for anything else.
    """
    try:
        (terms,) = _take(document, "terms")
        return Query(tuple([_decode_term(each) for each in _require_list(terms)]))
    except WRONG_FORM:
        raise ValueError("this is no query") from None


def describe_query(text: Json) -> Json:
    """Return the JSON Schema of what :func:`encode_query` writes, given that of a text."""
    conditions = describe_list({"anyOf": [each.describe(text) for each in _CONDITIONS.values()]})

    def describe_term(sides: list[str], name: Json) -> Json:
        return describe_object({"side": {"enum": sides}, "name": name, "conditions": conditions})

    images = [side for side in get_args(Side) if side != "entry"]
    terms = [describe_term(images, text), describe_term(["entry"], {"enum": list(ENTRY_FIELDS)})]
    return describe_object({"terms": describe_list({"anyOf": terms})})


def _decode_term(document: Any) -> Term:
    side, name, conditions = _take(document, "side", "name", "conditions")
    name = decode_text(name)
    if side not in get_args(Side) or (side == "entry" and name not in ENTRY_FIELDS):
        raise ValueError
    found = [_BY_MEMBERS[frozenset(each)].decode(each) for each in _require_list(conditions)]
    return Term(side, name, tuple(found))


def _take(document: Mapping[str, Any], *names: str) -> list[Any]:
    if document.keys() != set(names):
        raise ValueError
    return [document[name] for name in names]


def _require_list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError
    return value
