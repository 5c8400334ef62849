"""Search terms: what can be written, and what it finds."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from deid_hooks.dicom import dictionary
from deid_hooks.dicom.names import split_name_words
from deid_hooks.errors import TermError
from deid_hooks.query import conditions as matching
from deid_hooks.query.conditions import (
    Between,
    Equal,
    Term,
    Wildcard,
    Words,
    make_comparable,
    warn_of_malformed,
)
from deid_hooks.query.parser import parse_attribute, parse_terms, read_terms
from deid_hooks.records.fields import DEID_FIELDS, INDEXED_FIELDS
from deid_hooks.records.model import Entry, Instance, fold, make_log_id, make_readable

LOG_ID = "65774D086757457C9DCF96E762803606"
SECRET = "Qzxjkvw"  # in values: no message may have it


def entry(
    *,
    originals: dict[str, Any] | None = None,
    instances: tuple[Instance, ...] = (),
    project: str = "TRIAL7",
    timestamp: str | None = None,
    created: str = "2026-11-23T09:30:00.000000Z",
    deid: dict[str, tuple[str, ...]] | None = None,
    uids: tuple[tuple[str, str], ...] = (),
    **fields: str | tuple[str, ...],
) -> Entry:
    return Entry(
        log_id=LOG_ID,
        created=created,
        uploader="sender/1.2",
        project=project,
        timestamp=timestamp,
        fields={k: (v,) if isinstance(v, str) else v for k, v in fields.items()},
        deid=deid or {},
        originals=json.dumps(originals or {}),
        instances=instances,
        uids=uids,
        large={},
        digest="",
        key="",
    )


def with_field(keyword: str, *values: str) -> Entry:
    return dataclasses.replace(entry(), fields={keyword: values})


def leaf(vr: str, *values: Any, **more: str) -> dict[str, Any]:
    return {"vr": vr, "Value": list(values), **more}


def found(entry: Entry, *terms: str) -> bool:
    return parse_terms(terms).matches(entry)


def message(*terms: str) -> str:
    with pytest.raises(TermError) as caught:
        parse_terms(terms)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    return str(caught.value)


# How terms are written


@pytest.mark.parametrize(
    "written",
    [
        "PatientID=A1",
        "patientid=A1",
        " PatientID = A1 ",
        "00100020=A1",
        "0010,0020=A1",
        "(0010,0020)=A1",
        "(0010, 0020) = A1",
    ],
)
def test_an_attribute_can_be_named_by_keyword_and_by_tag(written: str) -> None:
    assert parse_terms([written]).terms == (Term("original", "PatientID", (Equal("A1"),)),)


@pytest.mark.parametrize(
    "written",
    ['(0009,"GEMS_IMAG_01",0a)=x', "0009 , GEMS_IMAG_01 , 0A=x", '0009,"GEMS_IMAG_01",0A=x'],
)
def test_a_private_attribute_is_named_by_its_creator(written: str) -> None:
    name = '(0009,"GEMS_IMAG_01",0A)'
    assert parse_terms([written]).terms == (Term("original", name, (Equal("x"),)),)


def test_a_tag_that_the_dictionary_does_not_have_keeps_its_digits() -> None:
    assert parse_terms(["abcdef01=x"]).terms[0].name == "ABCDEF01"


def test_different_attributes_must_all_match_and_repeated_ones_are_alternatives() -> None:
    query = parse_terms(["PatientID=A", "Modality=CT", "00100020=B", "PatientID=A"])
    assert [term.name for term in query.terms] == ["PatientID", "Modality"]
    assert query.terms[0].conditions == (Equal("A"), Equal("B"))
    assert query.matches(entry(PatientID="B", Modality="CT"))
    assert not query.matches(entry(PatientID="B", Modality="MR"))
    assert not query.matches(entry(PatientID="C", Modality="CT"))


def test_the_sides_of_one_attribute_are_two_attributes() -> None:
    query = parse_terms(["PatientID=A", "DEID:patientid=S"])
    assert [(term.side, term.name) for term in query.terms] == [
        ("original", "PatientID"),
        ("deid", "PatientID"),
    ]


def test_what_is_no_keyword_and_value_is_words_of_a_name() -> None:
    words = Term("original", "PatientName", (Words(("john", "doe")),))
    assert parse_terms(["John Doe"]).terms == (words,)
    assert parse_terms(["Yamada^Tarou=山田^太郎"]).terms[0].conditions == (
        Words(("yamada", "tarou", "山田", "太郎")),
    )


def test_a_file_of_terms_has_one_a_line_and_may_have_comments() -> None:
    lines = ["\ufeffPatientID=A \r\n", "\n", "  # who asked\n", "PatientID== B \n", "   \n", "Doe"]
    assert read_terms(lines) == ("PatientID=A ", "PatientID== B ", "Doe")
    assert read_terms([]) == ()


def test_values_are_hidden_from_repr() -> None:
    terms = [f"PatientID={SECRET}", f"{SECRET}*", f"StudyID={SECRET}?", "StudyDate=19770707"]
    shown = repr(parse_terms(terms))
    assert SECRET.lower() not in shown.lower()
    assert "1977" not in shown


# What can't be understood


def test_no_terms_are_an_error_of_one_sentence() -> None:
    assert message() == "A search needs at least one term, such as PatientID=VALUE."


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("PatienName", "PatientName"),
        ("studydatetim", "StudyDateTime"),
        ("projct", "project"),
        ("subjet", "subject"),
        ("timestmp", "timestamp"),
    ],
)
def test_an_unknown_keyword_is_an_error_with_the_nearest_known_one(
    written: str, meant: str
) -> None:
    assert message(f"{written}={SECRET}") == f"unknown keyword {written}: did you mean {meant}?"


def test_a_name_that_looks_like_a_keyword_is_not_shown() -> None:
    text = message("PatientID=1", f"{SECRET}=山田^太郎")
    assert text == "term 2: neither DICOM nor the log has the keyword before the ="


@pytest.mark.parametrize("name", ["StudyDate", "StudyInstanceUID", "PatientAge", "timestamp"])
@pytest.mark.parametrize("value", ["20*", "200?"])
def test_a_wildcard_where_the_standard_has_none_is_an_error(name: str, value: str) -> None:
    text = message(f"{name}={value}")
    assert name in text
    assert f"{name}==" in text


@pytest.mark.parametrize(
    "term",
    [
        "StudyDate=20061301",
        "StudyDate=2006-02-30",
        "StudyDate=200608",
        "StudyDate=..",
        "StudyDate=-",
        "StudyDate=20060831-20060801",
        "StudyDate=2006-09..2006-08",
        "StudyDate=20060801-20060802-20060803",
        "StudyDate=20060801..yesterday",
        "StudyDate=0000",
        "StudyTime=24",
        "StudyTime=10:60",
        "StudyTime=1015-1014",
        "StudyDateTime=2006-08-01T25",
        "AcquisitionDateTime=20060801101500-1500",
        "timestamp=2006-08-01T10:15:00Z",
        "created=2006-08-01T10:15:00+01:00",
        "timestamp=2006-8-1",
        "created=" + "-" * 200_000,
    ],
)
def test_an_impossible_date_or_time_is_an_error_that_names_the_keyword(term: str) -> None:
    text = message(term)
    assert text.startswith(f"{term.partition('=')[0]}: ")
    assert not re.search("[0-9]", text)


def test_an_incomplete_log_id_is_an_error() -> None:
    for value in ("", "65774D08", "65774D08*", "not an id"):
        assert message(f"id={value}").startswith("id takes one whole log id")


def test_a_sequence_and_binary_data_can_not_be_searched() -> None:
    assert "ReferencedStudySequence has no text" in message("ReferencedStudySequence=1")
    assert "PixelData has no text" in message("PixelData==1")


def test_of_the_deidentified_values_only_those_can_be_named_that_the_log_keeps() -> None:
    text = message("deid:PatientBirthDate=19770707")
    assert text.startswith("deid:PatientBirthDate: ")
    assert all(keyword in text for keyword in DEID_FIELDS)
    assert message("deid:project=X").startswith("deid:project: ")
    assert "deid:PatientID=VALUE" in message("deid: Doe")


@pytest.mark.parametrize("text", ["", " ", "*", "^^", "!"])
def test_a_term_without_a_word_is_an_error(text: str) -> None:
    assert message("PatientID=1", text).startswith("term 2: there is no word of a name")


@pytest.mark.parametrize("text", ["J?hn", "*son", "Jo*n Doe", "Doe?"])
def test_among_words_a_star_only_ends_a_word(text: str) -> None:
    assert "PatientName=VALUE" in message(text)


@given(st.lists(st.text(), max_size=3))
def test_any_text_is_a_query_or_a_term_error(texts: list[str]) -> None:
    with contextlib.suppress(TermError):
        parse_terms(texts).matches(entry(PatientName="Doe^John"))


_NAMES = st.sampled_from(
    (
        *INDEXED_FIELDS,
        *("id", "project", "subject", "created", "timestamp", "AcquisitionDateTime", "PixelData"),
        *("SliceThickness", "SOPInstanceUID", "PatientAge", "PatienNam", "ABCDEF01"),
        '(0009,"X",01)',
    )
)
_SIGNS = st.sampled_from(["=", "=="])
_MOMENTS = st.text(st.sampled_from("0123456789-.:+TZ* "), max_size=25)


@given(st.sampled_from(["", "deid:"]), _NAMES, _SIGNS, st.text() | _MOMENTS)
def test_any_value_is_a_query_or_a_term_error(side: str, name: str, sign: str, value: str) -> None:
    with contextlib.suppress(TermError):
        parse_terms([f"{side}{name}{sign}{value}"]).matches(entry(timestamp="2004-01-19"))


@given(_NAMES, _SIGNS, st.text(st.sampled_from("*?-.,^= 1"), max_size=8))
def test_no_message_holds_the_value(name: str, sign: str, rest: str) -> None:
    try:
        parse_terms([f"{name}{sign}{SECRET}{rest}"])
    except TermError as error:
        assert SECRET not in str(error) + repr(error)
        assert error.__context__ is None


@given(st.text(st.sampled_from("*?^ ab"), min_size=1))
def test_no_message_about_bare_words_holds_them(text: str) -> None:
    try:
        parse_terms([f"{SECRET}{text}"])
    except TermError as error:
        assert SECRET not in str(error)


# Values


_FIELD_VALUES = st.text() | st.text(st.sampled_from("*?\\^=-. \0\ud800Aa1é山"))


@given(st.sampled_from(INDEXED_FIELDS), st.lists(_FIELD_VALUES, min_size=1, max_size=3), st.data())
def test_an_entry_is_found_by_the_literal_value_of_each_of_its_fields(
    keyword: str, values: list[str], data: st.DataObject
) -> None:
    value = data.draw(st.sampled_from(values))
    assert found(with_field(keyword, *values), f"{keyword}=={value}")


@given(st.sampled_from(("AccessionNumber", "StudyID", "Modality")), st.text(), st.text())
def test_another_literal_value_does_not_find_an_entry(keyword: str, value: str, other: str) -> None:
    assume(make_readable(other) not in (make_readable(value), *make_readable(value).split("\\")))
    assert not found(with_field(keyword, value), f"{keyword}=={other}")


@pytest.mark.parametrize("keyword", ["PatientName", "StudyID", "StudyDate", "PatientBirthDate"])
@pytest.mark.parametrize("value", ["A\0B", "A\ud800B", "\ud800", "\udc80\\B"])
def test_what_no_column_can_keep_is_found_too(keyword: str, value: str) -> None:
    assert found(with_field(keyword, value), f"{keyword}=={value}")
    assert found(with_field(keyword, make_readable(value)), f"{keyword}=={value}")


def test_text_is_compared_with_regard_to_case_and_names_without() -> None:
    held = entry(PatientID="a1", PatientName="Doe^John")
    assert found(held, "PatientID=a1", "PatientName=DOE^JOHN")
    assert not found(held, "PatientID=A1")


def test_a_literal_value_has_no_wildcards_ranges_or_lists() -> None:
    assert found(entry(PatientID="A*1"), "PatientID==A*1")
    assert not found(entry(PatientID="AB1"), "PatientID==A*1")
    assert not found(entry(StudyDate="20060802"), "StudyDate==20060801-20060831")
    assert not found(entry(StudyInstanceUID="1.2"), "StudyInstanceUID==1.2,1.3")
    assert found(entry(StudyDate="2006.08.01"), "StudyDate==2006.08.01")
    assert found(entry(PatientID="=1"), "PatientID===1")


def test_a_value_of_several_is_found_by_each_of_them_and_by_the_whole() -> None:
    held = entry(StudyID=("A\\B", "C"))
    assert all(found(held, f"StudyID={value}") for value in ("A", "B", "C", "A\\B"))
    assert not found(held, "StudyID=B\\A")


def test_any_uid_of_a_list_is_enough() -> None:
    for terms in ("1.2,1.3", "1.2\\1.3", " 1.2 , 1.3,", "1.3"):
        assert found(entry(SeriesInstanceUID="1.3"), f"SeriesInstanceUID={terms}")
    assert not found(entry(SeriesInstanceUID="1.4"), "SeriesInstanceUID=1.2,1.3")


def test_no_value_finds_what_is_empty_or_not_there() -> None:
    assert found(entry(), "PatientID=")
    assert found(entry(PatientID=""), "PatientID==")
    assert found(entry(PatientName="^^="), "PatientName=")
    assert not found(entry(PatientID="A"), "PatientID=")
    assert not found(entry(StudyID="A\\\\B"), "StudyID=")
    assert found(entry(timestamp=None), "timestamp=")
    assert not found(entry(timestamp="2006"), "timestamp=")


@pytest.mark.parametrize("name", ["PatientID", "StudyDate", "subject", "timestamp", "id", "Rows"])
def test_a_star_alone_finds_every_entry(name: str) -> None:
    assert found(entry(), f"{name}=*")
    assert found(entry(PatientID="A", StudyDate="20060801"), f"{name}=**")


# Wildcards


def _by_hand(pattern: str, text: str) -> bool:
    parts = {"*": ".*", "?": "."}
    return bool(re.fullmatch("".join(parts.get(c) or re.escape(c) for c in pattern), text, re.S))


_PIECES = st.text(st.sampled_from("ab[]!-.^$\\\n é"), max_size=6)
_PATTERNS = st.text(st.sampled_from("ab[]!-.^$*?"), min_size=1, max_size=6)


@given(_PATTERNS, st.text(st.sampled_from("ab[]!-.^$\n"), max_size=8))
def test_wildcards_stand_for_any_characters_and_all_else_for_itself(
    pattern: str, text: str
) -> None:
    assume(text)
    assert found(entry(StudyID=text), f"StudyID={pattern}") == _by_hand(pattern, text)


@given(_PIECES, _PIECES, _PIECES)
def test_a_value_is_found_by_its_beginning_and_its_end(start: str, middle: str, end: str) -> None:
    query = matching.Query((Term("original", "StudyID", (Wildcard(f"{start}*{end}"),)),))
    assert query.matches(entry(StudyID=start + middle + end))


def test_many_stars_take_no_longer_than_a_few() -> None:
    assert not found(entry(StudyID="a" * 5_000), f"StudyID={'*a' * 1_000}*b")


def test_a_name_is_found_by_wildcards_in_any_case() -> None:
    held = entry(PatientName="Doe^John=山田^太郎")
    for pattern in ("DOE^J*", "doe^j?hn", "*^John", "山田*", "*=山田^太郎", "doe*=*"):
        assert found(held, f"PatientName={pattern}")
    assert not found(held, "PatientName=J*")


# Names


@pytest.mark.parametrize(
    "value",
    ["doe^john", "DOE ^ JOHN^^", " Doe^John= =", "Doe^John=Wang^XiaoDong=", "X^Y\\doe^john"],
)
def test_case_spaces_and_empty_components_make_no_difference(value: str) -> None:
    assert found(entry(PatientName=value), "PatientName=Doe^John")


def test_each_component_group_of_a_name_can_be_given_alone() -> None:
    held = entry(PatientName="Hong^Gildong=洪^吉洞=홍^길동")
    for group in ("HONG^GILDONG", "洪^吉洞", "홍^길동", "Hong^Gildong=洪^吉洞=홍^길동"):
        assert found(held, f"PatientName={group}")
    assert not found(held, "PatientName=洪")


@given(st.text())
def test_folding_twice_is_folding_once(text: str) -> None:
    assert fold(fold(text)) == fold(text)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("O'Brien^Mary-Jane", {"o", "brien", "mary", "jane"}),
        ("Åström^José María", {"astrom", "jose", "maria"}),
        ("MÜLLER,HANS", {"muller", "hans"}),
        ("Strauß", {"strauss"}),
        ("Łukasz^Søren", {"lukasz", "soren"}),
        ("IŞIK", {"isik"}),
        ("Işık", {"isik"}),
        ("ΑΛΈΞΑΝΔΡΟΣ", {"αλεξανδροσ"}),
        ("Алексей^Семёнов", {"алексеи", "семенов"}),
        ("Зʼявко", {"з", "явко"}),
        ("山田^太郎=やまだ^たろう", {"山田", "太郎", "やまだ", "たろう"}),
        ("がき", {"がき"}),
        ("ﾔﾏﾀﾞ　ﾀﾛｳ", {"ヤマダ", "タロウ"}),
        ("ジョン・スミス", {"ジョン", "スミス"}),
        ("王小东", {"王小东"}),
        ("홍^길동", {"홍", "길동"}),
        ("مُحَمَّد^أحمد", {"محمد", "احمد"}),
        ("محـمد", {"محمد"}),
        ("علی\u200cرضا\u200e", {"علیرضا"}),
        ("בֶּן־דָּוִד", {"בן", "דוד"}),
        ("Buc^Jérôme\\Doe", {"buc", "jerome", "doe"}),
        ("", set()),
    ],
)
def test_the_words_of_a_name(value: str, words: set[str]) -> None:
    assert split_name_words(value) == words


@given(st.text())
def test_the_words_of_a_word_are_the_word(text: str) -> None:
    assert all(split_name_words(word) == {word} for word in split_name_words(text))


_SCRIPTS = st.sampled_from(
    (
        *("John", "Müller", "O'Brien", "Søren", "Işık", "Strauß", "Nguyễn", "José", "Jean-Luc"),
        *(
            "Γιώργος",
            "Семёнов",
            "山田",
            "太郎",
            "やまだ",
            "ガル",
            "王小东",
            "홍",
            "길동",
            "أحمد",
            "דָּוִד",
        ),
    )
)
_CASES: list[Callable[[str], str]] = [str, str.upper, str.lower, str.casefold, str.title]


@given(st.lists(_SCRIPTS, min_size=1, max_size=5), st.sampled_from("^= ,"), st.data())
def test_a_name_is_found_by_its_words_in_any_order_and_case(
    words: list[str], separator: str, data: st.DataObject
) -> None:
    held = entry(PatientName=("Someone^Else", separator.join(words)))
    some = data.draw(st.permutations(words))[: data.draw(st.integers(1, len(words)))]
    asked = " ".join(data.draw(st.sampled_from(_CASES))(word) for word in some)
    assert found(held, asked)
    assert not found(held, f"{asked} Nobody")


def test_the_words_must_be_those_of_one_name() -> None:
    held = entry(PatientName=("Doe^John", "Roe^Jane\\Poe^Jim"))
    assert found(held, "jane roe")
    assert found(held, "Jim, Poe")
    for words in ("John Roe", "Jane Poe", "Jo"):
        assert not found(held, words)


def test_a_word_may_be_a_prefix() -> None:
    held = entry(PatientName="Müller^Hans-Peter")
    assert found(held, "mul* PETER")
    assert found(held, "hans* *")
    assert not found(held, "ul* hans")


def test_bare_words_and_the_keyword_are_alternatives_of_one_attribute() -> None:
    query = parse_terms(["John Doe", "PatientName=Roe^*"])
    assert query.matches(entry(PatientName="Roe^Jane"))
    assert query.matches(entry(PatientName="Doe^John"))


# Dates and times


@pytest.mark.parametrize("stored", ["20060801", "2006.08.01", "2006-08-01", "20060801 "])
@pytest.mark.parametrize(
    "value",
    [
        *("20060801", "2006-08-01", "2006.08.01", "2006-08", "2006", "20060801-20060831"),
        *("20060801-", "-20060801", "- 20060801", "2006-08-01..2006-08-31", "..2006-08"),
        *("2006..", "20050101..2006"),
    ],
)
def test_a_date_is_found_however_it_and_the_range_are_written(stored: str, value: str) -> None:
    assert found(entry(StudyDate=stored), f"StudyDate={value}")


@pytest.mark.parametrize("stored", ["", "20060732", "UNKNOWN", "2007", "20070101"])
def test_what_is_no_date_is_in_no_range(stored: str) -> None:
    assert not found(entry(StudyDate=stored), "StudyDate=2006-08..2006-12")
    assert make_comparable("DA", "UNKNOWN") is None


def test_one_of_several_dates_in_the_range_is_enough() -> None:
    assert found(entry(StudyDate=("20010101", "20050101\\20060815")), "StudyDate=2006-08")


_DAYS = st.dates()


@given(_DAYS, _DAYS, _DAYS, st.sampled_from(["%Y%m%d", "%Y-%m-%d"]), st.sampled_from(["-", ".."]))
def test_ranges_of_dates_agree_with_the_calendar(
    day: date, one: date, other: date, form: str, sign: str
) -> None:
    low, high = sorted((one, other))
    held = entry(PatientBirthDate=f"{day.year:04}{day:%m%d}")

    def written(one: date) -> str:
        return one.strftime(form.replace("%Y", f"{one.year:04}"))  # %Y drops leading zeros

    def within(text: str) -> bool:
        return found(held, f"PatientBirthDate={text}")

    assert within(f"{written(low)}{sign}{written(high)}") == (low <= day <= high)
    assert within(f"{written(low)}{sign}") == (low <= day)
    assert within(f"{sign}{written(high)}") == (day <= high)
    assert within(written(low)) == (day == low)


_INSTANTS = st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1))
_PRECISIONS = {
    "%Y": timedelta(days=365),
    "%Y-%m": timedelta(days=28),
    "%Y-%m-%d": timedelta(days=1),
    "%Y-%m-%dT%H": timedelta(hours=1),
    "%Y-%m-%dT%H:%M": timedelta(minutes=1),
    "%Y-%m-%dT%H:%M:%S": timedelta(seconds=1),
    "%Y-%m-%dT%H:%M:%S.%f": timedelta(microseconds=1),
}


def _period(instant: datetime, form: str) -> tuple[datetime, datetime]:
    """The first moment of the period that the written instant names, and the next period's."""
    start = datetime.strptime(instant.strftime(form), form)
    if form == "%Y":
        return start, start.replace(year=start.year + 1)
    if form == "%Y-%m":
        return start, (start + timedelta(days=31)).replace(day=1)
    return start, start + _PRECISIONS[form]


_FORMS = st.sampled_from(list(_PRECISIONS))


@given(_INSTANTS, _INSTANTS, _INSTANTS, _FORMS, _FORMS, st.booleans())
def test_ranges_of_moments_agree_with_the_clock(
    held: datetime, one: datetime, other: datetime, first: str, last: str, near: bool
) -> None:
    low, high = sorted((one, held if near else other))
    start, end = _period(low, first)[0], _period(high, last)[1]
    asked = f"{low.strftime(first)}..{high.strftime(last)}"
    inside = start <= held < end
    iso = held.strftime("%Y-%m-%dT%H:%M:%S.%f")
    dicom = held.strftime("%Y%m%d%H%M%S.%f")
    assert found(entry(timestamp=iso), f"timestamp={asked}") == inside
    assert found(entry(created=f"{iso}Z"), f"created={asked}") == inside
    assert found(entry(StudyDateTime=dicom), f"StudyDateTime={asked}") == inside
    assert found(entry(StudyDateTime=f"{iso}+01:00"), f"StudyDateTime={asked}") == inside


@given(_INSTANTS, _FORMS)
def test_a_single_moment_names_its_whole_period(held: datetime, form: str) -> None:
    timestamp = held.strftime("%Y-%m-%dT%H:%M:%S.%f")
    asked = held.strftime(form)
    assert found(entry(timestamp=timestamp), f"timestamp={asked}")
    end = _period(held, form)[1].strftime("%Y-%m-%dT%H:%M:%S.%f")
    assert not found(entry(timestamp=end), f"timestamp={asked}")


@given(_INSTANTS, _FORMS, _FORMS)
def test_what_is_stored_less_precisely_stands_for_its_beginning(
    instant: datetime, stored: str, asked: str
) -> None:
    start = _period(instant, stored)[0]
    low = _period(instant, asked)[0]
    held = entry(timestamp=instant.strftime(stored))
    assert found(held, f"timestamp={low.strftime(asked)}..") == (low <= start)


def test_the_ends_of_a_range_are_text_that_compares_with_the_column() -> None:
    assert parse_terms(["StudyDate=2006-08..20060915"]).terms[0].conditions == (
        Between("20060801", "20060915"),
    )
    (condition,) = parse_terms(["timestamp=2006-08-02..2006-08-31"]).terms[0].conditions
    assert isinstance(condition, Between)
    assert condition.low == "2006-08-02"
    assert condition.high is not None
    assert "2006-08-31T23:59:59.999999" < condition.high < "2006-09-01"


@pytest.mark.parametrize("stored", ["101500", "1015", "10:15:00", "10:15", "101500.25"])
@pytest.mark.parametrize("value", ["1015", "10:15", "10", "101500-1016", "10:15..", "-10:15:00"])
def test_a_time_is_found_however_it_and_the_range_are_written(stored: str, value: str) -> None:
    assert found(entry(StudyTime=stored), f"StudyTime={value}")
    assert not found(entry(StudyTime=stored), "StudyTime=10:16..")
    assert not found(entry(StudyTime=stored), "StudyTime=-101459")


def test_a_leap_second_is_a_time() -> None:
    assert found(entry(StudyTime="235960"), "StudyTime=23:59:60")


@pytest.mark.parametrize(
    ("value", "inside"),
    [
        ("20040119072730-0500", True),
        ("20040119072730+0100", True),
        ("2004-0500", True),
        ("2004-2005", True),
        ("2003-2004", True),
        ("2004-01", True),
        ("2001-2003", False),
        ("2004-02", False),
        ("20040119-0500-20040120-0500", True),
        ("20040120-0500-", False),
        ("-20040119", True),
        ("2004-01-19T07:27:30Z", True),
    ],
)
def test_a_dash_in_a_date_time_is_an_offset_only_where_it_can_be_no_range(
    value: str, inside: bool
) -> None:
    held = entry(originals={"0008002A": leaf("DT", "20040119072730.5-0500")})
    assert found(held, f"AcquisitionDateTime={value}") == inside


@pytest.mark.parametrize(
    ("stored", "asked"),
    [
        ("2006", "2006-01-01T00:00:00.000..2007"),
        ("2006-08", "2006-08-01..2006-08-31"),
        ("2006-08-01", "2006-08-01T00:00"),
        ("2006-08-01T10:15:00.5", "2006-08-01T10:15:00.50"),
    ],
)
def test_a_moment_is_the_same_at_any_precision(stored: str, asked: str) -> None:
    assert found(entry(timestamp=stored), f"timestamp={asked}")


def test_created_is_utc_and_may_say_so() -> None:
    held = entry(created="2026-11-23T09:30:00.000000Z")
    for asked in ("2026-11-23T09:30:00.000000Z", "2026-11-23T09:30Z..", "..2026-11-23T09:30:00Z"):
        assert found(held, f"created={asked}")


def test_an_entry_without_a_timestamp_is_in_no_range() -> None:
    assert not found(entry(timestamp=None), "timestamp=..2100")


# The parts of an entry


def test_the_fields_of_the_entry_itself() -> None:
    held = entry(project="TRIAL7", deid={"PatientID": ("SUBJ-007",)})
    assert found(held, f"id={LOG_ID.lower()}")
    assert found(held, "id=65774d08-6757-457c-9dcf-96e762803606")
    assert not found(held, f"id={make_log_id()}")
    assert found(held, "project=TRIAL7")
    assert found(held, "project=TRIAL*")
    assert not found(held, "project=trial7")
    assert found(held, "subject=SUBJ-007")
    assert not found(held, "subject=SUBJ-008")


def test_a_project_is_one_value_whatever_its_characters() -> None:
    assert found(entry(project="A\\B"), "project=A\\B")
    assert not found(entry(project="A\\B"), "project=A")


def test_the_deidentified_side_has_its_own_values() -> None:
    held = entry(
        PatientID="A1",
        PatientName="Doe^John",
        StudyDate="20060801",
        deid={
            "PatientID": ("SUBJ-007",),
            "PatientName": ("Subject^Seven",),
            "StudyDate": ("2006.07.15",),
        },
        instances=(Instance("1.1", "2.25.1"),),
        uids=(("2.25.9", "1.9"),),
    )
    assert found(held, "deid:PatientID=SUBJ*", "deid:PatientName=SUBJECT^SEVEN")
    assert found(held, "deid:StudyDate=2006-07")
    assert found(held, "deid:SOPInstanceUID=2.25.1", "SOPInstanceUID=1.1")
    assert found(held, "deid:FrameOfReferenceUID=2.25.9")
    for wrong in ("deid:PatientID=A1", "deid:SOPInstanceUID=1.1", "deid:FrameOfReferenceUID=1.9"):
        assert not found(held, wrong)


def test_instances_are_found_by_any_of_their_uids() -> None:
    held = entry(instances=(Instance("1.1", "2.1"), Instance("1.2", "2.2")))
    assert found(held, "SOPInstanceUID=1.2,1.7")
    assert not found(held, "SOPInstanceUID=2.2")


ORIGINALS = {
    "preamble": "AAAA",
    "fingerprint": 123,
    "00080080": leaf("LO", "General Hospital "),
    "00081030": leaf("LO", "Head", None, "Neck"),
    "00081140.0.00081155": leaf("UI", "1.2.3"),
    "00081048": leaf("PN", {"Alphabetic": "Roe^Ann", "Ideographic": "山田^太郎"}, None),
    "00081070": {"vr": "PN"},
    "00081090": None,
    "00180050": leaf("DS", "5.00"),
    "00280010": leaf("US", 512, 1.5),
    "00200052": {"vr": "UI", "Value": ["1.7"], "raw": "MS43AA=="},
    "00204000": leaf("LT", "one\\two"),
    "00091001": leaf("LO", "shoulder", creator="GEMS_IMAG_01"),
    "00091102": leaf("LO", "knee", creator="OTHER"),
    "00089215": {
        "vr": "SQ",
        "Value": [
            {},
            {
                "00080100": leaf("SH", "T-1"),
                "00400275": {"vr": "SQ", "Value": [{"00321060": leaf("LO", "MRI")}]},
                "00091003": leaf("LO", "ankle", creator="GEMS_IMAG_01"),
            },
        ],
    },
    "00400280": {"vr": "ST", "length": 2_000_000, "digest": "abc"},
    "00104000": {"vr": "LT", "InlineBinary": "AAAA"},
}


@pytest.mark.parametrize(
    "term",
    [
        "InstitutionName=General Hospital",
        "InstitutionName==General Hospital ",
        "InstitutionName=General*",
        "StudyDescription=Head",
        "StudyDescription=Neck",
        "StudyDescription=Head\\\\Neck",
        "ReferencedSOPInstanceUID=1.2.3",
        "PhysiciansOfRecord=roe^ann",
        "PhysiciansOfRecord=山田*",
        "PhysiciansOfRecord=Roe^Ann=山田^太郎",
        "OperatorsName=",
        "ReferringPhysicianName=",
        "SliceThickness=5",
        "SliceThickness=0.5e1",
        "SliceThickness==5.00",
        "Rows=512",
        "Rows=+1.50",
        "FrameOfReferenceUID=1.7",
        "ImageComments=one\\two",
        "ImageComments=one*",
        '(0009,"GEMS_IMAG_01",01)=shoulder',
        '(0009,"GEMS_IMAG_01",01)=should*',
        '(0009,"GEMS_IMAG_01",03)=ankle',
        '(0009,"OTHER",02)=knee',
        "00091001=shoulder",
        "CodeValue=T-1",
        "RequestedProcedureDescription=MRI",
    ],
)
def test_whatever_was_logged_is_found_at_any_depth(term: str) -> None:
    assert found(entry(originals=ORIGINALS), term)
    alone = Instance("1.1", "2.1", json.dumps(ORIGINALS))
    assert found(entry(instances=(alone,)), term)


@pytest.mark.parametrize(
    "term",
    [
        "InstitutionName=General",
        "ReferringPhysicianName==None",
        "SliceThickness=5.1",
        "SliceThickness=five",
        "ImageComments=two",
        '(0009,"GEMS_IMAG_01",02)=knee',
        '(0009,"GEMS_IMAG_01",03)=shoulder',
        '(0011,"GEMS_IMAG_01",01)=shoulder',
        '(0009,"gems_imag_01",01)=shoulder',
        "CommentsOnThePerformedProcedureStep=abc",
        "CommentsOnThePerformedProcedureStep=",
        "PatientComments=AAAA",
        "PatientComments=",
        "ReferencedSOPClassUID=1.2.3",
    ],
)
def test_what_was_not_logged_or_has_no_text_is_not_found(term: str) -> None:
    assert not found(entry(originals=ORIGINALS), term)


def test_a_huge_exponent_is_compared_as_text() -> None:
    held = entry(originals={"00180050": leaf("DS", "1e99999999999999999999")})
    assert found(held, "SliceThickness=1e99999999999999999999")
    assert not found(held, "SliceThickness=1")


def test_large_whole_numbers_are_told_apart() -> None:
    held = entry(originals={"00180050": leaf("DS", "9007199254740993")})
    assert found(held, "SliceThickness=9007199254740993.0")
    assert not found(held, "SliceThickness=9007199254740992")


def test_an_indexed_field_is_looked_up_in_its_column_where_it_has_one() -> None:
    originals = {"00081140.0.00100020": leaf("LO", "NESTED")}
    assert found(entry(originals=originals), "PatientID=NESTED")
    assert not found(entry(originals=originals, PatientID="A1"), "PatientID=NESTED")


def test_fields_alone_are_searched_without_reading_the_originals() -> None:
    broken = dataclasses.replace(entry(PatientID="A1"), originals="{00080080")
    assert found(broken, "PatientID=A1", "Modality=")


@pytest.mark.parametrize(
    "originals", ["{00080080", '["00080080"]', '{"00080080":{"vr":"SQ","Value":["x"]}}']
)
def test_an_entry_that_can_not_be_read_is_named_and_holds_nothing(
    originals: str, caplog: pytest.LogCaptureFixture
) -> None:
    warn_of_malformed.cache_clear()
    broken = dataclasses.replace(entry(PatientID="A1"), originals=originals)
    assert not found(broken, "StationName=X", "InstitutionName=X")
    assert not found(broken, "InstitutionName=X")
    [record] = caplog.records
    assert record.getMessage().startswith(f"The entry {broken.log_id} is malformed")


_LEAF_TEXT = st.text(st.characters(exclude_characters="\\^="), min_size=1)


@given(
    st.sampled_from(["00080080", "00081140.0.00080080", "00081140.3.00081140.0.00080080"]),
    _LEAF_TEXT,
)
def test_an_original_is_found_by_its_literal_value(path: str, text: str) -> None:
    assert found(entry(originals={path: leaf("LO", text)}), f"InstitutionName=={text}")


# The module


def test_every_keyword_with_text_can_be_named() -> None:
    for keyword in dictionary.list_keywords():
        try:
            (term,) = parse_terms([f"{keyword}="]).terms
        except TermError as error:
            assert "no text to search" in str(error)
        else:
            assert term == Term("original", keyword, term.conditions)


def test_searching_does_not_import_pydicom() -> None:
    code = (
        "import sys; from deid_hooks.query.parser import parse_terms; parse_terms(['PatientID=A']);"
        "sys.exit('pydicom' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", ["StudyDate", "deid:PatientID", "00100010", "timestamp", "id"])
def test_a_column_is_named_as_in_a_term(name: str) -> None:
    term = parse_attribute(name)
    assert term.conditions == ()
    assert (term.side == "deid") == name.startswith("deid:")


@pytest.mark.parametrize("name", ["PatienName", "deid:StudyDescription", "a=b", "", "Müller"])
def test_a_column_that_names_no_attribute_is_refused(name: str) -> None:
    with pytest.raises(TermError):
        parse_attribute(name)
