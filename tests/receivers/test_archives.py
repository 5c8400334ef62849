"""Real archives: what was cleared is there, each in the log, and a re-run sends nothing twice."""

from __future__ import annotations

import sqlite3
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
from pydicom import dcmread

from tests.needed import program
from tests.orthanc import DICOM, DICOMWEB, Orthanc
from tests.receivers.conftest import PATIENT, free_port
from tests.whole.site import LOG, Site, rows

WAYS = {"dicom": DICOM, "dicomweb": DICOMWEB}


def statuses(output: str) -> Counter[str]:
    return Counter(row["status"] for row in rows(output))


def outcomes(site: Site) -> set[tuple[str, str]]:
    with sqlite3.connect(site.folder / LOG) as connection:
        latest = "SELECT event, destination, max(seq) FROM deid_log_upload GROUP BY log_id"
        return {(event, destination) for event, destination, _ in connection.execute(latest)}


def forget_the_outcomes(site: Site) -> None:
    """As if the uploader had been killed before it could record them."""
    with sqlite3.connect(site.folder / LOG) as connection:
        connection.execute("DELETE FROM deid_log_upload WHERE event != 'cleared'")


@pytest.mark.parametrize("way", ["dicom", pytest.param("dicomweb", marks=pytest.mark.ci)])
def test_orthanc_holds_what_was_cleared_and_nothing_is_sent_twice(
    networked: Site, orthanc: Orthanc, way: str
) -> None:
    sent = networked.run("upload", str(PATIENT), WAYS[way], "--project", "TRIAL7")
    assert sent.returncode == 0, sent.stderr
    files = statuses(sent.stdout)["uploaded"]
    assert orthanc.instances() == networked.logged()
    assert len(orthanc.instances()) == files > 3
    assert outcomes(networked) == {("uploaded", WAYS[way])}

    again = networked.run("upload", str(PATIENT), WAYS[way], "--project", "TRIAL7")
    assert statuses(again.stdout) == {"already there": files}

    on_purpose = networked.run(
        *("upload", str(PATIENT), WAYS[way], "--project", "TRIAL7", "--again")
    )
    assert statuses(on_purpose.stdout) == {"uploaded": files}

    forget_the_outcomes(networked)
    received = orthanc.ask("/changes?last")["Last"]
    resumed = networked.run("upload", str(PATIENT), WAYS[way], "--project", "TRIAL7")
    assert statuses(resumed.stdout) == {"already there": files}, "it was looked for and found"
    assert orthanc.ask("/changes?last")["Last"] == received
    assert outcomes(networked) == {("uploaded", WAYS[way])}


@pytest.mark.parametrize("way", ["dicom", pytest.param("dicomweb", marks=pytest.mark.ci)])
def test_what_is_missing_at_the_archive_is_sent_by_the_next_run(
    networked: Site, orthanc: Orthanc, way: str
) -> None:
    sent = networked.run("upload", str(PATIENT), WAYS[way], "--project", "TRIAL7")
    assert sent.returncode == 0, sent.stderr
    there = orthanc.instances()
    [gone, *_] = orthanc.ask("/instances")
    orthanc.delete(f"/instances/{gone}")
    forget_the_outcomes(networked)
    resumed = networked.run("upload", str(PATIENT), WAYS[way], "--project", "TRIAL7")
    assert statuses(resumed.stdout)["uploaded"] == 1
    assert orthanc.instances() == there


@pytest.mark.parametrize("takes", ["+xa", "+xi"], ids=["all syntaxes", "implicit VR only"])
def test_storescp_gets_the_files_as_they_were_de_identified(
    site: Site, tmp_path: Path, takes: str
) -> None:
    port, folder = free_port(), tmp_path / "received"
    folder.mkdir()
    receiver = subprocess.Popen(
        [program("/usr/bin/storescp"), "-od", str(folder), "-aet", "SCP", takes, str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        time.sleep(0.5)
        sent = site.run("upload", str(PATIENT), f"dicom://SCP@127.0.0.1:{port}", "--jobs", "2")
        assert sent.returncode == 0, sent.stderr
    finally:
        receiver.terminate()
        receiver.wait()
    received = [dcmread(path, force=True) for path in folder.iterdir()]
    assert {str(dataset.SOPInstanceUID) for dataset in received} == site.logged()
    assert all("Archibald" not in str(dataset.PatientName) for dataset in received)
