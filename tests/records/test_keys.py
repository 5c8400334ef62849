"""A keyring, and entries as they are under each of its keys."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deid_hooks.errors import SettingsError
from deid_hooks.records.keys import (
    Keyring,
    LostKey,
    RootKey,
    change_root,
    key_entry,
    list_identities,
    parse_keyring,
)
from deid_hooks.testing.records import make_entry

OLD, NEW = RootKey(b"o" * 32), RootKey(b"n" * 32)

identities = st.tuples(st.text("0Aé ", min_size=1), st.text("XY", max_size=2)).filter(
    lambda identity: identity[0].strip() != ""
)


@given(identities, st.binary(max_size=20))
def test_an_entry_is_the_same_whichever_key_it_was_written_with_first(
    identity: tuple[str, str], value: bytes
) -> None:
    plain = sha256(value).hexdigest()
    element = f'{{"digest":"{plain}","length":{len(value)},"vr":"OB"}}'
    entry = make_entry(
        digest="",
        key="",
        fields={"PatientID": (identity[0],), "IssuerOfPatientID": (identity[1],)},
        originals=f'{{"00091010":{element}}}',
        large={plain: value},
    )
    old, new = (key_entry(entry, [identity], root) for root in (OLD, NEW))
    assert change_root(old, NEW) == new != old
    assert change_root(new, OLD) == old
    assert plain not in old.originals
    ring = Keyring((OLD, NEW))
    assert ring.is_whole(old) and ring.is_whole(new)
    assert not ring.is_whole(replace(new, project="other"))
    assert ring.list_patients(old) == ring.list_patients(new) == {*old.patients, *new.patients}


def test_a_value_that_quotes_a_digest_is_no_digest() -> None:
    text = '{"00104000":{"Value":["\\"digest\\":\\"' + "0" * 64 + '\\""],"vr":"LT"}}'
    entry = make_entry(digest="", key="", originals=text)
    assert key_entry(entry, [], OLD).originals == text


def test_identities_are_compared_without_spaces_at_their_ends() -> None:
    entry = make_entry(fields={"PatientID": ("4711 ", " ", "4711"), "IssuerOfPatientID": ("A\0",)})
    assert list_identities(entry) == [("4711", "A")]


def test_a_keyring_is_read_as_it_was_written() -> None:
    ring = Keyring((OLD, LostKey("aa", 7), NEW))
    assert parse_keyring(ring.text(), "here") == ring
    assert (ring.newest, ring.find(OLD.name), ring.find("aa")) == (NEW, OLD, None)
    assert ring.knows("aa") and not ring.knows("bb")
    assert ring.extends(Keyring((OLD,))) and not Keyring((NEW, OLD)).extends(Keyring((OLD,)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ab",
        "xy" * 32,
        "lost aa",
        "lost aa x",
        f"{'ab' * 32}\nlost aa 3",
        "ab" * 32 + " " + "ab" * 32,
    ],
)
def test_another_text_is_refused_and_not_quoted(text: str) -> None:
    with pytest.raises(SettingsError, match="malformed") as refused:
        parse_keyring(text, "the file")
    assert not text or text not in str(refused.value)


def test_a_key_is_not_shown() -> None:
    assert OLD.text() not in repr(Keyring((OLD,)))
