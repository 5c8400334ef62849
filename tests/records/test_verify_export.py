"""The script for auditors: a whole export is whole, any changed byte is found without a key."""

from __future__ import annotations

import ast
import importlib.util
import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deid_hooks.records.chain import (
    Head,
    Sealer,
    Verification,
    commit_terms,
    erase_salt,
    erase_terms,
    make_erased,
    make_leaf,
)
from deid_hooks.records.json_codec import KINDS, encode_record
from deid_hooks.records.keys import RootKey
from deid_hooks.records.model import (
    AccessRow,
    Block,
    Erasure,
    Instance,
    Record,
    Tombstone,
    UploadEvent,
)
from deid_hooks.testing.records import (
    SEALER,
    any_access_rows,
    any_blocks,
    any_entries,
    any_events,
    any_tombstones,
    make_entry,
)
from tests.whole.site import SERIES, Site

SCRIPT = Path(__file__).parents[2] / "docs" / "verify_export.py"
KEY = bytes(32)
AT = "2026-01-0{}T00:00:00.000000Z"
ODD = "\0 \ud800 \ud83d\ude00 \U0001f600 \u2028 \x7f \u00fc"
Log = list[tuple[Record, str]]


def load_script() -> Any:
    spec = importlib.util.spec_from_file_location("verify_export", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


script = load_script()


def seal(records: Sequence[Record], sealer: Sealer = SEALER, head: str = "") -> Log:
    return list(zip(records, sealer.seal(head, map(make_leaf, records)), strict=True))


def make_row(id_: str, *log_ids: str, asked: str = "PatientID=4711") -> AccessRow:
    row = AccessRow(id_, AT.format(2), "jane", "desk", "search", asked, log_ids, "why")
    return commit_terms(row)


def erase(log: Log, n: int) -> None:
    """Leave of record ``n`` what an erasure leaves."""
    record, text = log[n]
    if isinstance(record, AccessRow):
        log[n] = erase_terms(record), text
        return
    left = erase_salt(text)
    erased = make_erased(left)
    assert erased is not None
    log[n] = erased, left


def make_log(text: str = ODD, large: bytes = b"\0\xff") -> Log:
    """Return a log with a record of each kind, an erased entry and a blank access row."""
    log = seal(
        [
            make_entry(log_id="AA", created=AT.format(1), digest="d"),
            make_entry(
                log_id="BB",
                created=AT.format(1),
                fields={"PatientName": (text,)},
                originals=text,
                instances=(Instance("1.2", text),),
                large={text: large},
                digest="d",
            ),
            UploadEvent("BB", AT.format(2), "cleared", text, "u"),
            make_row("row 1", "AA"),
            Block(f"block{text}", AT.format(3), "p", "", text),
            make_row("row 2", "BB", asked=text),
            Tombstone("AA", AT.format(1), (text,), Erasure(AT.format(4), "jane", "why")),
            UploadEvent("BB", AT.format(5), "uploaded", "d", "u"),
        ]
    )
    erase(log, 0)
    erase(log, 3)
    return log


def make_head(log: Log, sealer: Sealer = SEALER) -> Head:
    verification = Verification(sealer)
    faults = [fault for pair in log for fault in verification.check(*pair)]
    assert faults == [*verification.finish()] == []
    head = verification.make_head(AT.format(9))
    assert head is not None
    return head


def write_lines(log: Log, head: Head, with_digest: bool = False) -> list[bytes]:
    """Return the lines of an export as the exporter writes them."""
    written = [{**encode_record(record), "seal": json.loads(text)} for record, text in log]
    lines = [write_line(document) for document in written]
    last = {"head": str(head)}
    if with_digest:
        last["sha256"] = script.hashlib.sha256(b"".join(lines) + str(head).encode()).hexdigest()
    return [*lines, write_line(last)]


def write_line(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def export_log(log: Log, with_digest: bool = False) -> bytes:
    return b"".join(write_lines(log, make_head(log), with_digest))


def read_head(head: Head | str | None) -> Any:
    return head and script.HEAD.fullmatch(str(head))


def find_faults(data: bytes, head: Head | str | None = None, key: bytes = b"") -> list[str]:
    export = script.Export(read_head(head), key)
    found = [what for _, _, what in export.check(io.BytesIO(data))]
    return found if export.count else ["this is no export"]


def is_whole(data: bytes, kept: Any, key: bytes = b"") -> bool:
    """Return whether no fault is found; stop at the first one."""
    export = script.Export(kept, key)
    return next(export.check(io.BytesIO(data)), None) is None and export.count > 0


def flip_each(data: bytes, bit: int) -> Iterator[tuple[int, bytes]]:
    for at, byte in enumerate(data):
        yield at, data[:at] + bytes([byte ^ bit]) + data[at + 1 :]


SMALL = make_log("\ud800\0\u00fc")
"""A log of few bytes, of which each is changed in turn."""


def test_an_export_is_whole_with_its_head_its_key_and_neither() -> None:
    log = make_log(large=bytes(range(256)) * 4000)
    for with_digest in (False, True):
        data = export_log(log, with_digest)
        for head in (None, make_head(log)):
            for key in (b"", KEY):
                assert find_faults(data, head, key) == []


def test_a_head_of_before_is_still_met() -> None:
    log = make_log()
    early = Head(make_head(log).genesis, *read_seal(log[2][1]), "t")
    assert find_faults(export_log(log), early) == []
    assert find_faults(export_log(log), replace(early, key="rotated")) == []
    for other in (
        replace(early, genesis="0" * 64),
        replace(early, link="0" * 64),
        replace(early, tag="0" * 64),
        replace(early, n=99),
    ):
        assert find_faults(export_log(log), other)


def read_seal(text: str) -> tuple[int, str, str, str]:
    n, _, _, _, link, _, key, tag, _, _ = json.loads(text)
    return n, link, key, tag


@given(
    st.lists(
        any_entries | any_events | any_blocks | any_tombstones | any_access_rows.map(commit_terms),
        min_size=1,
        max_size=8,
    ),
    st.data(),
)
def test_any_records_are_whole_and_without_one_of_them_they_are_not(
    records: list[Record], data: st.DataObject
) -> None:
    log = seal(records)
    head = make_head(log)
    assert find_faults(export_log(log), head, KEY) == []
    lines = write_lines(log, head)
    del lines[data.draw(st.integers(0, len(lines) - 1))]
    assert find_faults(b"".join(lines))


@pytest.mark.parametrize("bit", [0x01, 0x20, 0x80])
def test_a_change_of_any_byte_is_found_without_a_key(bit: int) -> None:
    data, kept = export_log(SMALL, with_digest=True), read_head(make_head(SMALL))
    assert is_whole(data, kept)
    assert [at for at, changed in flip_each(data, bit) if is_whole(changed, kept)] == []


def test_without_a_digest_of_the_file_only_tags_and_the_time_of_the_head_may_change() -> None:
    data, kept = export_log(SMALL), read_head(make_head(SMALL))
    missed = {at for at, changed in flip_each(data, 1) if is_whole(changed, kept)}
    tags = set[int]()
    for found in re.finditer(rb'"(kit)","([0-9a-f]{64})","[0-9a-f]*","[0-9a-f]*"\]', data):
        tags |= {*range(*found.span(1)), *range(*found.span(2))}
    last = data.rindex(b"\n", 0, -1)
    time = set(range(data.rindex(b" ") + 1, data.rindex(b'"')))
    assert missed <= tags | time
    assert not missed & set(range(data.rindex(b"kit", 0, last), last))
    assert not any(is_whole(flip(data, at), kept, KEY) for at in missed - time)


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def test_lines_that_are_removed_swapped_repeated_or_cut_off_are_found() -> None:
    lines = write_lines(SMALL, make_head(SMALL))
    for n in range(len(lines)):
        assert find_faults(b"".join(lines[:n] + lines[n + 1 :])), f"without line {n}"
        assert find_faults(b"".join(lines[:n])), f"cut before line {n}"
        assert find_faults(b"".join(lines[:n]) + lines[n][:-1]), f"cut within line {n}"
        assert find_faults(b"".join([*lines[: n + 1], *lines[n:]])), f"line {n} twice"
        for other in range(n):
            swapped = [*lines]
            swapped[n], swapped[other] = lines[other], lines[n]
            assert find_faults(b"".join(swapped)), f"lines {other} and {n} swapped"


def test_a_forged_end_is_found_by_a_head_without_a_key_and_by_the_key_without_a_head() -> None:
    records: list[Record] = [record for record, _ in SMALL[5:]]
    records[-1] = UploadEvent("BB", AT.format(5), "failed", "d", "u")
    forged = SMALL[:5] + seal([*records, make_entry()], Sealer({"kit": b"x" * 32}), SMALL[4][1])
    n, link, key, tag = read_seal(forged[-1][1])
    end = Head(make_head(SMALL).genesis, n, link, key, tag, AT.format(9))
    data = b"".join(write_lines(forged, end))
    assert find_faults(data) == [], "links need no key, so nothing tells it from a log"
    assert find_faults(data, make_head(SMALL)) == [
        "it is another record than the log had there once"
    ]
    assert find_faults(data, None, KEY) == ["it was not sealed with this key"] * 4


def test_a_forged_log_that_is_whole_by_itself_is_found_by_head_or_key() -> None:
    records = [record for record, _ in make_log("x")[1:3]]
    forger = Sealer({"kit": b"x" * 32})
    log = seal(records, forger)
    verification = Verification(forger)
    assert [fault for pair in log for fault in verification.check(*pair)] == []
    head = verification.make_head(AT.format(9))
    assert head is not None
    data = b"".join(write_lines(log, head))
    assert find_faults(data) == [], "links need no key, so nothing tells it from a log"
    assert find_faults(data, make_head(SMALL))
    assert find_faults(data, None, KEY)


def test_a_log_whose_key_was_rotated_is_verified_with_both_keys_in_their_order() -> None:
    both = Sealer({"kit": KEY, "new": b"n" * 32})
    log = SMALL + seal([make_row("row")], both, SMALL[-1][1])
    data = b"".join(write_lines(log, make_head(log, both)))
    assert find_faults(data, None, KEY + b"n" * 32) == []
    assert find_faults(data, None, KEY) == ["it was not sealed with this key"]
    late = seal([make_row("late")], head=log[-1][1])
    n, link, key, tag = read_seal(late[0][1])
    end = Head(make_head(SMALL).genesis, n, link, key, tag, AT.format(9))
    data = b"".join(write_lines([*log, *late], end))
    assert find_faults(data, None, KEY + b"n" * 32) == ["it was not sealed with this key"]


def test_what_no_erasure_names_may_not_be_gone() -> None:
    row, event = make_row("row", "AA"), UploadEvent("AA", "", "", "", "")
    for n in (0, 1, 2):
        log = seal([make_entry(log_id="AA"), row, event])
        head = make_head(log)
        erase(log, n)
        assert find_faults(b"".join(write_lines(log, head)), head, KEY), n


def test_what_is_put_into_a_blank_row_is_found() -> None:
    for added in ({"asked": "x"}, {"reason": "x"}, {"salt": "ab"}):
        log = make_log()
        head = make_head(log)
        row: Any = log[3][0]
        log[3] = replace(row, **added), log[3][1]
        assert find_faults(b"".join(write_lines(log, head)), head)


@pytest.mark.parametrize(
    ("n", "member", "value"),
    [(2, 5, True), (2, 5, 1.0), (2, 8, "ab"), (2, 9, "ab" * 32), (0, 9, "")],
)
def test_members_of_a_seal_that_no_link_covers_may_not_change(
    n: int, member: int, value: object
) -> None:
    event = UploadEvent("AA", "", "cleared", "d", "u")
    log = seal([event, Block("block", "", "p", "", "jane"), event])
    documents = [json.loads(line) for line in write_lines(log, make_head(log))]
    assert find_faults(b"".join(map(write_line, documents))) == []
    documents[n]["seal"][member] = value
    assert find_faults(b"".join(map(write_line, documents)))


@pytest.mark.parametrize(
    ("id_", "spelled"),
    [
        ("AA", {"utf-8": "4141"}),
        ("\ud800", {"utf-8": "EDA080"}),
        ("\ud800", {"utf-8": "ed a080"}),
        ("\ud800", {"utf-8": "eda080", "more": 1}),
    ],
)
def test_the_id_of_an_erased_entry_has_one_spelling(id_: str, spelled: object) -> None:
    log = seal([make_entry(log_id=id_), Tombstone(id_, "", (), Erasure("", "", ""))])
    erase(log, 0)
    documents = [json.loads(line) for line in write_lines(log, make_head(log))]
    assert find_faults(b"".join(map(write_line, documents))) == []
    documents[0]["id"] = documents[0]["seal"][2] = spelled
    assert find_faults(b"".join(map(write_line, documents)))


def test_a_seal_of_another_id_is_found_even_if_everything_was_computed_anew() -> None:
    leaf = replace(make_leaf(make_entry(log_id="AA")), id="BB")
    body, salt = encode_record(make_entry(log_id="AA")), "ab"
    private = script.digest("private", salt, script.write_json(body))
    leaf = replace(leaf, digest=script.digest("leaf", "entry", b"BB", "", private), salt=salt)
    [text] = SEALER.seal("", [leaf])
    _, link, key, tag = read_seal(text)
    head = Head(json.loads(text)[9], 0, link, key, tag, "t")
    lines = [write_line({**body, "seal": json.loads(text)}), write_line({"head": str(head)})]
    assert find_faults(b"".join(lines)) == ["its seal is that of another record"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'{"record":"upload"', b'{"record":"upload","record":"upload"'),
        (b'{"record":"upload"', b'{"record":"access","record":"upload"'),
        (b'{"record":"upload"', b'{ "record":"upload"'),
        (b'{"record":"upload"', b'{"record":"uploa\\u0064"'),
        (b'{"record":"upload"', b'{"more":1,"record":"upload"'),
        (b"]}\n", b"]}\r\n"),
        (b"]}\n", b"]} \n"),
        (b"]}\n", b"]}\0\n"),
        (b"]}\n", b"]}\n\n"),
        (b'"seal":[2,', b'"seal":[2.0,'),
        (b'"seal":[1,', b'"seal":[true,'),
        (b'"seal":[2,', b'"seal":["2",'),
        (b'"seal":[2,', b'"seal":[Infinity,'),
        (b'"seal":[2,', b'"seal":[1e999,'),
        (b'"seal":[2,', b'"seal":[' + b"9" * 5000 + b","),
        (b'"seal":[2,', b'"seal":[' + b"[" * 100_000),
        (b'"seal":[2,', b'"seal":[{},'),
        (b'"seal":[2,"upload"', b'"seal":null,"was":[2,"upload"'),
        (b'{"head"', b'\xef\xbb\xbf{"head"'),
        (b'{"head"', b'{"part":"","head"'),
        (b'{"head"', b'{"head":"","head"'),
    ],
)
def test_lines_that_only_read_the_same_are_found(old: bytes, new: bytes) -> None:
    data = export_log(SMALL)
    assert old in data
    assert find_faults(data.replace(old, new, 1))


@pytest.mark.parametrize("added", [b"\xef\xbb\xbf", b"\n", b" "])
def test_bytes_before_and_after_the_file_are_found(added: bytes) -> None:
    data = export_log(SMALL)
    assert find_faults(added + data)
    assert find_faults(data + added)


def run_script(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", "-S", SCRIPT, *words], capture_output=True, text=True
    )


def test_it_runs_where_only_python_is(tmp_path: Path) -> None:
    log = make_log()
    export, head = tmp_path / "export.jsonl", str(make_head(log))
    export.write_bytes(export_log(log))
    done = run_script(export, "--head", head, "--key", KEY.hex())
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"whole: 8 records, {AT.format(1)}..{AT.format(5)}\n"
    export.write_bytes(export_log(log).replace(b"cleared", b"claimed"))
    assert run_script(export).returncode == 1


def test_it_reads_what_the_command_exports(tmp_path: Path) -> None:
    site = Site(tmp_path / "site")
    assert site.upload(SERIES / "77654033").returncode == 0
    assert site.run("block", "PatientID=77654033", "--reason", "why").returncode == 0
    [log_id] = site.run("search", "Modality=CT", "--format", "ids").stdout.split()
    assert site.run("forget", log_id, "--reason", "why", "--yes").returncode == 0
    export = site.folder / "export.jsonl"
    assert site.run("export", "--output", str(export)).returncode == 0
    data = export.read_bytes()
    head = json.loads(data.splitlines()[-1])["head"]
    key = RootKey(bytes.fromhex("ab" * 32)).derive("seal")
    assert find_faults(data, head, key) == []
    assert {json.loads(line).get("record") for line in data.splitlines()[:-1]} == {*KINDS}


def test_faults_name_the_record_and_no_value(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = seal([make_entry(log_id="AA"), make_row("row\x1b\u00fc", "AA"), make_entry(log_id="BB")])
    data = export_log(log).replace(b"4711", b"9999").replace(b"Doe", b"Roe")
    export = tmp_path / "export.jsonl"
    export.write_bytes(data)
    assert script.main([str(export)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "record 0 AA: it was changed",
        "record 1 row\\x1b\\xfc: what was asked, or the reason, was changed",
        "record 2 BB: it was changed",
        "3 faults in 3 records",
    ]


def test_at_most_a_hundred_faults_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = seal([UploadEvent("AA", "", "cleared", "d", "u")] * 150)
    export = tmp_path / "export.jsonl"
    export.write_bytes(export_log(log).replace(b"cleared", b"claimed"))
    assert script.main([str(export)]) == 1
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 101
    assert shown[-1] == "150 faults in 150 records"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"id,created\n",
        b"[]\n",
        b'"record"\n',
        b'{"record":"upload"}\n',
        b'{"head":"x"}\n',
        b'{"part":"00"}\n',
        b"\xff\xfe",
    ],
)
def test_what_is_no_export_is_told_apart(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "file").write_bytes(data)
    assert find_code(tmp_path / "file") == 2


def find_code(*words: str | Path) -> int:
    try:
        return int(script.main([*map(str, words)]))
    except SystemExit as ended:
        return int(ended.code or 0)


def test_wrong_use_and_files_that_are_not_there_end_with_2(tmp_path: Path) -> None:
    export = tmp_path / "export.jsonl"
    export.write_bytes(export_log(SMALL))
    assert find_code(export) == 0
    assert find_code(tmp_path / "none") == 2
    assert find_code(export, "--head", "x") == 2
    assert find_code(export, "--head", str(make_head(SMALL)) + " more") == 2
    assert find_code(export, "--key", "ab") == 2


def test_it_is_one_short_file_that_needs_the_standard_library_only() -> None:
    text = SCRIPT.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 200
    for node in ast.walk(ast.parse(text)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
        assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names
