"""A log that is taken away in the middle of a run: nothing leaves that no log knows."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.whole.site import LOG, SERIES, Site, rows

SOURCE = SERIES / "77654033"  # four series
LOG_FOLDER = Path(LOG).parent

HARMS = {
    "deleted": "rm log.db log.db-wal log.db-shm",
    "replaced": "cp {other} new.db; rm log.db-wal log.db-shm; mv new.db log.db",
    "overwritten in place": "cp {other} log.db",
    "robbed of its -wal": "rm log.db-wal log.db-shm",
}
MOMENTS = ("post_deid", "pre_upload", "post_upload")

HARMFUL = """
import subprocess
from deid_hooks import hookimpl
calls = 0
@hookimpl
def {moment}(event):
    global calls
    calls += 1
    if calls == 2:  # in a process of its own: ours must not open and close the files of the log
        subprocess.run(["sh", "-ec", {script!r}], check=True)
"""
SAVE = """
mkdir saved
cp -p {folder}/log.db {folder}/log.db-wal saved/
find delivered -name '*.dcm' > before.txt
cd {folder}
"""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Site:
    made = Site(tmp_path_factory.mktemp("undisturbed") / "site")
    made.upload(SOURCE)
    made.run("--url", "sqlite:///other.db", "init")
    return made


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("harm", HARMS)
def test_a_log_that_is_taken_away_in_the_middle_of_a_run_lets_nothing_leave_unlogged(
    tmp_path: Path, undisturbed: Site, harm: str, moment: str
) -> None:
    site = Site(tmp_path / "site")
    harming = HARMS[harm].format(other=undisturbed.folder / "other.db")
    script = SAVE.format(folder=LOG_FOLDER) + harming
    site.plug_in(HARMFUL.format(moment=moment, script=script))
    harmed = site.upload(SOURCE)
    # With a log in its place that can be written, what follows is logged there and sent.
    # What a -wal held of the log itself is gone with it, if nothing had moved it before.
    expected = {"deleted": (69,), "robbed of its -wal": (3, 69)}.get(harm, (3,))
    assert harmed.returncode in expected
    assert "Unable to " in harmed.stdout + harmed.stderr
    if harmed.returncode == 3 or harm == "deleted":
        assert "deleted or replaced" in harmed.stdout + harmed.stderr

    left_before = {
        str(Path(line).relative_to("delivered"))
        for line in (site.folder / "before.txt").read_text().splitlines()
    }
    assert left_before or moment != "post_upload"
    delivered = site.files()
    wanted = undisturbed.files()
    assert all(wanted.get(name) == content for name, content in delivered.items())
    assert uids_of(left_before) <= site.logged("saved/log.db")
    left_after = uids_of(delivered.keys() - left_before)
    assert left_after <= (site.logged() if (site.folder / LOG).exists() else set())

    for name in (site.folder / LOG_FOLDER).glob("log.db*"):
        name.unlink()
    shutil.copytree(site.folder / "saved", site.folder / LOG_FOLDER, dirs_exist_ok=True)
    site.unplug()
    report = rows(site.upload(SOURCE).stdout)
    sent_now = [row for row in report if row["status"] == "uploaded"]
    assert len(sent_now) == len(wanted) - len(delivered)
    assert {row["status"] for row in report} <= {"uploaded", "already there"}
    assert site.files() == wanted
    assert site.unlogged() == []
    counts = "SELECT count(*), count(DISTINCT SeriesInstanceUID) FROM deid_log"
    ((entries, series),) = site.sql(counts)
    assert entries == series == 4


def uids_of(paths: set[str]) -> set[str]:
    """The SOP Instance UIDs that delivered files are named by."""
    return {Path(path).name.removesuffix(".dcm") for path in paths}
