"""De-identified files come home: whole, private, each look recorded, nothing overwritten."""

from __future__ import annotations

import os
import shutil
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom import Dataset, dcmread

from deid_hooks.engines import renew_file_meta
from tests.admin.conftest import SERIES, Desk
from tests.dicom.files import Leaves, leaves
from tests.dicom.handmade import description, even, explicit, identity, image, meta

DATA = Path(pydicom.__file__).parent / "data"
E_1_2 = ("00120062", "00120063", "00120064")


def told(dataset: Dataset) -> str:
    """Every element but the three that a re-identifier has to set (PS3.15, section E.1.2)."""
    found: Leaves = leaves(dataset)
    return repr(sorted((k, v) for k, v in found.items() if not k.startswith(E_1_2)))


def files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("engine", ["basic", "dicognito"])
def test_every_file_comes_back_element_by_element(desk: Desk, engine: str) -> None:
    sent = desk.upload(DATA / "test_files", "--engine", engine).rows
    originals = {told(dcmread(row["file"], force=True)) for row in sent if row["log_id"]}
    back = desk("reidentify", "delivered", "--output", "back").rows
    assert len(back) == len(files_in(desk.folder / "delivered")) > 100
    restored = [row for row in back if row["status"] == "restored" and not row["reason"]]
    for row in restored:
        assert told(dcmread(row["output"], force=True)) in originals
    # What is left shares its UID with others, or had its pixels altered: never guessed.
    left = [row for row in back if row not in restored]
    assert all("holds another instance with its UID" in row["reason"] for row in left)
    assert len(left) < 25


def test_the_file_says_that_its_identity_is_back(delivered: Desk) -> None:
    sent = [dcmread(path) for path in files_in(delivered.folder / "delivered")]
    assert all(each.PatientIdentityRemoved == "YES" for each in sent)
    delivered("reidentify", "delivered", "--output", "back")
    for path in files_in(delivered.folder / "back"):
        dataset = dcmread(path)
        assert dataset.PatientName == "Doe^Archibald"
        assert dataset.PatientIdentityRemoved == "NO"
        assert "DeidentificationMethod" not in dataset
        assert "DeidentificationMethodCodeSequence" not in dataset


@pytest.mark.parametrize("stamp", ["private", "equipment"])
def test_a_stamp_is_gone_with_the_pseudonyms(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, stamp: str
) -> None:
    monkeypatch.setenv("DEID_HOOKS_STAMP", stamp)
    desk.upload(SERIES / "77654033" / "CT2")
    desk("reidentify", "delivered", "--output", "back")
    originals = {told(dcmread(path)) for path in (SERIES / "77654033" / "CT2").iterdir()}
    assert {told(dcmread(path)) for path in files_in(desk.folder / "back")} == originals


def test_every_entry_that_was_used_is_in_the_trail_before_a_file_is_written(
    delivered: Desk,
) -> None:
    delivered("reidentify", "delivered", "--output", "back", "--reason", "finding")
    looks = [row for row in delivered("access").rows if row["action"] == "reidentify"]
    assert {log_id for row in looks for log_id in row["log_ids"]} == {
        log_id for (log_id,) in delivered.sql("SELECT id FROM deid_log")
    }
    assert {row["reason"] for row in looks} == {"finding"}
    delivered.sql(
        "CREATE TRIGGER full BEFORE INSERT ON deid_log_access BEGIN SELECT RAISE(ABORT, 'no'); END"
    )
    refused = delivered("reidentify", "delivered", "--output", "again")
    assert (refused.code, files_in(delivered.folder / "again")) == (69, [])


def test_originals_are_their_owners_only(delivered: Desk) -> None:
    before = os.umask(0)
    try:
        delivered("reidentify", "delivered", "--output", "back")
    finally:
        os.umask(before)
    folders = {path.parent for path in files_in(delivered.folder / "back")}
    assert {path.stat().st_mode & 0o777 for path in files_in(delivered.folder / "back")} == {0o600}
    assert {folder.stat().st_mode & 0o777 for folder in folders} == {0o700}
    assert (delivered.folder / "back").stat().st_mode & 0o777 == 0o700


def test_nothing_is_overwritten(delivered: Desk) -> None:
    (delivered.folder / "back").mkdir()
    refused = delivered("reidentify", "delivered", "--output", "back")
    assert (refused.code, files_in(delivered.folder / "back")) == (2, [])
    assert "exists already" in refused.err
    first, *_ = files_in(delivered.folder / "delivered")
    twice = delivered("reidentify", first, first, "--output", "twice").rows
    assert [Path(row["output"]).name for row in twice] == [first.name, f"{first.stem}-2.dcm"]


def test_an_output_folder_within_the_input_or_nowhere_is_refused(delivered: Desk) -> None:
    assert delivered("reidentify", "delivered", "--output", "delivered/back").code == 2
    assert delivered("reidentify", "delivered", "--output", "no/where").code == 2


def test_what_the_log_does_not_know_is_named_and_the_rest_is_done(delivered: Desk) -> None:
    source = delivered.folder / "source"
    shutil.copytree(delivered.folder / "delivered", source)
    shutil.copy(SERIES / "77654033" / "CT2" / "17106", source / "unknown.dcm")
    (source / "notes.txt").write_text("Doe")
    [known, *_] = files_in(delivered.folder / "delivered")
    (source / "half.dcm").write_bytes(known.read_bytes()[:-100])
    back = delivered("reidentify", "source", "--output", "back")
    assert back.code == 3
    status = {Path(row["file"]).name: row["status"] for row in back.rows}
    assert status["unknown.dcm"] == "not found"
    assert status["notes.txt"] == "no DICOM"
    assert status["half.dcm"] == "refused"
    assert sum(s == "restored" for s in status.values()) == 7
    assert len(files_in(delivered.folder / "back")) == 7
    assert delivered("reidentify", source / "unknown.dcm", "--output", "none").code == 1


def test_what_is_passed_over_is_named_too(delivered: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    source = delivered.folder / "delivered"
    (source / "locked").mkdir()
    (source / "elsewhere").symlink_to(source / "locked")
    os.mkfifo(source / "fifo")
    listed = os.scandir

    def scandir(path: str | Path) -> Any:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    back = delivered("reidentify", "delivered", "--output", "back")
    assert back.code == 3
    told = {Path(row["file"]).name: (row["status"], row["reason"]) for row in back.rows}
    assert told["locked"] == ("failed", "it can't be read: permission denied")
    assert told["elsewhere"] == ("refused", "a link to a folder is not followed")
    assert told["fifo"] == ("no DICOM", "neither a file nor a folder")
    assert "7 restored" in back.err
    alone = delivered("reidentify", source / "fifo", "--output", "none")
    assert (alone.code, alone.rows[0]["status"]) == (1, "no DICOM")


def test_what_was_not_logged_is_named(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEID_HOOKS_POLICY", "identifying")
    desk.upload(SERIES / "77654033" / "CT2")
    back = desk("reidentify", "delivered", "--output", "back")
    assert back.code == 3
    assert "AcquisitionDate" in back.rows[0]["not_restored"]
    assert dcmread(back.rows[0]["output"]).PatientName == "Doe^Archibald"


def test_pixels_that_an_engine_altered_are_delivered_and_said_to_stay(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def alter(dataset: Dataset) -> None:
        renew_file_meta(dataset)
        dataset.PixelData = bytes(len(dataset.PixelData))

    monkeypatch.setattr("deid_hooks.engines.basic.renew_file_meta", alter)
    sent = desk.upload(SERIES / "77654033" / "CT2")
    assert sent.code == 0
    assert {row["reason"] for row in sent.rows} == {
        "the log does not hold the originals of PixelData"
    }
    back = desk("reidentify", "delivered", "--output", "back")
    assert back.code == 3
    assert {row["reason"].partition(":")[0] for row in back.rows} == {"pixels as delivered"}
    assert dcmread(back.rows[0]["output"]).PatientName == "Doe^Archibald"


def test_a_value_over_the_limit_refuses_its_file_unless_the_site_wants_it_sent(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEID_HOOKS_LARGE_VALUES", "1")
    (desk.folder / "source").mkdir()
    document = explicit(0x00420011, "OB", bytes(1_200_000))
    (desk.folder / "source" / "1.dcm").write_bytes(meta() + identity() + document)
    refused = desk.upload(desk.folder / "source")
    assert refused.code == 3
    assert "EncapsulatedDocument is changed and has more bytes" in refused.rows[0]["reason"]
    assert files_in(desk.folder / "delivered") == []
    monkeypatch.setenv("DEID_HOOKS_NOT_KEPT", "log")
    sent = desk.upload(desk.folder / "source")
    assert "the originals of EncapsulatedDocument" in sent.rows[0]["reason"]
    back = desk("reidentify", "delivered", "--output", "back")
    assert (back.code, back.rows[0]["not_restored"]) == (3, ["EncapsulatedDocument"])


def test_one_image_in_two_entries_that_agree_is_restored(desk: Desk) -> None:
    source = desk.folder / "source"
    shutil.copytree(SERIES / "77654033" / "CT2", source)
    first, *_ = files_in(source)
    first.rename(desk.folder / "later.dcm")
    desk.upload(source)
    (desk.folder / "later.dcm").rename(first)
    desk.upload(source)
    assert desk.sql("SELECT count(*) FROM deid_log") == [(2,)]
    back = desk("reidentify", "delivered", "--output", "back").rows
    assert {row["status"] for row in back} == {"restored"}


def test_entries_that_differ_about_an_image_are_named_and_not_guessed(desk: Desk) -> None:
    source = desk.folder / "source"
    shutil.copytree(SERIES / "77654033" / "CT2", source)
    desk.upload(source)
    for path in files_in(source):
        dataset = dcmread(path)
        dataset.PatientName = "Roe^Jane"
        dataset.save_as(path)
    desk.upload(source)
    back = desk("reidentify", "delivered", "--output", "back")
    assert {row["status"] for row in back.rows} == {"refused"}
    ids = [log_id for (log_id,) in desk.sql("SELECT id FROM deid_log")]
    assert all(log_id in back.rows[0]["reason"] for log_id in ids)
    assert "Roe" not in back.out


# Several entries, or instances, that hold one UID


def put(desk: Desk, *contents: bytes) -> Path:
    """A folder of these files."""
    source = desk.folder / "source"
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir()
    for number, content in enumerate(contents, 1):
        (source / f"{number}.dcm").write_bytes(content)
    return source


def names(rows: list[dict[str, Any]]) -> list[str]:
    return sorted(str(dcmread(row["output"]).PatientName) for row in rows if row["output"])


def test_a_harmless_re_send_takes_no_way_back_away(desk: Desk) -> None:
    desk.upload(put(desk, image()))
    (first,) = desk.sql("SELECT id FROM deid_log")
    title = explicit(0x00020016, "AE", "OTHER ")
    others = [
        meta(more=title) + image()[len(meta()) :],
        b"\1" * 128 + image()[128:],
        image().replace(even("Testcase^Canary").encode(), b"Testcase^Canary\0"),
    ]
    for other in others:
        assert [row["status"] for row in desk.upload(put(desk, other)).rows] == ["already there"]
    back = desk("reidentify", "delivered", "--output", "back")
    assert back.code == 0
    (row,) = back.rows
    assert (row["status"], row["log_id"]) == ("restored", first[0])
    assert row["reason"].count(",") == 2
    assert "in file meta information or padding only" in row["reason"]
    assert told(dcmread(row["output"])) == told(dcmread(BytesIO(image())))


def test_the_label_in_the_file_decides_for_a_corrected_patient(desk: Desk) -> None:
    desk.upload(put(desk, image()))
    corrected = image(name="Corrected^Canary").replace(b"CANARY-77", b"CANARY-78")
    desk.upload(put(desk, corrected))
    back = desk("reidentify", "delivered", "--output", "back")
    assert names(back.rows) == ["Corrected^Canary", "Testcase^Canary"]


def test_one_uid_in_two_series_is_two_files_that_come_back(desk: Desk) -> None:
    other = meta() + identity(series="22") + description() + explicit(0x7FE00010, "OW", bytes(64))
    desk.upload(put(desk, image(series="21"), other))
    back = desk("reidentify", "delivered", "--output", "back")
    pixels = sorted(dcmread(row["output"]).PixelData for row in back.rows)
    assert pixels == [bytes(64), bytes(range(64))]


def test_where_a_file_is_decides_and_else_the_administrator(desk: Desk) -> None:
    desk.upload(put(desk, image()))
    desk.upload(put(desk, image(name="Corrected^Canary")), to="later")
    for folder, name in (("delivered", "Testcase^Canary"), ("later", "Corrected^Canary")):
        back = desk("reidentify", folder, "--output", f"back-{folder}")
        assert names(back.rows) == [name]
    shutil.copytree(desk.folder / "later", desk.folder / "elsewhere")
    refused = desk("reidentify", "elsewhere", "--output", "none")
    ids = [log_id for (log_id,) in desk.sql("SELECT id FROM deid_log")]
    assert all(log_id in refused.rows[0]["reason"] for log_id in ids)
    assert "Canary" not in refused.out
    for number, log_id in enumerate(ids):
        back = desk("reidentify", "elsewhere", "--output", f"by-{number}", "--entry", log_id)
        assert back.rows[0]["log_id"] == log_id
    assert desk("reidentify", "elsewhere", "--output", "no", "--entry", "x").code == 2
    other = desk("reidentify", "elsewhere", "--output", "no", "--entry", "0" * 12 + "4" * 20)
    assert "does not hold it" in other.rows[0]["reason"] if other.rows else other.code == 2


def test_what_could_not_be_told_apart_is_not_delivered(desk: Desk) -> None:
    before = image(more_8=explicit(0x0008103E, "LO", even("before correction")))
    after = image(more_8=explicit(0x0008103E, "LO", even("after correction")))
    sent = desk.upload(put(desk, before, after, before))
    assert sorted(row["status"] for row in sent.rows) == ["already there", "refused", "uploaded"]
    assert "differs from it in what is removed" in sent.out
    assert "correction" not in sent.out + sent.err
    back = desk("reidentify", "delivered", "--output", "back")
    assert {row["status"] for row in back.rows} == {"restored"}
    assert dcmread(back.rows[0]["output"]).SeriesDescription == "before correction"


def test_of_many_files_with_one_uid_a_few_are_told_apart(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deid_hooks.uploader.upload._MOST_ALIKE", 2)
    number = explicit(0x00200013, "IS", "1 ")
    images = [image().replace(number, explicit(0x00200013, "IS", f"{n} ")) for n in range(4)]
    sent = desk.upload(put(desk, *images)).rows
    assert [row["status"] for row in sent].count("uploaded") == 2
    assert all("more are not told apart" in row["reason"] for row in sent[:2])
    back = desk("reidentify", "delivered", "--output", "back").rows
    assert {str(dcmread(row["output"]).InstanceNumber) for row in back} == {"0", "1"}


def test_an_entry_that_was_altered_in_the_store_restores_nothing(delivered: Desk) -> None:
    delivered.sql("UPDATE deid_log SET PatientName = 'Roe^Jane', originals = '{}'")
    back = delivered("reidentify", "delivered", "--output", "back")
    assert {row["status"] for row in back.rows} == {"refused"}
    assert "altered" in back.rows[0]["reason"]
