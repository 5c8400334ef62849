"""Whoever has the store and not the key changes nothing unnoticed."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from deid_hooks import UploadRefused
from deid_hooks.access import make_access_row
from deid_hooks.log import Log
from deid_hooks.records.chain import Sealer
from tests.admin.conftest import SERIES, Desk


def verify(desk: Desk, *words: str) -> list[str]:
    """Return what is wrong with the log; nothing where it is whole."""
    done = desk("verify", *words)
    assert done.code == (1 if done.rows else 0), done.err
    return [row["what"] for row in done.rows]


def forget_what_was_verified(desk: Desk) -> None:
    for head in desk.folder.rglob("*.head"):
        head.unlink()


def test_a_log_that_nobody_touched_is_whole(delivered: Desk) -> None:
    delivered("search", "Doe")
    delivered("block", "PatientID=77654033", "--reason", "r")
    delivered("forget", "Modality=CT", "--reason", "r", "--yes")
    done = delivered("verify")
    assert (done.code, done.rows) == (0, [])
    assert "The log is whole" in done.err


ATTACKS = {
    "who asked": "UPDATE deid_log_access SET who = 'another'",
    "what was asked": "UPDATE deid_log_access SET asked = '', reason = '', salt = ''",
    "an original": "UPDATE deid_log SET PatientName = 'Roe^Jane' WHERE Modality = 'CT'",
    "an outcome": "UPDATE deid_log_upload SET event = 'failed' WHERE event = 'uploaded'",
    "an entry": "DELETE FROM deid_log WHERE Modality = 'CT'",
    "an event": "DELETE FROM deid_log_upload WHERE event = 'uploaded'",
    "a row": "DELETE FROM deid_log_access",
    "a tombstone": "DELETE FROM deid_log_tombstone",
    "a block": "DELETE FROM deid_log_block",
    "who blocked": "UPDATE deid_log_block SET who = 'another'",
    "a lift": "UPDATE deid_log_block SET lifted = 1",
    "a record and its seal": (
        "DELETE FROM deid_log_chain WHERE seq = (SELECT min(seq) FROM deid_log_upload);"
        "DELETE FROM deid_log_upload WHERE seq = (SELECT min(seq) FROM deid_log_upload)"
    ),
    "two contents": (
        "UPDATE deid_log SET id = CASE id WHEN (SELECT min(id) FROM deid_log)"
        " THEN 'x' ELSE id END;"
        "UPDATE deid_log SET id = (SELECT json_extract(seal, '$[2]') FROM deid_log_chain"
        " WHERE seq = (SELECT min(seq) FROM deid_log)) WHERE id = (SELECT max(id) FROM deid_log"
        " WHERE id <> 'x')"
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_an_administrator_of_the_store_does_to_it_is_found(
    delivered: Desk, attack: str
) -> None:
    delivered("search", "Doe", "Modality=CT")
    delivered("block", "PatientID=77654033", "--reason", "r")
    delivered("forget", "Modality=CR", "--reason", "r", "--yes")
    with sqlite3.connect(delivered.folder / "log.db") as connection:
        connection.executescript(ATTACKS[attack])
    assert verify(delivered)


def test_an_end_that_was_cut_off_is_missed_by_a_head_that_was_kept(delivered: Desk) -> None:
    delivered("search", "Doe")
    (delivered.folder / "head.txt").write_text(delivered("verify", "--print-head").out)
    last = "(SELECT max(seq) FROM deid_log_chain)"
    delivered.sql(f"DELETE FROM deid_log_access WHERE seq = {last}")
    delivered.sql(f"DELETE FROM deid_log_chain WHERE seq = {last}")
    assert verify(delivered), "the head beside the secret"
    assert verify(delivered, "--head", "@head.txt")
    forget_what_was_verified(delivered)
    assert verify(delivered, "--head", "@head.txt")
    assert verify(delivered) == [], "without a head nobody can tell"


def test_a_log_that_was_replaced_by_an_older_copy_is_found(delivered: Desk) -> None:
    copy = (delivered.folder / "log.db").read_bytes()
    delivered("block", "PatientID=77654033", "--reason", "r")
    assert verify(delivered) == []
    for name in ("log.db-wal", "log.db-shm"):
        (delivered.folder / name).unlink(missing_ok=True)
    (delivered.folder / "log.db").write_bytes(copy)
    assert verify(delivered)


def test_a_log_that_ends_before_the_head_that_was_kept_takes_no_upload(delivered: Desk) -> None:
    assert verify(delivered) == []
    assert delivered("check").code == 0
    last = "(SELECT max(seq) FROM deid_log_chain)"
    delivered.sql(f"DELETE FROM deid_log_upload WHERE seq = {last}")
    delivered.sql(f"DELETE FROM deid_log_chain WHERE seq = {last}")
    for words in (["check"], ["upload", SERIES / "77654033", "folder:elsewhere"]):
        refused = delivered(*words)
        assert refused.code == 69
        assert "which it once had" in refused.err
    [head] = delivered.folder.rglob("*.head")
    head.unlink()
    assert delivered("check").code == 0, "without the head nobody can tell"


def test_an_earlier_seal_that_was_made_the_last_one_ends_no_log(delivered: Desk) -> None:
    """Else what comes after it could be changed, and verify would not come to it."""
    delivered("search", "Doe")
    [(seq,)] = delivered.sql("SELECT max(seq) FROM deid_log_upload")
    for table in ("deid_log_upload", "deid_log_chain"):
        delivered.sql(f"DELETE FROM {table} WHERE seq = {seq}")
    before = f"SELECT 999, seal FROM deid_log_chain WHERE seq = {seq} - 1"
    delivered.sql(f"INSERT INTO deid_log_chain {before}")
    assert any("before it are missing" in what for what in verify(delivered))


def test_a_log_that_is_written_to_is_verified_to_where_it_ended(
    delivered: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_head = Log.read_head

    def write_on(log: Log) -> str:
        head = read_head(log)
        log.record_access(make_access_row("search", "x", (), ""))
        return head

    monkeypatch.setattr(Log, "read_head", write_on)
    assert verify(delivered) == []


def test_an_empty_log_is_not_called_whole(desk: Desk) -> None:
    done = desk("verify")
    assert done.code == 1
    assert "no records" in done.err


def test_a_head_that_is_none_is_wrong_use(delivered: Desk) -> None:
    assert delivered("verify", "--head", "nonsense").code == 2


def test_the_chain_holds_only_because_of_the_key(
    delivered: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With this one defence switched off, a forged record is taken for genuine."""
    [(seq, text)] = delivered.sql("SELECT seq, seal FROM deid_log_chain ORDER BY seq DESC LIMIT 1")
    seal = json.loads(text)
    seal[7] = "0" * 64
    delivered.sql(f"UPDATE deid_log_chain SET seal = '{json.dumps(seal)}' WHERE seq = {seq}")
    assert verify(delivered) == ["its seal was changed"]
    monkeypatch.setattr(Sealer, "find_forgery", lambda self, seal: "")
    assert verify(delivered) == []


def forge_the_end(desk: Desk) -> None:
    """Take the blocks away, and let the last seal say that there never were any, without a key."""
    desk.sql("DELETE FROM deid_log_block")
    [(seq, text)] = desk.sql("SELECT seq, seal FROM deid_log_chain ORDER BY seq DESC LIMIT 1")
    seal = json.loads(text)
    seal[5] = -1
    desk.sql(f"UPDATE deid_log_chain SET seal = '{json.dumps(seal)}' WHERE seq = {seq}")


def test_nothing_is_sealed_after_a_forged_end(
    delivered: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next record, sealed with the key, would vouch for what was forged."""
    delivered("block", "PatientID=77654033", "--reason", "r")
    delivered("search", "Doe")
    forge_the_end(delivered)
    for words in (
        ["search", "Doe"],
        ["check"],
        ["upload", SERIES / "77654033", "folder:elsewhere"],
    ):
        refused = delivered(*words)
        assert refused.code != 0
        assert "its last record: its seal was changed" in refused.err + refused.out
    assert verify(delivered)
    with monkeypatch.context() as without:
        without.setattr("deid_hooks.log.Log._refuse_forged_head", lambda self, head: None)
        assert delivered("search", "Doe").code == 0
    assert delivered("upload", SERIES / "77654033", "folder:elsewhere").code == 0, (
        "now it is vouched"
    )


def test_a_log_without_any_seal_is_not_taken_for_an_empty_one(delivered: Desk) -> None:
    delivered("block", "PatientID=77654033", "--reason", "r")
    delivered.sql("DELETE FROM deid_log_block")
    delivered.sql("DELETE FROM deid_log_chain")
    refused = delivered("upload", SERIES / "77654033", "folder:elsewhere")
    assert refused.code != 0
    assert "its records have no seals" in refused.err
    assert verify(delivered)
    exported = delivered("export")
    assert (exported.code, exported.out) != (0, "")
    assert not list((delivered.folder / "elsewhere").rglob("*.dcm"))


def test_a_last_seal_that_is_none_is_found_and_hides_nothing(delivered: Desk) -> None:
    delivered.sql(
        "UPDATE deid_log_chain SET seal = 'x' WHERE seq = (SELECT max(seq) FROM deid_log_chain)"
    )
    assert verify(delivered) == ["it has no seal"]
    exported = delivered("export")
    assert exported.code == 69
    assert "has no seal" in exported.err


def test_an_altered_access_row_or_event_is_named_by_what_lists_it(delivered: Desk) -> None:
    delivered("search", "Doe")
    delivered.sql("UPDATE deid_log_access SET who = 'another'")
    done = delivered("access")
    assert done.code == 3
    assert "ALTERED" in done.err
    delivered.sql("UPDATE deid_log_upload SET event = 'cleared'")
    done = delivered("pending")
    assert done.code == 3
    assert "ALTERED" in done.err


def test_a_log_that_says_it_is_older_hides_nothing_that_was_altered(delivered: Desk) -> None:
    """Records of an older log have no seals, and are shown as they are."""
    [log_id] = delivered("search", "Modality=CT", "--format", "ids").ids
    assert verify(delivered) == []
    delivered.sql("UPDATE deid_log SET StudyDescription = 'x' WHERE Modality = 'CT'")
    delivered.sql("UPDATE deid_log_store SET version = 2")
    assert delivered("show", log_id).code == 3
    delivered.sql("DELETE FROM deid_log_chain")
    for words in (["show", log_id], ["export", "Modality=CT"], ["init", "--upgrade"]):
        refused = delivered(*words)
        assert refused.code == 69
        assert "it says that it is of an older version" in refused.err
    forget_what_was_verified(delivered)
    assert delivered("show", log_id).code == 0, "without a head nobody can tell"


def test_several_heads_are_compared_at_once(delivered: Desk) -> None:
    first = delivered("verify", "--print-head").out
    delivered("search", "Doe")
    heads = delivered.folder / "heads.txt"
    heads.write_text(first + delivered("verify", "--print-head").out)
    assert verify(delivered, "--head", "@heads.txt") == []
    heads.write_text(first + "nonsense\n")
    assert delivered("verify", "--head", "@heads.txt").code == 2


def test_a_kept_head_that_is_none_is_an_error_that_names_the_file(delivered: Desk) -> None:
    assert verify(delivered) == []
    [head] = delivered.folder.rglob("*.head")
    for text in ("", "nonsense"):
        head.write_text(text)
        refused = delivered("check")
        assert refused.code == 69
        assert str(head) in refused.err


def test_an_altered_entry_is_shown_as_altered(delivered: Desk) -> None:
    [log_id] = delivered("search", "Modality=CT", "--format", "ids").ids
    delivered.sql("UPDATE deid_log SET StudyDescription = 'x' WHERE Modality = 'CT'")
    for words in (
        ["show", log_id],
        ["report", f"id={log_id}"],
        ["search", "Modality=CT", "--show", "PatientName"],
        ["export", "Modality=CT"],
        ["export"],
    ):
        done = delivered(*words)
        assert done.code == 3, words
        assert f"ALTERED: {log_id}" in done.err
    assert delivered("show", log_id).rows[0]["altered"] == "it was changed"
    refused = delivered("reidentify", "delivered", "--output", "originals")
    assert log_id in "".join(str(row["reason"]) for row in refused.rows)


def swap_ids(desk: Desk) -> tuple[str, str]:
    """Give two entries each other's ids; return that of the blocked patient's, and the other."""
    desk.upload(SERIES / "98892003" / "MR1")
    blocked, other = (
        desk.sql(f"SELECT id FROM deid_log WHERE PatientID {which} '77654033'")[0][0]
        for which in ("=", "<>")
    )
    desk("block", "PatientID=77654033", "--reason", "r")
    for new, old in (("x", blocked), (blocked, other), (other, "x")):
        desk.sql("UPDATE deid_log SET id = ? WHERE id = ?", (new, old))
    return blocked, other


def test_an_entry_under_the_id_of_another_is_not_cleared(delivered: Desk) -> None:
    """Else a blocked patient's images would leave as those of the other."""
    with delivered.hooks() as hooks:
        for log_id in swap_ids(delivered):
            with (
                pytest.raises(UploadRefused, match="is not what was written"),
                hooks.uploading(log_id, "folder:/out"),
            ):
                pytest.fail("it must not be sent")


def test_what_the_digest_of_an_entry_leaves_out_is_covered_by_its_seal(delivered: Desk) -> None:
    delivered.sql("UPDATE deid_log SET created = '2020-01-01T00:00:00.000000Z'")
    refused = delivered("reidentify", "delivered", "--output", "originals")
    assert refused.code != 0
    assert all("is not what was written" in row["reason"] for row in refused.rows)
    assert not list((delivered.folder / "originals").rglob("*.dcm"))


def test_a_block_that_was_removed_lets_nothing_out(delivered: Desk) -> None:
    delivered("block", "PatientID=77654033", "--reason", "r")
    delivered.sql("DELETE FROM deid_log_block")
    refused = delivered("upload", SERIES / "77654033", "folder:elsewhere")
    assert refused.code != 0
    assert "a block was removed" in refused.err
    assert not list(Path(delivered.folder / "elsewhere").rglob("*.dcm"))


def test_a_removed_block_would_let_images_out_without_that_proof(
    delivered: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivered("block", "PatientID=77654033", "--reason", "r")
    delivered.sql("DELETE FROM deid_log_block")
    monkeypatch.setattr("deid_hooks.log.Blocks.add", lambda self, blocks, head: "")
    assert delivered("upload", SERIES / "77654033", "folder:elsewhere").code == 0


def test_every_command_refuses_the_secret_of_another_site(
    delivered: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEID_HOOKS_SECRET", "cd" * 32)
    for words in (
        ["search", "Doe"],
        ["show", "0" * 32],
        ["report", "Doe"],
        ["block", "PatientID=77654033", "--reason", "r"],
        ["forget", "Modality=CT", "--reason", "r", "--yes"],
        ["export"],
        ["upload", SERIES / "77654033", "folder:elsewhere"],
    ):
        refused = delivered(*words)
        assert (refused.code, refused.out) == (69, ""), words
        assert "another site secret" in refused.err, words
