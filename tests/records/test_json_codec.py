"""Records as JSON: exact there and back, and no value in what goes wrong."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deid_hooks.records.json_codec import (
    KINDS,
    ObjectCodec,
    decode_originals,
    decode_record,
    describe_record,
    encode_record,
)
from deid_hooks.records.model import AccessRow, Block, Record, make_log_id
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


@pytest.mark.parametrize(
    "record",
    [
        AccessRow(make_log_id(), "t", "who", "where", "show", "", ()),
        Block(make_log_id(), "t", "ab", "", "who"),
    ],
)
def test_a_member_with_a_default_may_not_be_left_out_either(record: Record) -> None:
    document = encode_record(record)
    for name in document:
        with pytest.raises(ValueError, match="no record"):
            decode_record({key: value for key, value in document.items() if key != name})


@given(any_entries | any_events | any_tombstones | any_blocks | any_access_rows)
def test_the_schema_of_a_kind_names_the_members_that_are_written(record: Record) -> None:
    document = encode_record(record)
    schema = describe_record(document["record"], {"type": "string"})
    assert list(schema["properties"]) == schema["required"] == list(document)
    assert schema["properties"]["record"] == {"const": document["record"]}
    assert KINDS[document["record"]] is type(record)


def test_a_field_of_a_type_without_a_form_is_refused_at_once() -> None:
    @dataclass
    class Odd:
        number: int

    with pytest.raises(TypeError, match="no JSON form"):
        ObjectCodec(Odd)


@given(
    st.recursive(
        st.none() | st.text(max_size=3),
        lambda x: st.lists(x) | st.dictionaries(st.text(max_size=8), x),
    )
)
def test_nothing_else_ever_escapes(document: Any) -> None:
    with pytest.raises(ValueError, match="no record"):
        decode_record(document)


@pytest.mark.parametrize(
    "text",
    [
        '{"00080018":{"vr":"UI","Value":["1.2"]},"00080005":null}',
        '{"00081140":{"vr":"SQ","Value":[{"00080018":{"vr":"UI"}}]}}',
        '{"00100010":{"vr":"PN","Value":[{"Alphabetic":"Doe^John"},null]}}',
        '{"00280010":{"vr":"US","Value":[512]}}',
        '{"00291010":{"vr":"OB","digest":"ab","length":9},"preamble":{"vr":"OB","InlineBinary":""}}',
    ],
)
def test_originals_are_elements(text: str) -> None:
    assert decode_originals(text) == json.loads(text)


@pytest.mark.parametrize(
    "text",
    [
        *("", "null", "[]", "5", '"x"', "{", '{"a":1}', '{"a":[]}', '{"a":"x"}', '{"a":{}}'),
        *('{"a":{"vr":1}}', '{"a":{"vr":"LO","Value":"x"}}', '{"a":{"vr":"OB","InlineBinary":1}}'),
        *('{"a":{"vr":"SQ","Value":["x"]}}', '{"a":{"vr":"SQ","Value":[{"b":1}]}}'),
        *('{"a":{"vr":"LO","Value":[["x"]]}}', '{"a":{"vr":"PN","Value":[{"Alphabetic":1}]}}'),
        '{"a":' * 2000 + "1" + "}" * 2000,
        '{"a":{"vr":"SQ","Value":[' * 400 + "]}}" * 400,
    ],
)
def test_originals_that_are_no_elements_are_refused_and_not_quoted(text: str) -> None:
    with pytest.raises(
        ValueError, match=r"^these are no elements of the DICOM JSON model$"
    ) as caught:
        decode_originals(text)
    assert caught.value.__suppress_context__
