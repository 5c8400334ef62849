"""Synthetic records: of any text that Python can hold, and of values that search terms may meet."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from deid_hooks.records.chain import Sealer, commit_terms, make_leaf
from deid_hooks.records.fields import DEID_FIELDS, INDEXED_FIELDS
from deid_hooks.records.model import (
    AccessRow,
    Block,
    Entry,
    Erasure,
    Instance,
    Record,
    Tombstone,
    UploadEvent,
)

any_text = st.text(st.characters(exclude_categories=()), max_size=8) | st.sampled_from(
    ["", "\0", "a\0b", "\ud800", "\ud83d\ude00", "x" * 5000, "'; DROP TABLE deid_log; --"]
)
"""NUL, lone surrogates, nothing and a lot among it."""


SEALER = Sealer({"kit": bytes(32)})
"""Seals the records of the kit, with a key that everybody knows."""


def chain_seals(head: str, new: Sequence[Record]) -> list[str]:
    """Give each record the seal that it has after ``head``, as a log does."""
    return SEALER.seal(head, map(make_leaf, new))


def fresh_id() -> str:
    """Return an id that no other record has."""
    return uuid.uuid4().hex.upper()


def make_entry(**values: Any) -> Entry:
    """Return an entry with a new id and two instances; ``values`` replace what it would have."""
    log_id = values.pop("log_id", None) or fresh_id()
    plain: dict[str, Any] = {
        "log_id": log_id,
        "created": "2026-01-01T00:00:00.000000Z",
        "uploader": "sender/1.2",
        "project": "TRIAL7",
        "timestamp": "2006-08-15T10:15:00",
        "fields": {"PatientID": ("4711",), "PatientName": ("Doe^John",)},
        "deid": {"PatientID": ("SUBJ-007",)},
        "originals": '{"00100020":{"Value":["4711"],"vr":"LO"}}',
        "instances": (
            Instance("1.2.3.1", "2.25.1"),
            Instance("1.2.3.2", "2.25.2", '{"00080050":{"vr":"SH"}}'),
        ),
        "uids": (("2.25.9", "1.2.9"),),
        "large": {},
        "digest": f"digest of {log_id}",
        "key": "site",
    }
    return Entry(**{**plain, **values})


def _mappings(keywords: tuple[str, ...]) -> st.SearchStrategy[dict[str, tuple[str, ...]]]:
    values = st.lists(any_text, max_size=3).map(tuple)
    return st.dictionaries(st.sampled_from(keywords), values, max_size=4)


any_entries = st.builds(
    make_entry,
    created=any_text,
    uploader=any_text,
    project=any_text,
    timestamp=st.none() | any_text,
    fields=_mappings((*INDEXED_FIELDS, "InstitutionName", '(0009,"GEMS_IMAG_01",01)')),
    deid=_mappings((*DEID_FIELDS, "PatientSex")),
    originals=any_text,
    instances=st.lists(
        st.builds(Instance, uid=any_text, deid_uid=any_text, originals=st.just("{}") | any_text),
        max_size=4,
    ).map(tuple),
    uids=st.lists(st.tuples(any_text, any_text), max_size=4).map(tuple),
    large=st.dictionaries(any_text, st.binary(max_size=100), max_size=2),
    digest=any_text,
    key=any_text,
    patients=st.lists(st.text("0123456789abcdef", min_size=1, max_size=8), max_size=2).map(tuple),
)
"""Entries with nothing but what the types promise."""

_ids = st.builds(fresh_id)
any_events = st.builds(UploadEvent, _ids, *[any_text] * 4, id=_ids)
any_tombstones = st.builds(
    Tombstone,
    _ids,
    any_text,
    st.lists(any_text).map(tuple),
    st.builds(Erasure, *[any_text] * 3),
    any_text,
)
any_blocks = st.builds(Block, _ids, *[any_text] * 5, st.booleans())
any_access_rows = st.builds(
    AccessRow, _ids, *[any_text] * 5, st.lists(any_text).map(tuple), any_text
).map(commit_terms)
"""Access rows as the log makes them: what was asked, and why, is covered by a commitment."""

NAMES = (
    *("Doe^John", "DOE ^ JOHN^^", "John Doe", "Doe^Jane=\u5c71\u7530^\u592a\u90ce", "O'Brien^Pat"),
    *("M\u00fcller^J\u00f6rg", "Mu\u0308ller", "\u0130pek^I\u015f\u0131l", "\u1fb3", "Stra\u00dfe"),
    *("\u304b\u3099", "\u304c\u3099x", "Doe\\Roe^Richard", "A*B", "", "^", "\ufb01sh", "a[b]c"),
)
TEXTS = (
    "",
    "4711",
    "47",
    "A*1",
    "a\\b",
    "b",
    "A[1]",
    "x\0y",
    "x\ufffdy",
    "\u00fc",
    "\U0010ffffz",
    " 1",
)
UIDS = ("1.2.3", "1.2.3.1", "1.2", "2.25.1", "2.25.12", "1.2\\1.3", "")
MOMENTS = (
    *("20060801", "2006.08.01", "2006-08-15", "20060831", "20061231", "2006", "next week", ""),
    *("101500", "10:15:00", "1015", "101500.25", "2006-08-15T10:15:00", "20060815101500+0100"),
)
KEYWORDS = {
    "PatientName": NAMES,
    "PatientID": TEXTS,
    "AccessionNumber": TEXTS,
    "StudyID": TEXTS,
    "StudyDate": MOMENTS,
    "StudyTime": MOMENTS,
    "StudyDateTime": MOMENTS,
    "StudyInstanceUID": UIDS,
}
OTHER_KEYWORDS = {
    "InstitutionName": TEXTS,
    "ReferringPhysicianName": NAMES,
    "SliceThickness": ("1", "1.0", "1.50", "", "x"),
    '(0009,"GEMS_IMAG_01",01)': TEXTS,
}
_TAGS = {
    "PatientName": "00100010",
    "PatientID": "00100020",
    "StudyDate": "00080020",
    "StudyInstanceUID": "0020000D",
    "InstitutionName": "00080080",
    "ReferringPhysicianName": "00080090",
    "SliceThickness": "00180050",
    '(0009,"GEMS_IMAG_01",01)': "00091001",
}


@st.composite
def _documents(draw: st.DrawFn) -> str:
    elements: dict[str, Any] = {}
    for keyword in draw(st.lists(st.sampled_from(list(_TAGS)), max_size=2)):
        value = draw(st.sampled_from((KEYWORDS | OTHER_KEYWORDS)[keyword]))
        element: dict[str, Any] = {"vr": "LO"}
        if keyword.endswith("Name") and keyword != "InstitutionName":
            element = {"vr": "PN", "Value": [{"Alphabetic": value}]}
        elif value:
            element["Value"] = value.split("\\")
        if keyword.startswith("("):
            element["creator"] = "GEMS_IMAG_01"
        path = _TAGS[keyword]
        if draw(st.booleans()):
            path = f"00081140.0.{path}"
        elements[path] = element
    return json.dumps(elements, sort_keys=True)


def _fields(keywords: dict[str, tuple[str, ...]]) -> st.SearchStrategy[dict[str, tuple[str, ...]]]:
    optional = {
        keyword: st.lists(st.sampled_from(values), max_size=2, unique=True).map(tuple)
        for keyword, values in keywords.items()
    }
    return st.fixed_dictionaries({}, optional=optional)


findable_entries = st.builds(
    make_entry,
    created=st.sampled_from(["2026-01-01T00:00:00.000000Z", "2026-02-01T12:00:00.000000Z"]),
    project=st.sampled_from(["TRIAL7", "TRIAL8", "a\\b", ""]),
    timestamp=st.none() | st.sampled_from(MOMENTS),
    fields=_fields(KEYWORDS | {"InstitutionName": TEXTS, "SliceThickness": ("1", "1.0")}),
    deid=_fields({k: v for k, v in KEYWORDS.items() if k in DEID_FIELDS}),
    originals=_documents(),
    instances=st.lists(
        st.builds(Instance, st.sampled_from(UIDS), st.sampled_from(UIDS), _documents()), max_size=2
    ).map(tuple),
    uids=st.lists(st.tuples(st.sampled_from(UIDS), st.sampled_from(UIDS)), max_size=2).map(tuple),
)
"""Entries whose values come from so few that terms often find some and not all of them."""
