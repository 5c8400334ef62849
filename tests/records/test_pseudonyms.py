from __future__ import annotations

import pickle
import re
import subprocess
import sys
import uuid

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydicom.uid import UID

from deid_hooks.errors import SettingsError
from deid_hooks.records.keys import Pseudonyms

KEY = bytes(range(32))
MADE_OF = Pseudonyms("TRIAL7", KEY)


def everything(pseudonyms: Pseudonyms) -> list[str]:
    return [
        pseudonyms.uid("1.2.3"),
        pseudonyms.label("4711", "CLINIC"),
        pseudonyms.token("AccessionNumber", "A1", 12),
        pseudonyms.seed("dicognito"),
    ]


def test_another_process_makes_the_same_pseudonyms() -> None:
    script = f"""
from deid_hooks.records.keys import Pseudonyms
p = Pseudonyms("TRIAL7", {KEY!r})
print(p.uid("1.2.3"), p.label("4711", "CLINIC"), p.token("AccessionNumber", "A1", 12),
      p.seed("dicognito"))
"""
    printed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout
    assert printed.split() == everything(MADE_OF)


def test_pseudonyms_are_the_same_in_every_release() -> None:
    # A change of these would send the patients of a running trial out under new names.
    assert everything(MADE_OF) == [
        "2.25.305991246908972375780966013310027311915",
        "SUBJ-9NHRHEX48P",
        "8E2XQC1ZYT9G",
        "d52f2f740532f5a7680e0874277d27dc5e13e4ab2c14d48d04f1343cb910299b",
    ]


@pytest.mark.parametrize("other", [Pseudonyms("TRIAL8", KEY), Pseudonyms("TRIAL7", KEY[::-1])])
def test_another_project_or_another_key_makes_others(other: Pseudonyms) -> None:
    assert not set(everything(MADE_OF)) & set(everything(other))


@given(st.text(min_size=1))
def test_a_uid_is_a_valid_uid_made_of_a_uuid(original: str) -> None:
    assume(original.strip("\0 "))
    made = UID(MADE_OF.uid(original))
    assert made.is_valid
    number = uuid.UUID(int=int(made.removeprefix("2.25.")))
    assert (number.version, number.variant) == (8, uuid.RFC_4122)


def test_what_is_empty_stays_empty() -> None:
    assert MADE_OF.uid("") == MADE_OF.uid(" ") == ""
    assert MADE_OF.label("", "CLINIC") == ""
    assert MADE_OF.token("AccessionNumber", "", 12) == ""


def test_padding_makes_no_difference() -> None:
    assert MADE_OF.uid("1.2.3\0") == MADE_OF.uid("1.2.3")
    assert MADE_OF.label(" 4711 ", "CLINIC ") == MADE_OF.label("4711", "CLINIC")


def test_equal_patient_ids_of_two_issuers_are_two_persons() -> None:
    assert MADE_OF.label("4711", "CLINIC") != MADE_OF.label("4711", "PRACTICE")
    assert MADE_OF.label("4711", "") != MADE_OF.label("4711", "PRACTICE")


@given(st.text(), st.text(), st.text(), st.text())
def test_where_one_part_ends_and_the_next_begins_matters(a: str, b: str, c: str, d: str) -> None:
    first, second = (a.strip("\0 "), b.strip("\0 ")), (c.strip("\0 "), d.strip("\0 "))
    assume(first != second and first[0] and second[0])
    assert MADE_OF.label(*first) != MADE_OF.label(*second)


def test_a_label_has_no_letters_that_are_misread() -> None:
    labels = "".join(MADE_OF.label(str(n), "").removeprefix("SUBJ-") for n in range(500))
    assert re.fullmatch("[0-9A-HJKMNP-TV-Z]{5000}", labels)
    assert len(set(labels)) == 32


def test_thousands_of_persons_have_different_labels() -> None:
    assert len({MADE_OF.label(str(number), "CLINIC") for number in range(20_000)}) == 20_000


def test_tokens_of_different_purposes_differ_and_are_as_long_as_asked() -> None:
    tokens = [MADE_OF.token(purpose, "A1", 16) for purpose in ("AccessionNumber", "StudyID")]
    assert tokens[0] != tokens[1]
    assert [len(token) for token in tokens] == [16, 16]
    assert len(MADE_OF.token("AccessionNumber", "A1", 51)) == 51


@pytest.mark.parametrize("length", [0, 52])
def test_a_token_that_can_not_be_that_long_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="1 to 51"):
        MADE_OF.token("AccessionNumber", "A1", length)


def test_a_key_of_another_length_is_refused() -> None:
    with pytest.raises(SettingsError, match="32 bytes"):
        Pseudonyms("TRIAL7", b"short")


def test_the_key_is_hidden() -> None:
    assert repr(MADE_OF) == "Pseudonyms(project='TRIAL7')"


def test_worker_processes_can_have_them() -> None:
    assert pickle.loads(pickle.dumps(MADE_OF)) == MADE_OF
