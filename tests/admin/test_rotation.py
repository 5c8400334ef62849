"""Rotated keys: blocks, labels and UIDs stay what they are, and the log stays whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from deid_hooks import DeidHooks
from deid_hooks.errors import LogUnavailable, UploadRefused
from deid_hooks.records.keys import Keyring, replace_keyring
from tests.admin.conftest import SERIES, Answer, Desk
from tests.admin.test_report import of_issuer

CT, MR = SERIES / "77654033" / "CT2", SERIES / "98892003"
WHY = ("--reason", "every year")


@pytest.fixture
def site(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """A desk whose site secret is a file, so that its keys can be rotated."""
    secret = desk.folder / "secret"
    secret.write_text("ab" * 32 + "\n")
    secret.chmod(0o600)
    monkeypatch.delenv("DEID_HOOKS_SECRET")
    monkeypatch.setenv("DEID_HOOKS_SECRET_FILE", str(secret))
    return desk


def rotate(site: Desk) -> Answer:
    done = site("rotate", *WHY)
    assert done.code == 0, done.err
    return done


def is_whole(site: Desk) -> bool:
    return site("verify").err.startswith("The log is whole")


def test_a_block_from_before_stops_an_upload_after_a_rotation(site: Desk) -> None:
    (site.folder / "numbers.txt").write_text("4711\tA\n")
    site("block", "--patient-id", "@numbers.txt", *WHY)
    rotate(site)
    refused = site.upload(of_issuer(site.folder / "a", "A"))
    assert refused.code == 3
    assert "blocked" in refused.rows[0]["reason"]
    assert site.upload(of_issuer(site.folder / "b", "BB")).code == 0
    assert site("block", "--patient-id", "@numbers.txt", "--lift", *WHY).code == 0
    assert site.upload(site.folder / "a", to="later").code == 0


def test_a_block_after_a_rotation_stops_what_was_logged_before(site: Desk) -> None:
    log_id = site.upload(CT).rows[0]["log_id"]
    rotate(site)
    site("block", f"id={log_id}", *WHY)
    with (
        DeidHooks.load() as hooks,
        pytest.raises(UploadRefused, match="blocked"),
        hooks.uploading(log_id, "elsewhere"),
    ):
        pass


def test_patients_and_studies_keep_their_pseudonyms(site: Desk) -> None:
    before = site.upload(CT)
    with DeidHooks.load() as hooks:
        key, other = hooks.pseudonyms("TRIAL7").key, hooks.pseudonyms("TRIAL8").key
    rotate(site)
    with DeidHooks.load() as hooks:
        assert hooks.pseudonyms("TRIAL7").key == key
        assert hooks.pseudonyms("TRIAL8").key != other  # nothing of it left before
    assert {row["status"] for row in site.upload(CT).rows} == {"already there"}
    assert site.upload(CT, "--again").rows[0]["log_id"] == before.rows[0]["log_id"]
    site.upload(SERIES / "77654033")
    assert len(site.sql("SELECT DISTINCT deid_PatientID FROM deid_log")) == 1
    assert is_whole(site)


def test_an_older_delivery_comes_back_after_a_rotation(site: Desk) -> None:
    site.upload(CT)
    rotate(site)
    assert site("reidentify", "delivered", "--output", "back", *WHY).code == 0


def test_every_rotation_is_in_the_trail_before_and_after_it(site: Desk) -> None:
    names = [rotate(site).out.split()[1] for _ in range(2)]
    assert (site.folder / "secret").stat().st_mode & 0o777 == 0o600
    rows = site("access", "--format", "jsonl").rows
    actions = [(row["action"], row["asked"]) for row in rows if row["action"] != "access"]
    assert [action for action, _ in actions] == ["rotate", "rotated"] * 2
    assert [asked for action, asked in actions if action == "rotated"] == [
        f"key {name}" for name in names
    ]
    assert is_whole(site)


def test_a_program_that_was_running_goes_on_with_the_new_key(site: Desk) -> None:
    with DeidHooks.load() as hooks:
        hooks.check()
        rotate(site)
        hooks.check()
        assert len(hooks.gate.open_log().keyring.roots) == 2


def test_a_block_that_was_begun_with_the_key_of_before_is_made_with_both(site: Desk) -> None:
    with DeidHooks.load() as hooks:
        log = hooks.gate.open_log()
        log.check()
        rotate(site)
        with pytest.raises(LogUnavailable, match="rotated meanwhile"):
            log.block([("4711", "A")], "", "dpo", "withdrawn")
        assert site.sql("SELECT count(*) FROM deid_log_block") == [(0,)]
        log.block([("4711", "A")], "", "dpo", "withdrawn")
    assert site.sql("SELECT count(*) FROM deid_log_block") == [(2,)]
    assert site.upload(of_issuer(site.folder / "a", "A")).code == 3


def test_a_machine_with_the_secret_of_before_refuses_and_says_why(site: Desk) -> None:
    secret = site.folder / "secret"
    old = secret.read_text()
    rotate(site)
    secret.write_text(old)
    refused = site.upload(CT)
    assert refused.code == 69
    assert "its keys were rotated" in refused.err
    assert not (site.folder / "delivered").exists()


@pytest.mark.parametrize("moment", ["before the key is written", "after the key is written"])
def test_a_rotation_that_was_killed_leaves_one_key_that_counts(
    site: Desk, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    def be_killed(keyring: Keyring, path: Path) -> None:
        if moment.startswith("after"):
            replace_keyring(keyring, path)
        raise KeyboardInterrupt

    (site.folder / "numbers.txt").write_text("4711\tA\n")
    site("block", "--patient-id", "@numbers.txt", *WHY)
    with monkeypatch.context() as patch:
        patch.setattr("deid_hooks.admin.rotation.replace_keyring", be_killed)
        assert site("rotate", *WHY).code == 130
    assert site.upload(CT).code == 0
    assert site.upload(of_issuer(site.folder / "a", "A"), to="refused").code == 3
    assert is_whole(site)
    rotate(site)
    assert is_whole(site)


def test_keys_in_the_environment_are_not_rotated(desk: Desk) -> None:
    refused = desk("rotate", *WHY)
    assert refused.code == 2
    assert "DEID_HOOKS_SECRET" in refused.err
    assert desk.trail() == []


@pytest.fixture
def lost(site: Desk) -> Desk:
    """A site that lost its secret, with a delivery and a blocked patient."""
    site.upload(CT)
    (site.folder / "numbers.txt").write_text("4711\tA\n")
    site("block", "--patient-id", "@numbers.txt", "--reason", "withdrawn")
    (site.folder / "secret").unlink()
    return site


def test_without_the_lost_secret_uploads_wait_for_a_word_on_each_block(lost: Desk) -> None:
    missing = lost.upload(MR)
    assert missing.code == 69
    assert "rotate --lost" in missing.err
    done = lost("rotate", "--lost", *WHY)
    assert done.code == 0
    assert "withdrawn" in done.out
    waiting = lost.upload(MR)
    assert waiting.code == 69
    assert "rotate --lost" in waiting.err
    assert "withdrawn" in lost("rotate", "--lost", *WHY).out  # the list, once more
    lost("block", "--patient-id", "@numbers.txt", "--reason", "withdrawn")
    assert lost("rotate", "--release-blocks", *WHY).out.startswith("Lifted: 1")
    assert lost.upload(MR).code == 0
    assert lost.upload(of_issuer(lost.folder / "a", "A"), to="refused").code == 3


def test_a_secret_is_lost_with_its_folder(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.upload(CT)
    monkeypatch.delenv("DEID_HOOKS_SECRET")
    monkeypatch.setenv("DEID_HOOKS_SECRET_FILE", str(desk.folder / "gone" / "secret"))
    assert desk("rotate", "--lost", *WHY).code == 0
    assert desk("verify").code == 0


def test_what_was_logged_with_a_lost_key_is_still_found_and_brought_back(lost: Desk) -> None:
    [(label,)] = lost.sql("SELECT DISTINCT deid_PatientID FROM deid_log")
    lost("rotate", "--lost", *WHY)
    lost("rotate", "--release-blocks", *WHY)
    assert lost("reidentify", "delivered", "--output", "back", *WHY).code == 0
    with DeidHooks.load() as hooks:
        assert hooks.subject("TRIAL7", "77654033") == label
    verified = lost("verify")
    assert verified.code == 0
    assert "was lost" in verified.err


def test_a_log_that_was_altered_gets_no_new_key(lost: Desk, tmp_path: Path) -> None:
    lost.sql("UPDATE deid_log_upload SET destination = 'elsewhere'")
    refused = lost("rotate", "--lost", *WHY)
    assert refused.code == 69
    assert "altered" in refused.err
    assert not (lost.folder / "secret").exists()


def test_no_key_is_declared_lost_that_is_there(site: Desk) -> None:
    site.upload(CT)
    before = (site.folder / "secret").read_text()
    assert site("rotate", "--lost", *WHY).out.startswith("0 keys")
    assert (site.folder / "secret").read_text() == before


def test_a_history_is_imported_once_whatever_keys_were_rotated(site: Desk) -> None:
    (site.folder / "map.csv").write_text('"Original PtID","Trial PtID"\n"4711","S1"\n')
    assert site("import", "map.csv").code == 0
    [(before,)] = site.sql("SELECT id FROM deid_log")
    rotate(site)
    assert "1 there already" in site("import", "map.csv").err
    site("forget", before, "--yes", *WHY)
    site("import", "map.csv")
    assert site.sql("SELECT count(*) FROM deid_log") == [(0,)]


def test_an_export_of_before_is_imported_after(site: Desk) -> None:
    site.upload(CT)
    part = site("export", "PatientID=77654033", "--format", "jsonl", *WHY).out
    (site.folder / "part.jsonl").write_text(part)
    rotate(site)
    assert site("import", "part.jsonl").code == 0
