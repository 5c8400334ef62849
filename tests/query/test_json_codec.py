"""Queries come back from JSON as they were."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from hypothesis import given

from deid_hooks.query import json_codec
from deid_hooks.query.conditions import Condition, Query
from deid_hooks.query.json_codec import decode_query, encode_query
from deid_hooks.testing.reading import queries


@given(queries)
def test_a_query_comes_back_as_it_was(query: Query) -> None:
    assert decode_query(json.loads(json.dumps(encode_query(query)))) == query


def test_every_condition_has_a_form_of_its_own() -> None:
    assert set(json_codec._CONDITIONS) == set(get_args(Condition))
    assert len(json_codec._BY_MEMBERS) == len(get_args(Condition))


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"terms": [], "more": 1},
        {"terms": [{"side": "other", "name": "PatientID", "conditions": []}]},
        {"terms": {}},
        {"terms": [{"side": "entry", "name": "PatientID", "conditions": []}]},
        {"terms": [{"side": "deid", "name": 1, "conditions": []}]},
        {"terms": [{"side": "deid", "name": "PatientID", "conditions": "x"}]},
        {"terms": [{"side": "deid", "name": "PatientID", "conditions": [{"equal": "Doe"}]}]},
        {"terms": [{"side": "deid", "name": "PatientID", "conditions": [{"words": "Doe"}]}]},
        {"terms": [{"side": "deid", "name": "PatientID", "conditions": [{"low": "Doe"}]}]},
    ],
)
def test_anything_else_is_no_query_and_is_not_quoted(document: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^this is no query$"):
        decode_query(document)
