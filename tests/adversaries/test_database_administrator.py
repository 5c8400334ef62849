"""Who administers the database has the store and no key: nothing is changed unnoticed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from deid_hooks.backends.tables.columns import PARTS
from deid_hooks.backends.tables.rows import RECORD_TABLES
from deid_hooks.deadline import Deadline
from deid_hooks.log import Log
from deid_hooks.records.chain import (
    Verification,
    parse_seal,
)
from deid_hooks.records.model import Erased
from tests.adversaries.attacks import (
    ROOT,
    Attack,
    CarryOut,
    Place,
    attack,
    dropping,
    read_chain,
    seal_anew,
)
from tests.adversaries.conftest import BLOCKED, OTHER, MakeSite

ATTACKS: list[Any] = []
KEY = ROOT.derive("seal")
LAST = "(SELECT max(seq) FROM deid_log_chain)"

compares_content = partial(
    attack, ATTACKS, "deid_hooks.records.chain.find_difference", lambda record, seal: ""
)
checks_what_it_reads = partial(
    attack, ATTACKS, "deid_hooks.records.chain.Sealer.find_fault", lambda self, record, seal: ""
)
checks_tags = partial(
    attack, ATTACKS, "deid_hooks.records.chain.Sealer.find_forgery", lambda self, seal: ""
)
keeps_head = partial(attack, ATTACKS, "deid_hooks.log.Log.read_heads", lambda self: [])


def follows_chain(says: str) -> Callable[[CarryOut], CarryOut]:
    """Return what adds an attack that is found as the chain is followed, with these words."""
    off = dropping(Verification._find_faults, says)
    return attack(ATTACKS, "deid_hooks.records.chain.Verification._find_faults", off, says)


def wants_erasures(says: str) -> Callable[[CarryOut], CarryOut]:
    """Return what adds an attack that is found as no erasure names what is missing."""
    off = dropping(Verification.finish, says)
    return attack(ATTACKS, "deid_hooks.records.chain.Verification.finish", off, says)


def is_whole(site: Place) -> bool:
    return site.run("verify").returncode == 0


def find_id(site: Place, where: str) -> str:
    return str(site.sql(f"SELECT id FROM deid_log WHERE {where} ORDER BY seq LIMIT 1")[0][0])


def swap_ids(site: Place) -> tuple[str, str]:
    """Give two entries each other's ids; return that of the blocked patient's, and the other."""
    ids = find_id(site, "PatientID = '77654033'"), find_id(site, "PatientID <> '77654033'")
    for new, old in (("x", ids[0]), (ids[0], ids[1]), (ids[1], "x")):
        site.change(f"UPDATE deid_log SET id = '{new}' WHERE id = '{old}'")
    return ids


def remove(site: Place, table: str, order: str = "min") -> None:
    """Remove the first record of a table, with its seal."""
    [(seq,)] = site.sql(f"SELECT {order}(seq) FROM {table}")
    for each in (table, "deid_log_chain"):
        site.change(f"DELETE FROM {each} WHERE seq = {seq}")


# What was asked, and why.


@wants_erasures("what was asked was removed, and no erasure names it")
def blank_what_everybody_asked(site: Place) -> bool:
    site.change("UPDATE deid_log_access SET asked = '', reason = '', salt = ''")
    return is_whole(site)


reads_terms = partial(attack, ATTACKS, "deid_hooks.records.chain.find_wrong_terms", lambda row: "")


@reads_terms("what was asked, or the reason, was changed")
def give_somebody_another_reason(site: Place) -> bool:
    site.change("UPDATE deid_log_access SET reason = 'curious' WHERE reason = 'after the block'")
    return is_whole(site)


@reads_terms("what was asked, or the reason, was added later")
def write_a_reason_where_it_was_erased(site: Place) -> bool:
    site.change("UPDATE deid_log_access SET reason = 'curious' WHERE salt = ''")
    return is_whole(site)


@compares_content("ALTERED")
def let_another_user_have_asked(site: Place) -> bool:
    site.change("UPDATE deid_log_access SET who = 'dr-adams'")
    return site.run("access", "--who", "dr-adams").returncode == 0


@checks_what_it_reads("it has no seal")
def plant_a_row_of_another_user(site: Place) -> bool:
    names = "id, at, who, origin, action, asked, log_ids, reason, salt, commitment"
    site.change(
        f"INSERT INTO deid_log_access (seq, {names}) SELECT 999, 'x', at, 'dr-adams', origin,"
        " action, '', log_ids, '', '', '' FROM deid_log_access LIMIT 1"
    )
    return site.run("access", "--who", "dr-adams").returncode == 0


# What entries hold.


def look_at_what_was_altered(site: Place, *words: str) -> bool:
    log_id = find_id(site, "Modality = 'CT'")
    site.change("UPDATE deid_log SET PatientName = 'Roe^Jane' WHERE Modality = 'CT'")
    looked = site.run(*(word.replace("ID", log_id) for word in words))
    return looked.returncode == 0 and "Roe" in looked.stdout


@compares_content("ALTERED")
def alter_an_entry_and_show_it(site: Place) -> bool:
    return look_at_what_was_altered(site, "show", "ID")


@compares_content("ALTERED")
def alter_an_entry_and_report_it(site: Place) -> bool:
    return look_at_what_was_altered(site, "report", "id=ID")


@compares_content("ALTERED")
def alter_an_entry_and_list_it(site: Place) -> bool:
    return look_at_what_was_altered(site, "search", "id=ID", "--show", "PatientName")


@compares_content("ALTERED")
def alter_an_entry_and_export_it(site: Place) -> bool:
    return look_at_what_was_altered(site, "export", "id=ID")


@compares_content("ALTERED")
def alter_an_entry_and_export_the_log(site: Place) -> bool:
    return look_at_what_was_altered(site, "export")


@compares_content("ALTERED")
def alter_an_outcome_and_report_it(site: Place) -> bool:
    site.change("UPDATE deid_log_upload SET event = 'failed' WHERE event = 'uploaded'")
    reported = site.run("report", "Modality=CT")
    return reported.returncode == 0 and "failed" in reported.stdout


@compares_content("its seal is that of another record")
def swap_two_entries_and_show_one(site: Place) -> bool:
    log_id, _ = swap_ids(site)
    shown = site.run("show", log_id)
    return shown.returncode == 0 and "77654033" not in shown.stdout


UPLOADER = """
import sys
from deid_hooks import DeidHooks
with DeidHooks.load("sender/1.0") as hooks, hooks.uploading(sys.argv[1], "folder:/out") as upload:
    upload.sent_all()
"""


@checks_what_it_reads("is not what was written")
def swap_two_entries_and_send_what_is_blocked(site: Place) -> bool:
    log_id, _ = swap_ids(site)
    return site.program(UPLOADER, log_id).returncode == 0


@checks_what_it_reads("ALTERED")
def swap_two_entries_and_let_the_wrong_one_be_erased(site: Place) -> bool:
    log_id, _ = swap_ids(site)
    site.run("forget", log_id, "--reason", "asked to", "--yes")
    return site.sql(f"SELECT count(*) FROM deid_log WHERE id = '{log_id}'") == [(0,)]


@checks_what_it_reads("ALTERED")
def let_an_entry_look_old_enough_to_be_erased(site: Place) -> bool:
    site.change("UPDATE deid_log SET created = '2010-01-01T00:00:00.000000Z' WHERE Modality = 'CT'")
    site.run("forget", "created=..2015-12-31", "--reason", "kept for ten years", "--yes")
    return site.sql("SELECT count(*) FROM deid_log WHERE Modality = 'CT'") == [(0,)]


@compares_content("the log was altered")
def alter_the_note_that_images_were_withdrawn(site: Place) -> bool:
    image = OTHER / "4919"
    assert site.lets_out(image)
    site.run("withdrawn", "folder:elsewhere", "PatientID=98890234")
    shutil.rmtree(site.folder / "elsewhere")
    assert not site.lets_out(image)
    site.change("UPDATE deid_log_upload SET event = 'failed' WHERE event = 'withdrawn'")
    return site.lets_out(image)


# Blocks.


@attack(ATTACKS, "deid_hooks.log.Blocks.add", lambda *_: "", "a block was removed")
def remove_a_block_and_upload(site: Place) -> bool:
    remove(site, "deid_log_block")
    return site.lets_out(BLOCKED)


@checks_what_it_reads("a block: it was changed")
def turn_a_block_into_a_lift_and_upload(site: Place) -> bool:
    site.change("UPDATE deid_log_block SET lifted = 1")
    return site.lets_out(BLOCKED)


@checks_what_it_reads("ALTERED")
def let_the_lift_of_another_patient_be_that_of_the_blocked_one(site: Place) -> bool:
    [(patient,)] = site.sql("SELECT DISTINCT patients FROM deid_log WHERE PatientID = '77654033'")
    site.change(f"UPDATE deid_log SET patients = '{patient}', PatientID = '77654033'")
    site.run("block", "Modality=MR", "--lift", "--reason", "consent given again")
    return site.lets_out(BLOCKED)


@checks_tags("its last record: its seal was changed")
def remove_a_block_forge_the_end_and_upload(site: Place) -> bool:
    remove(site, "deid_log_block")
    seal = "json_set(seal, '$[5]', -1)"
    site.change(f"UPDATE deid_log_chain SET seal = {seal} WHERE seq = {LAST}")
    return site.lets_out(BLOCKED)


@attack(
    ATTACKS, "deid_hooks.log.Log._holds_records", lambda self: False, "its records have no seals"
)
def remove_a_block_and_all_seals_and_upload(site: Place) -> bool:
    site.lose_head()
    site.change("DELETE FROM deid_log_block")
    site.change("DELETE FROM deid_log_chain")
    for table in (*PARTS, *RECORD_TABLES.values(), "deid_log"):  # out of the way of new records
        place = "entry" if table in PARTS else "seq"
        site.change(f"UPDATE {table} SET {place} = {place} + 1000")
    return site.lets_out(BLOCKED)


# Records that are gone.


@wants_erasures("it was removed, and no erasure names it")
def remove_an_entry(site: Place) -> bool:
    site.change("DELETE FROM deid_log WHERE Modality = 'CT'")
    return is_whole(site)


def take_for_erased(self: Verification, record: Any, text: str) -> Iterator[Any]:
    """Verify as if records of every kind could be erased, without an erasure that names them."""
    yield from dropping(check, "only entries can be erased")(self, record, text)
    if isinstance(record, Erased) and record.kind != "entry":
        self._gone.pop(record.id, None)


check = Verification.check


@attack(
    ATTACKS,
    "deid_hooks.records.chain.Verification.check",
    take_for_erased,
    "it was removed, and only entries can be erased",
)
def remove_an_outcome(site: Place) -> bool:
    site.change("DELETE FROM deid_log_upload WHERE seq = (SELECT max(seq) FROM deid_log_upload)")
    return is_whole(site)


@follows_chain("before it are missing")
def remove_an_outcome_with_its_seal(site: Place) -> bool:
    remove(site, "deid_log_upload")
    return is_whole(site)


@follows_chain("before it are missing")
def remove_an_entry_with_its_seal(site: Place) -> bool:
    remove(site, "deid_log", "max")
    return is_whole(site)


def move(site: Place) -> None:
    """Let the first two upload events change places, with their seals."""
    places = [seq for (seq,) in site.sql("SELECT seq FROM deid_log_upload ORDER BY seq LIMIT 2")]
    for table in ("deid_log_upload", "deid_log_chain"):
        for new, old in ((-1, places[0]), (places[0], places[1]), (places[1], -1)):
            site.change(f"UPDATE {table} SET seq = {new} WHERE seq = {old}")


@attack(
    ATTACKS,
    "deid_hooks.records.chain.Verification._find_faults",
    dropping(Verification._find_faults, "it was moved here", "before it are missing"),
    "it was moved here",
)
def move_a_record(site: Place) -> bool:
    move(site)
    return is_whole(site)


@attack(
    ATTACKS,
    "deid_hooks.backends.sqlite.reading.BEGINNING",
    0,
    "it has no seal",
)
def plant_an_entry_before_the_first_place(site: Place) -> bool:
    columns = [name for _, name, *_ in site.sql("PRAGMA table_info(deid_log)")]
    values = {"seq": "-1", "id": f"'{'A' * 32}'"}
    cells = ", ".join(values.get(name, f"[{name}]") for name in columns)
    site.change(f"INSERT INTO deid_log SELECT {cells} FROM deid_log WHERE Modality = 'CT'")
    found = site.run("search", "PatientID=77654033", "--format", "ids").stdout
    return "A" * 32 in found and is_whole(site)


@attack(
    ATTACKS,
    "deid_hooks.log.Log._check_each",
    lambda self, found: iter(found),
    "ALTERED",
)
def let_a_tombstone_name_somebody_else(site: Place) -> bool:
    [(log_id,)] = site.sql("SELECT id FROM deid_log_tombstone")
    site.change("UPDATE deid_log_tombstone SET who = 'dr-adams'")
    return "dr-adams" in site.run("show", log_id).stderr and "ALTERED" not in site.said


# Seals of one's own.


@checks_tags("its seal was changed")
def alter_an_entry_and_make_new_links(site: Place) -> bool:
    site.lose_head()
    site.change("UPDATE deid_log SET PatientName = 'Roe^Jane' WHERE seq = 1")
    seal_anew(site, 1, b"x" * 32)
    return is_whole(site)


@keeps_head("it is another record than the log had there once")
def alter_an_entry_and_seal_it_with_the_key(site: Place) -> bool:
    site.change("UPDATE deid_log_upload SET event = 'failed' WHERE event = 'uploaded'")
    seal_anew(site, 1, KEY)
    return is_whole(site)


@attack(
    ATTACKS,
    "deid_hooks.records.chain.Verification",
    lambda sealer, heads: Verification(sealer),
    "it is another record than the log had there once",
)
def offer_a_backup_that_was_altered_and_sealed_with_the_key(site: Place) -> bool:
    site.replace_log("old.db")
    site.lose_head()
    head = site.run("verify", "--print-head").stdout
    site.lose_head()
    site.change("UPDATE deid_log_upload SET event = 'failed' WHERE event = 'uploaded'")
    seal_anew(site, 1, KEY)
    return site.run("verify", "--head", head).returncode == 0


@checks_tags("it was sealed with another key")
def replace_the_log_by_one_of_ones_own(site: Place) -> bool:
    site.lose_head()
    site.replace_log("foreign.db")
    return is_whole(site)


@attack(ATTACKS, "deid_hooks.log.Log._find_fault", lambda self, record, seal: "", "ALTERED")
def let_the_log_be_of_an_older_version_and_show_what_was_altered(site: Place) -> bool:
    site.lose_head()
    site.change("UPDATE deid_log_store SET version = 2")
    return look_at_what_was_altered(site, "show", "ID")


@keeps_head("it says that it is of an older version")
def take_the_seals_away_and_let_the_log_be_older(site: Place) -> bool:
    site.change("UPDATE deid_log_store SET version = 2")
    site.change("DELETE FROM deid_log_chain")
    return look_at_what_was_altered(site, "show", "ID")


@keeps_head("it says that it is of an older version")
def let_the_administrator_seal_what_was_altered(site: Place) -> bool:
    site.change("UPDATE deid_log SET PatientName = 'Roe^Jane' WHERE Modality = 'CT'")
    site.change("UPDATE deid_log_store SET version = 2")
    site.change("DELETE FROM deid_log_migration WHERE name LIKE '3:%'")
    site.run("init", "--upgrade")
    return is_whole(site)


# Going back.


def end_with_last_seal(self: Log) -> Iterator[Any]:
    """Read the log as far as its last seal says that it goes."""
    end = parse_seal(self.read_head())
    for record, text in self.backend.chain(Deadline()):
        yield record, text
        if end == parse_seal(text):
            return


@attack(ATTACKS, "deid_hooks.log.Log.chain", end_with_last_seal, "before it are missing")
def remove_a_row_and_let_an_earlier_seal_be_the_last_one(site: Place) -> bool:
    site.lose_head()
    [(seq,)] = site.sql("SELECT seq - 1 FROM deid_log_block")
    for table in ("deid_log_access", "deid_log_chain"):
        site.change(f"DELETE FROM {table} WHERE seq = {seq}")
    site.change(
        f"INSERT INTO deid_log_chain SELECT 999, seal FROM deid_log_chain WHERE seq = {seq} - 1"
    )
    return is_whole(site)


@keeps_head("which it once had")
def cut_off_the_last_records(site: Place) -> bool:
    remove(site, "deid_log_access", "max")
    return is_whole(site)


@keeps_head("which it once had")
def cut_off_the_block_and_upload(site: Place) -> bool:
    [(seq,)] = site.sql("SELECT seq FROM deid_log_block")
    for table in ("deid_log_block", "deid_log_access", "deid_log_chain"):
        site.change(f"DELETE FROM {table} WHERE seq >= {seq}")
    return site.lets_out(BLOCKED)


@keeps_head("which it once had")
def go_back_to_an_older_copy_and_upload(site: Place) -> bool:
    site.replace_log("old.db")
    return site.lets_out(BLOCKED)


@keeps_head("which it once had")
def empty_the_log_and_upload(site: Place) -> bool:
    for (table,) in site.sql(
        "SELECT name FROM sqlite_master WHERE name LIKE 'deid_%' AND type = 'table'"
    ):
        if table not in ("deid_log_store", "deid_log_migration"):
            site.change(f"DELETE FROM {table}")
    return site.lets_out(BLOCKED)


@keeps_head("it is another record than the log had there once")
def go_back_to_an_older_copy_that_went_on(site: Place) -> bool:
    site.replace_log("longer.db")
    return is_whole(site)


@attack(
    ATTACKS,
    "deid_hooks.log.Log._is_there",
    lambda self, head, end: True,
    "than it once had",
)
def go_back_to_an_older_copy_that_went_on_and_upload(site: Place) -> bool:
    site.replace_log("longer.db")
    return site.lets_out(BLOCKED)


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


def test_the_newest_head_that_matches_tells_until_when_the_log_was_whole(
    make_site: MakeSite,
) -> None:
    site = make_site(True)
    first = site.run("verify", "--print-head").stdout
    site.run("search", "Doe")
    second = site.run("verify", "--print-head").stdout
    site.change(f"UPDATE deid_log_access SET who = 'dr-adams' WHERE seq = {LAST}")
    seal_anew(site, len(read_chain(site)) - 1, KEY)
    site.lose_head()
    assert site.run("verify", "--head", second).returncode == 1
    assert site.run("verify", "--head", first).returncode == 0
