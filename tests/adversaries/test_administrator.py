"""Who administers does nothing unseen, nothing in another's name, and nothing by a file."""

from __future__ import annotations

import hmac
import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from deid_hooks.admin.import_log import _parse_line, _parse_record
from deid_hooks.records.chain import Head, commit_terms, parse_seal
from deid_hooks.records.json_codec import encode_record
from deid_hooks.records.model import (
    AccessRow,
    Block,
    Erasure,
    Record,
    Tombstone,
    UploadEvent,
    make_log_id,
)
from tests.adversaries.attacks import (
    Attack,
    Place,
    attack,
    read_chain,
    seal_anew,
)
from tests.adversaries.conftest import BLOCKED, MakeServed, MakeSite
from tests.adversaries.served import ORIGINAL, Served, find_keeper

ATTACKS: list[Any] = []
OVER_HTTP: list[Any] = []

IMPORT = "deid_hooks.admin.import_log"
AT = "2026-01-01T00:00:00.000000Z"


def take_everything(
    log: object, lines: Iterable[bytes], counts: object, foreign: bool
) -> Iterator[Record]:
    """Yield all records of an export."""
    for line in lines:
        document = _parse_line(line)
        if document and "record" in document and document["record"] != "erased":
            yield _parse_record(document, 0)[0]


verifies_exports = partial(
    attack,
    ATTACKS,
    f"{IMPORT}._verify_export",
    lambda log, lines: None,
    "he export was altered or cut off",
)
takes_no_more = partial(attack, ATTACKS, f"{IMPORT}._read_records", take_everything)
leaves_rows = partial(
    attack, ATTACKS, "deid_hooks.access.AccessRecorder.record", lambda self, asked, log_ids: None
)


def take_lines(site: Place, name: str = "whole.jsonl") -> list[str]:
    return (site.folder / name).read_text().splitlines(keepends=True)


def bring_in(site: Place, lines: list[str] | None = None, *more: str) -> Place:
    """Import these lines, or the export of the site, into an empty log of the same secret."""
    fresh = Place(site.folder / "fresh", site.here)
    file = site.folder / "brought.jsonl"
    file.write_text("".join(take_lines(site) if lines is None else lines))
    fresh.run("import", str(file), *more)
    site.said += fresh.said
    return fresh


def write_line(record: Record) -> str:
    return f"{json.dumps(encode_record(record))}\n"


# Imports.


@takes_no_more("1 lifts of blocks, left out")
def lift_a_block_by_a_file(site: Place) -> bool:
    site.run("import", "lifted.jsonl")
    return site.lets_out(BLOCKED)


@verifies_exports()
def leave_a_block_out_of_a_file(site: Place) -> bool:
    lines = take_lines(site)
    [block] = [n for n, line in enumerate(lines) if '"record":"block"' in line]
    fresh = bring_in(site, lines[:block])
    return fresh.sql("SELECT 1 FROM deid_log") != [] and fresh.lets_out(BLOCKED)


@verifies_exports()
def plant_a_tombstone_by_a_file(site: Place) -> bool:
    [(log_id,)] = site.sql("SELECT id FROM deid_log WHERE Modality = 'CT'")
    stone = Tombstone(log_id, AT, (), Erasure(AT, "dr-adams", "asked to"))
    fresh = bring_in(site, [write_line(stone), *take_lines(site)])
    there = fresh.sql(f"SELECT count(*) FROM deid_log_tombstone WHERE id = '{log_id}'")
    return there == [(1,)] and not fresh.sql(f"SELECT id FROM deid_log WHERE id = '{log_id}'")


def plant_an_outcome(site: Place, *more: str) -> bool:
    [(log_id,)] = site.sql("SELECT id FROM deid_log WHERE Modality = 'CT'")
    event = UploadEvent(log_id, AT, "uploaded", "folder:/nowhere", "sender")
    lines = take_lines(site)
    fresh = bring_in(site, [*lines[:-1], write_line(event), lines[-1]], *more)
    return "folder:/nowhere" in str(fresh.sql("SELECT destination FROM deid_log_upload"))


@verifies_exports()
def plant_an_outcome_by_a_file(site: Place) -> bool:
    return plant_an_outcome(site)


@takes_no_more("left out")
def plant_an_outcome_as_foreign_history(site: Place) -> bool:
    return plant_an_outcome(site, "--as-foreign-history")


@verifies_exports()
def edit_an_export(site: Place) -> bool:
    lines = [line.replace('"uploaded"', '"failed"') for line in take_lines(site)]
    return bring_in(site, lines).sql("SELECT 1 FROM deid_log_upload WHERE event = 'failed'") != []


@attack(
    ATTACKS,
    "deid_hooks.records.chain.Sealer.find_forgery",
    lambda self, seal: "",
    "its seal was changed",
)
def edit_an_export_and_make_new_links(site: Place) -> bool:
    site.change("UPDATE deid_log_upload SET event = 'failed' WHERE event = 'uploaded'")
    seal_anew(site, 1, b"x" * 32)
    rows = read_chain(site)
    lines = [{**encode_record(record), "seal": json.loads(text)} for record, text in rows]
    first, last = (parse_seal(text) for _, text in (rows[0], rows[-1]))
    assert first and last
    head = Head(first.genesis, last.n, last.link, last.key, last.tag, AT)
    fresh = bring_in(site, [f"{json.dumps(line)}\n" for line in (*lines, {"head": str(head)})])
    return fresh.sql("SELECT 1 FROM deid_log_upload WHERE event = 'failed'") != []


@attack(ATTACKS, f"{IMPORT}.derive_export_key", lambda secret: b"known", "it is not what was exp")
def edit_a_part_of_a_log(site: Place) -> bool:
    *lines, _ = take_lines(site, "part.jsonl")
    lines = [line.replace('"uploaded"', '"failed"') for line in lines]
    digest = hmac.new(b"known", "".join(lines).encode(), "sha256").hexdigest()
    fresh = bring_in(site, [*lines, f'{{"part":"{digest}"}}\n'])
    return fresh.sql("SELECT 1 FROM deid_log_upload WHERE event = 'failed'") != []


CHANGES_THE_FILE = """
import sys
from pathlib import Path
from unittest.mock import patch
from deid_hooks.access import AccessRecorder
from deid_hooks.cli import main

file, planted = map(Path, sys.argv[1:])
record = AccessRecorder.record

def change_before(self, *arguments):
    file.write_bytes(planted.read_bytes())
    record(self, *arguments)

sys.argv = ["deid-hooks", "import", str(file)]
with patch.object(AccessRecorder, "record", change_before):
    main()
"""


@attack(ATTACKS, f"{IMPORT}._copy_privately", lambda path: path.open("rb"), "")
def change_an_export_once_it_was_checked(site: Place) -> bool:
    fresh = Place(site.folder / "fresh", site.here)
    planted = site.folder / "planted.jsonl"
    lines = [line.replace('"uploaded"', '"failed"') for line in take_lines(site)]
    planted.write_text("".join(lines))
    done = fresh.program(CHANGES_THE_FILE, str(site.folder / "whole.jsonl"), str(planted))
    assert done.returncode == 0, done.stderr
    return fresh.sql("SELECT 1 FROM deid_log_upload WHERE event = 'failed'") != []


@takes_no_more("")
def bring_rows_of_another_log_into_the_trail(site: Place) -> bool:
    return "after the block" in str(bring_in(site).sql("SELECT reason FROM deid_log_access"))


@leaves_rows('"action": "import"')
def import_unseen(site: Place) -> bool:
    fresh = bring_in(site)
    listed = fresh.run("access")
    site.said += listed.stdout
    return fresh.sql("SELECT 1 FROM deid_log") != [] and '"import"' not in listed.stdout


# On the command line.


@leaves_rows('"action": "forget"')
def erase_unseen_at_the_command_line(site: Place) -> bool:
    site.run("forget", "PatientID=98890234", "--reason", "asked to", "--yes")
    [(log_id,)] = site.sql("SELECT id FROM deid_log_tombstone ORDER BY seq DESC LIMIT 1")
    return '"forget"' not in site.run("access", "--entry", log_id).stdout


# Over HTTP, with the token of an administrator.


leaves_rows_itself = partial(
    attack,
    OVER_HTTP,
    "deid_hooks_service.service.Call.record_access",
    lambda self, *_: None,
)
says_who_and_when = partial(
    attack, OVER_HTTP, "deid_hooks_service.handlers._stamp", lambda record, at, who: record
)


believes_nobody = partial(attack, OVER_HTTP, "deid_hooks_service.tokens.Senders.find", find_keeper)


@leaves_rows_itself("erase by the admin")
def erase_unseen(served: Served) -> bool:
    return served.erase("admin") is not None and not served.read_trail()


@attack(
    OVER_HTTP, "deid_hooks_service.handlers._record_changes", lambda *_: None, "block by the admin"
)
def block_unseen(served: Served) -> bool:
    served.append("admin", Block(make_log_id(), AT, "a" * 64, "", "dr-adams", "asked to"))
    return not served.read_trail()


@leaves_rows_itself("read by the admin")
def read_the_whole_log_unseen(served: Served) -> bool:
    answer = served.ask("admin", "GET", "/v1/records")
    return ORIGINAL in answer.text and not served.read_trail()


@believes_nobody("")
def erase_in_the_name_of_another(served: Served) -> bool:
    stone = served.erase("admin")
    return stone is not None and (stone.erasure.who, stone.erasure.at) == ("dr-adams", "1999")


@says_who_and_when("")
def block_in_the_name_of_another(served: Served) -> bool:
    served.append("admin", Block(make_log_id(), "1999", "a" * 64, "", "dr-adams", "asked to"))
    [block] = served.log.find_blocks(["a" * 64])
    return (block.who, block.at) == ("dr-adams", "1999")


@says_who_and_when("")
def send_a_tombstone_in_the_name_of_another(served: Served) -> bool:
    log_id = make_log_id()
    served.append("admin", Tombstone(log_id, AT, (), Erasure("1999", "dr-adams", "asked to")))
    stone = served.log.tombstone(log_id)
    return stone is not None and (stone.erasure.who, stone.erasure.at) == ("dr-adams", "1999")


@says_who_and_when("")
def have_uploaded_in_another_year(served: Served) -> bool:
    event = UploadEvent(served.entry.log_id, "1999", "uploaded", "folder:/a", "sender")
    served.append("admin", event)
    return [each.at for each in served.log.uploads([served.entry.log_id])] == ["1999"]


@believes_nobody("the service writes the access trail itself")
def write_a_row_of_another(served: Served) -> bool:
    row = AccessRow(make_log_id(), AT, "dr-adams", "desk", "show", "", (served.entry.log_id,))
    served.append("admin", commit_terms(row))
    return any(row.who == "dr-adams" for row in served.read_trail())


@attack(
    OVER_HTTP,
    "deid_hooks_service.handlers.find_wrong_terms",
    lambda row: "",
    "an access row is not what its commitment says",
)
def spoil_the_chain_by_a_row_that_never_fits(served: Served) -> bool:
    row = AccessRow(make_log_id(), AT, "keeper", "desk", "show", "asked", (), "reason")
    served.append("keeper", replace(commit_terms(row), commitment="0" * 64))
    return not served.is_whole()


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize(
    "here", [True, pytest.param(False, marks=pytest.mark.ci)], ids=["here", "installed"]
)
def test_the_attack_fails(make_site: MakeSite, attack: Attack, here: bool) -> None:
    attack.fails(make_site(here))


@pytest.mark.parametrize("attack", ATTACKS)
def test_it_succeeds_without_that_defence(
    make_site: MakeSite, attack: Attack, monkeypatch: pytest.MonkeyPatch
) -> None:
    attack.succeeds_without(make_site(True), monkeypatch)


@pytest.mark.parametrize("attack", OVER_HTTP)
@pytest.mark.parametrize(
    "here", [True, pytest.param(False, marks=pytest.mark.ci)], ids=["here", "installed"]
)
def test_the_attack_over_http_fails(make_served: MakeServed, attack: Attack, here: bool) -> None:
    attack.fails(make_served(here))


@pytest.mark.parametrize("attack", OVER_HTTP)
def test_it_succeeds_over_http_without_that_defence(
    make_served: MakeServed, attack: Attack, monkeypatch: pytest.MonkeyPatch
) -> None:
    attack.succeeds_without(make_served(True), monkeypatch)
