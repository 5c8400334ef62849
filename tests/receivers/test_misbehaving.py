"""Archives that refuse, abort, fall silent or die: the outcome is right, a re-run completes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import UID

from tests.receivers.conftest import PATIENT, archive
from tests.receivers.test_archives import outcomes, statuses
from tests.whole.site import Site, rows

CT = PATIENT / "CT2"
FILES = 4


def send(site: Site, port: int, source: Path = CT) -> tuple[int, Counter[str], set[str]]:
    url = f"dicom://ARCHIVE@127.0.0.1:{port}?timeout=6"
    sent = site.run("upload", str(source), url, "--project", "TRIAL7")
    assert "?" not in "".join(destination for _, destination in outcomes(site))
    reasons = {row["reason"] for row in rows(sent.stdout)} if sent.stdout else set()
    return sent.returncode, statuses(sent.stdout), {*reasons, sent.stderr}


@pytest.mark.parametrize(
    ("how", "uploaded", "outcome", "reason"),
    [
        ("refuses", 0, "failed", "refused it with the status A700"),
        ("refuses some", 2, "partial", "refused it with the status A700"),
        ("aborts at one", 3, "partial", "tried in an association of its own"),
        ("dies", 2, "partial", "run it again"),
        ("answers twice, then refuses", 1, "partial", "tried in an association of its own"),
    ],
)
def test_what_did_not_arrive_is_named_and_sent_by_the_next_run(
    site: Site, port: int, tmp_path: Path, how: str, uploaded: int, outcome: str, reason: str
) -> None:
    folder = tmp_path / "received"
    with archive(port, folder, how):
        code, found, reasons = send(site, port)
    assert (code, found) == (3, Counter(uploaded=uploaded, failed=FILES - uploaded))
    assert any(reason in each for each in reasons), reasons
    assert {event for event, _ in outcomes(site)} == {outcome}
    with archive(port, folder):
        code, found, _ = send(site, port)
    assert (code, found["failed"]) == (0, 0)
    assert {path.stem for path in folder.iterdir()} == site.logged()
    assert {event for event, _ in outcomes(site)} == {"uploaded"}


@pytest.mark.parametrize("how", ["aborts", pytest.param("says nothing", marks=pytest.mark.ci)])
def test_a_file_at_which_the_association_is_lost_once_is_tried_again(
    site: Site, port: int, tmp_path: Path, how: str
) -> None:
    with archive(port, tmp_path / "received", how):
        code, found, reasons = send(site, port)
    assert (code, found) == (0, Counter(uploaded=FILES)), reasons
    assert {path.stem for path in (tmp_path / "received").iterdir()} == site.logged()


def test_a_warning_counts_as_delivered_and_is_told(site: Site, port: int, tmp_path: Path) -> None:
    with archive(port, tmp_path / "received", "warns"):
        code, found, reasons = send(site, port)
    assert (code, found) == (0, Counter(uploaded=FILES))
    assert any("warning B000" in each for each in reasons)


def test_a_duplicate_counts_as_there(site: Site, port: int, tmp_path: Path) -> None:
    with archive(port, tmp_path / "received", "knows it"):
        code, found, _ = send(site, port)
    assert (code, found) == (0, {"already there": FILES})


def test_a_slow_archive_is_waited_for(site: Site, port: int, tmp_path: Path) -> None:
    with archive(port, tmp_path / "received", "is slow"):
        code, found, _ = send(site, port)
    assert (code, found) == (0, Counter(uploaded=FILES))


def test_a_class_that_the_archive_does_not_take_is_named(
    site: Site, port: int, tmp_path: Path
) -> None:
    with archive(port, tmp_path / "received", "takes CT only"):
        code, found, reasons = send(site, port, PATIENT)
    assert code == 3
    assert found["uploaded"] > found["failed"] > 0
    assert any("takes no Computed Radiography" in each for each in reasons)


@pytest.mark.parametrize("how", ["rejects", None])
def test_an_archive_that_is_not_there_or_wants_nobody_is_found_before_a_file_is_read(
    site: Site, port: int, tmp_path: Path, how: str | None
) -> None:
    if how:
        with archive(port, tmp_path / "received", how):
            code, found, said = send(site, port)
    else:
        code, found, said = send(site, port)
    assert (code, found) == (1, Counter())
    assert any("Nothing was sent." in each for each in said)
    assert any("rejected" in each or "can't be reached" in each for each in said), said
    assert site.logged() == set()


@pytest.mark.parametrize("host", ["a..b", "a" * 70])
def test_a_host_that_can_be_none_is_wrong_use(site: Site, host: str) -> None:
    done = site.run("upload", str(CT), f"dicom://ARCHIVE@{host}:104")
    assert (done.returncode, done.stdout) == (2, "")
    assert "is named as dicom://" in done.stderr


@pytest.mark.filterwarnings("ignore")
def test_a_class_that_is_none_is_named_and_the_others_are_sent(
    site: Site, port: int, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number, path in enumerate(sorted(CT.iterdir())):
        dataset = dcmread(path)
        if number == 0:
            dataset.SOPClassUID = UID("1." * 40 + "1")
            dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        dataset.save_as(source / path.name)
    with archive(port, tmp_path / "received"):
        sent = site.run("upload", str(source), f"dicom://ARCHIVE@127.0.0.1:{port}")
    assert statuses(sent.stdout) == Counter(uploaded=FILES - 1, failed=1)
    assert (sent.returncode, sent.stderr) == (3, "4 files: 1 failed, 3 uploaded\n")


def test_a_file_that_says_no_class_is_named_and_the_others_are_sent(
    site: Site, port: int, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number, path in enumerate(sorted(CT.iterdir())):
        dataset = dcmread(path)
        if number == 0:
            del dataset.SOPClassUID, dataset.file_meta.MediaStorageSOPClassUID
        dataset.save_as(source / path.name)
    with archive(port, tmp_path / "received"):
        code, found, reasons = send(site, port, source)
    assert (code, found) == (3, Counter(uploaded=FILES - 1, failed=1))
    assert any("does not say its SOP class" in each for each in reasons)


def test_what_an_engine_forgot_in_the_file_meta_information_is_not_announced(
    site: Site, port: int, tmp_path: Path
) -> None:
    engine = (
        "def plugin(argument, pseudonyms):\n"
        "    def engine(dataset):\n"
        "        dataset.SOPInstanceUID = pseudonyms.uid(dataset.SOPInstanceUID)\n"
        "    return engine\n"
    )
    site.plug_in(engine, "deid_hooks.engines", "forgetful")
    url = f"dicom://ARCHIVE@127.0.0.1:{port}"
    with archive(port, tmp_path / "received"):
        sent = site.run("upload", str(CT), url, "--engine", "forgetful")
    assert sent.returncode == 0, sent.stderr
    assert {path.stem for path in (tmp_path / "received").iterdir()} == site.logged()
