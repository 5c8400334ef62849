"""Records as JSON: exact there and back, and no value in what goes wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deid_hooks.records.json_codec import from_json, to_json
from deid_hooks.records.model import Record
from deid_hooks.testing.records import (
    any_blocks,
    any_entries,
    any_events,
    any_looks,
    any_tombstones,
    make_entry,
)


@given(any_entries | any_events | any_tombstones | any_blocks | any_looks)
def test_a_record_comes_back_as_it_was(record: Record) -> None:
    written = json.dumps(to_json(record), ensure_ascii=False).encode()
    assert from_json(json.loads(written)) == record


def test_two_lone_surrogates_are_not_joined_to_one_character() -> None:
    entry = make_entry(originals="\ud83d" + "\ude00")
    pair = make_entry(log_id=entry.log_id, originals="\U0001f600")
    assert from_json(to_json(entry)) == entry != pair
    assert from_json(to_json(pair)) == pair
    both = make_entry(originals="\U0001f600\ud800")
    assert from_json(to_json(both)) == both


def without(name: str) -> dict[str, Any]:
    document = to_json(make_entry())
    del document[name]
    return document


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"record": "entry"},
        {"record": "canary"},
        {"record": ["entry"]},
        without("originals"),
        without("patients"),
        {**to_json(make_entry()), "canary": "x"},
        {**to_json(make_entry()), "originals": 7},
        {**to_json(make_entry()), "originals": {"utf-8": "canary"}},
        {**to_json(make_entry()), "instances": [["1", "2"]]},
        {**to_json(make_entry()), "uids": "canary"},
        {**to_json(make_entry()), "large": [["d", "canary!"]]},
        {**to_json(make_entry()), "fields": ["canary"]},
    ],
)
def test_what_is_no_record_is_refused_without_being_quoted(document: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no record") as caught:
        from_json(document)
    assert "canary" not in str(caught.value)
    assert caught.value.__suppress_context__


@given(
    st.recursive(
        st.none() | st.text(max_size=3),
        lambda x: st.lists(x) | st.dictionaries(st.text(max_size=8), x),
    )
)
def test_nothing_else_ever_escapes(document: Any) -> None:
    with pytest.raises(ValueError, match="no record"):
        from_json(document)
