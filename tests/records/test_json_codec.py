"""Records as JSON: exact there and back, and no value in what goes wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deid_hooks.records.json_codec import decode_record, encode_record
from deid_hooks.records.model import Record
from deid_hooks.testing.records import (
    any_access_rows,
    any_blocks,
    any_entries,
    any_events,
    any_tombstones,
    make_entry,
)


@given(any_entries | any_events | any_tombstones | any_blocks | any_access_rows)
def test_a_record_comes_back_as_it_was(record: Record) -> None:
    written = json.dumps(encode_record(record), ensure_ascii=False).encode()
    assert decode_record(json.loads(written)) == record


def test_two_lone_surrogates_are_not_joined_to_one_character() -> None:
    entry = make_entry(originals="\ud83d" + "\ude00")
    pair = make_entry(log_id=entry.log_id, originals="\U0001f600")
    assert decode_record(encode_record(entry)) == entry != pair
    assert decode_record(encode_record(pair)) == pair
    both = make_entry(originals="\U0001f600\ud800")
    assert decode_record(encode_record(both)) == both


def without(name: str) -> dict[str, Any]:
    document = encode_record(make_entry())
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
        {**encode_record(make_entry()), "canary": "x"},
        {**encode_record(make_entry()), "originals": 7},
        {**encode_record(make_entry()), "originals": {"utf-8": "canary"}},
        {**encode_record(make_entry()), "instances": [["1", "2"]]},
        {**encode_record(make_entry()), "uids": "canary"},
        {**encode_record(make_entry()), "large": [["d", "canary!"]]},
        {**encode_record(make_entry()), "fields": ["canary"]},
    ],
)
def test_what_is_no_record_is_refused_without_being_quoted(document: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no record") as caught:
        decode_record(document)
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
        decode_record(document)
