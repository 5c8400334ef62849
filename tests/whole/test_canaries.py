"""No identifying value is anywhere but in the source and in the log."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.whole import canaries
from tests.whole.canaries import found_in
from tests.whole.disks import remount, small_disk
from tests.whole.site import LOG, Site, rows

Harm = Callable[[Site, Path], str | None]

LOOKS = """
import os
from pathlib import Path
from deid_hooks import hookimpl

def known_of(process):
    yield Path(f"/proc/{process}/cmdline").read_bytes()
    yield Path(f"/proc/{process}/environ").read_bytes()
    yield Path(f"/proc/{process}/comm").read_bytes()
    for children in Path(f"/proc/{process}/task").glob("*/children"):
        for child in children.read_text().split():
            yield f"child {child} ".encode()
            yield from known_of(child)

@hookimpl
def pre_upload(event):
    Path("processes.txt").write_bytes(b"\\0".join(known_of(os.getpid())))
"""

QUOTES = """
from deid_hooks import hookimpl
@hookimpl
def {hook}(event):
    entry = getattr(event, "entry", None)
    values = (entry.fields, entry.originals, entry.instances[0].uid) if entry else event
    raise ValueError(f"{{values}} Qxsurname^Qxgiven QXPID0042") from KeyError("QXPID0042")
"""

BAD_ENGINE = """
def plugin(argument, pseudonyms):
    def engine(dataset):
        try:
            raise KeyError(str(dataset.PatientName))
        except KeyError:
            raise ValueError(str(dataset))
    return engine
"""

UNPACKED = """
import warnings
from deid_hooks import hookimpl
@hookimpl
def post_deid(event):
    warnings.warn(str(event))
    return event
"""


@pytest.fixture
def source(site: Site) -> Path:
    folder = site.folder / "incoming"
    canaries.write_series(folder)
    return folder


def said(site: Site, *words: str, **variables: str) -> str:
    done = site.run(*words, **variables)
    return done.stdout + done.stderr


def left_behind(site: Site) -> list[str]:
    """Canaries in the temporary folder and at the destination: in names, and in what is there."""
    found: list[str] = []
    for folder in (site.folder / "tmp", site.delivered):
        for path in folder.rglob("*"):
            found += found_in(str(path.relative_to(folder)))
            found += found_in(path.read_bytes()) if path.is_file() else []
    return found


def test_an_upload_shows_no_value_in_its_output_its_processes_or_what_it_delivers(
    site: Site, source: Path
) -> None:
    read = b"".join(path.read_bytes() for path in source.iterdir())
    assert found_in(read) == canaries.needles()
    site.plug_in(LOOKS)
    done = site.upload(source, "--jobs", "2")
    assert done.returncode == 0, done.stderr
    assert found_in(done.stdout + done.stderr) == []
    assert left_behind(site) == []
    assert len(site.files()) == 2
    processes = (site.folder / "processes.txt").read_bytes()
    assert b"child" in processes
    assert b"upload" in processes
    assert found_in(processes) == []
    log_id = rows(done.stdout)[0]["log_id"]
    assert found_in(site.run("show", log_id, "--format", "json").stdout) == canaries.needles()


def test_no_command_shows_a_value_that_it_was_not_asked_for(site: Site, source: Path) -> None:
    site.upload(source)
    (site.folder / "terms.txt").write_text("PatientName=Qxsurname*\n")
    for words in (
        ["init"],
        ["check"],
        ["config"],
        ["plugins"],
        ["pending"],
        ["search", "@terms.txt"],
        ["search", "@terms.txt", "--format", "csv"],
        ["search", "@terms.txt", "--show", "deid:PatientID,project,Modality"],
        ["search", "PatienName=Qxsurname"],
        ["search", "PatientBirthDate=19310417..Qxgiven"],
        ["search", "StudyDate=QXPID0042"],
        ["search", "id=QXPID0042"],
        ["search", "Qxgiven=Qxsurname"],
        ["search", "@missing.txt"],
        ["show", "QXPID0042"],
        ["show", "0" * 32],
        ["upload", str(source), "folder:delivered", "--engine", "missing"],
        ["upload", str(source), "nowhere:x"],
    ):
        assert found_in(said(site, *words)) == [], words
    assert found_in(site.run("search", "@terms.txt", "--show", "PatientName").stdout)


def spoil_the_files(site: Site, source: Path) -> None:
    for number, path in enumerate(source.iterdir()):
        content = path.read_bytes()
        path.write_bytes(content[: 400 + 300 * number])


def spoil_values(site: Site, source: Path) -> None:
    for path in source.iterdir():
        content = path.read_bytes().replace(b"19310417", b"Qxgiven ")
        path.write_bytes(content.replace(b"19990713", b"QXPID004"))


def quote_in_an_engine(site: Site, source: Path) -> str:
    site.plug_in(BAD_ENGINE, group="deid_hooks.engines")
    return "plugged"


def quote_in_post_deid(site: Site, source: Path) -> None:
    site.plug_in(QUOTES.format(hook="post_deid"))


def quote_in_pre_upload(site: Site, source: Path) -> None:
    site.plug_in(QUOTES.format(hook="pre_upload"))


def quote_in_post_upload(site: Site, source: Path) -> None:
    site.plug_in(QUOTES.format(hook="post_upload"))


def answer_with_the_event(site: Site, source: Path) -> None:
    site.plug_in(UNPACKED)


def quote_at_import(site: Site, source: Path) -> None:
    site.plug_in("raise ValueError('Qxsurname^Qxgiven')")


def refuse_in_the_log(site: Site, source: Path) -> None:
    site.change(
        "CREATE TRIGGER quotes BEFORE INSERT ON deid_log"
        " BEGIN SELECT RAISE(ABORT, 'Qxsurname^Qxgiven'); END"
    )


def lose_the_log(site: Site, source: Path) -> None:
    (site.folder / LOG).unlink()


def make_a_setting_wrong(site: Site, source: Path) -> None:
    site.environment["DEID_HOOKS_DEADLINE"] = "long"


def make_the_destination_a_file(site: Site, source: Path) -> None:
    site.delivered.write_text("in the way")


@pytest.mark.parametrize(
    ("harm", "jobs"),
    [
        (spoil_the_files, 1),
        (spoil_the_files, 2),
        (quote_in_an_engine, 1),
        (quote_in_an_engine, 2),
        (quote_in_post_deid, 1),
        (quote_in_pre_upload, 1),
        (answer_with_the_event, 1),
        (quote_at_import, 1),
        (refuse_in_the_log, 1),
        (lose_the_log, 1),
        (make_a_setting_wrong, 1),
        (make_the_destination_a_file, 1),
    ],
)
def test_an_upload_that_fails_shows_no_value(
    site: Site, source: Path, harm: Harm, jobs: int
) -> None:
    engine = harm(site, source) or "basic"
    failed = site.upload(source, "--engine", engine, "--jobs", str(jobs))
    assert failed.returncode != 0
    assert "Traceback" not in failed.stderr
    assert found_in(failed.stdout + failed.stderr) == []
    assert left_behind(site) == []
    assert site.files() == {}


def make_pydicom_warn(site: Site, source: Path) -> None:
    """Of a UID that is none it warns, with the value."""
    uid = canaries.TEXTS["DeviceUID"].encode()
    for path in source.iterdir():
        path.write_bytes(path.read_bytes().replace(uid, b"Qxgiven.QXPID0042.Qxsurname.QX7"))


@pytest.mark.parametrize("harm", [spoil_values, make_pydicom_warn, quote_in_post_upload])
def test_an_upload_with_something_wrong_in_it_shows_no_value(
    site: Site, source: Path, harm: Harm
) -> None:
    harm(site, source)
    done = site.upload(source)
    assert found_in(done.stdout + done.stderr) == []
    assert left_behind(site) == []
    assert len(site.files()) == 2


def test_a_log_without_room_shows_no_value(site: Site, source: Path) -> None:
    with small_disk(site.folder / "small", 400):
        url = f"sqlite:///{site.folder}/small/log.db"
        site.run("--url", url, "init")
        remount(site.folder / "small", "size=150k")
        refused = site.run("--url", url, "upload", str(source), "folder:delivered")
    assert refused.returncode == 69
    assert found_in(refused.stdout + refused.stderr) == []
    assert left_behind(site) == []
