"""What the command line prints, where, and how it ends."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from deid_hooks.records.model import parse_log_id
from tests.whole.site import PROGRAM, SERIES, Site, rows
from tests.whole.terminal import on_a_terminal

SOURCE = SERIES / "77654033"  # four series
NAME = "Doe^Archibald"


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A site with four entries, one of them pending."""
    made = Site(tmp_path_factory.mktemp("filled") / "site")
    made.upload(SOURCE)
    made.change("DELETE FROM deid_log_upload WHERE seq = (SELECT max(seq) FROM deid_log_upload)")
    return made


def of_json(text: str) -> list[Any]:
    found = json.loads(text)
    return found if isinstance(found, list) else [found]


def of_csv(text: str) -> list[Any]:
    return list(csv.DictReader(text.splitlines()))


def of_ids(text: str) -> list[Any]:
    return [{"id": line} for line in text.splitlines() if parse_log_id(line)]


def of_table(text: str) -> list[Any]:
    _, _, *lines = text.splitlines()
    return [{"id": line.split()[0]} for line in lines]


FORMATS = {"json": of_json, "jsonl": rows, "csv": of_csv, "ids": of_ids, "table": of_table}
COMMANDS = {
    "search": (["search", "PatientName=Doe*", "--show", "PatientName,Modality"], 4),
    "pending": (["pending"], 1),
}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_list_has_the_same_ids_in_every_format(filled: Site, command: str, form: str) -> None:
    words, wanted = COMMANDS[command]
    done = filled.run(*words, "--format", form)
    found = FORMATS[form](done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    known = {log_id for (log_id,) in filled.sql("SELECT id FROM deid_log")}
    ids = {row["id"] for row in found}
    assert len(found) == len(ids) == wanted
    assert ids <= known


@pytest.mark.parametrize("form", FORMATS)
def test_an_entry_is_shown_in_every_format(filled: Site, form: str) -> None:
    ((log_id,), *_) = filled.sql("SELECT id FROM deid_log WHERE PatientName = 'Doe^Archibald'")
    done = filled.run("show", log_id, "--format", form)
    assert (done.returncode, done.stderr) == (0, "")
    assert log_id in done.stdout
    assert (NAME in done.stdout) == (form != "ids")
    if form in ("json", "jsonl", "csv"):
        assert FORMATS[form](done.stdout)


def test_a_pipe_gets_json_lines_and_a_terminal_a_table_of_its_width(filled: Site) -> None:
    words = ("search", "PatientName=Doe*", "--show", "PatientName,StudyInstanceUID")
    piped = rows(filled.run(*words).stdout)
    assert {row["PatientName"] for row in piped} == {NAME}
    code, shown = on_a_terminal(filled, *words, columns=60)
    lines = shown.splitlines()
    assert code == 0
    assert lines[0].split()[:2] == ["id", "PatientName"]
    assert len(lines) == 2 + len(piped)
    assert max(map(len, lines)) <= 60


def test_progress_is_shown_on_a_terminal_only(site: Site) -> None:
    code, shown = on_a_terminal(site, "upload", str(SOURCE), "folder:shown")
    assert code == 0
    assert "Uploading" in shown
    assert "100%" in shown
    piped = site.run("upload", str(SOURCE), "folder:piped")
    assert "Uploading" not in piped.stdout + piped.stderr
    assert all(json.loads(line) for line in piped.stdout.splitlines())
    assert "7 uploaded" in piped.stderr


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["search", "Nobody"], 1),
        (["show", "0" * 32], 1),
        (["search", "PatienName=x"], 2),
        (["search", "PatientName=Doe*", "--format", "xml"], 2),
        (["show", "nonsense"], 2),
        (["upload", ".", "nowhere:x"], 2),
        (["upload", "missing", "folder:delivered"], 2),
        (["frobnicate"], 2),
        (["--url", "nothing:x", "check"], 2),
        (["--url", "sqlite:///missing.db", "check"], 69),
        (["--url", "sqlite:///missing.db", "search", "Doe"], 69),
        (["--url", "sqlite:///missing.db", "pending"], 69),
    ],
)
def test_what_went_wrong_is_the_exit_code_and_on_standard_error_only(
    filled: Site, words: list[str], code: int
) -> None:
    done = filled.run(*words)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_of_which_some_was_refused_ends_with_three(filled: Site) -> None:
    source = filled.folder / "some"
    (source / "good").mkdir(parents=True)
    for path in (SOURCE / "CR1").iterdir():
        (source / "good" / path.name).write_bytes(path.read_bytes())
        (source / "cut.dcm").write_bytes(path.read_bytes()[:1000])
    done = filled.upload(source)
    assert done.returncode == 3
    assert {row["status"] for row in rows(done.stdout)} == {"already there", "refused"}


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("form", ["json", "jsonl", "table"])
def test_who_has_read_enough_ends_a_command_in_silence(
    filled: Site, form: str, unbuffered: str
) -> None:
    words = ["search", "PatientName=Doe*", "--show", "PatientName", "--format", form]
    assert without_a_reader(filled, words, PYTHONUNBUFFERED=unbuffered) == (0, "")


@pytest.mark.parametrize("words", [["--help"], ["stats"]], ids=" ".join)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_under_standard_output_is_told_in_words(
    filled: Site, words: list[str], unbuffered: str
) -> None:
    to_full_disk = ["sh", "-c", 'exec "$@" > /dev/full', "sh"]
    process = filled.start(*words, before=to_full_disk, PYTHONUNBUFFERED=unbuffered)
    _, told = process.communicate(timeout=60)
    assert (process.returncode, told.count("no space left on device")) == (1, 1)
    assert told.startswith("Standard output can't be written")


def test_init_names_where_the_secret_is(site: Site) -> None:
    assert "secret  of the variable DEID_HOOKS_SECRET\n" in site.run("init").stdout
    shown = site.run("--url", "sqlite:///other.db", "init", DEID_HOOKS_SECRET="").stdout
    assert Path(shown.split("secret  ")[1].strip()).is_file()


def test_who_has_read_enough_of_the_answers_to_a_list_ends_them_in_silence(filled: Site) -> None:
    (filled.folder / "many.csv").write_text("PatientID\n" + "77654033\n" * 2000)
    words = ["search", "--from", "many.csv"]
    assert without_a_reader(filled, words, PYTHONUNBUFFERED="1") == (0, "")


@pytest.mark.parametrize(
    "words",
    [["search", "-"], ["search", "--from", "-"], ["search", "@odd"], ["search", "--from", "odd"]],
)
def test_a_list_that_is_no_text_is_wrong_use(filled: Site, words: list[str]) -> None:
    (filled.folder / "odd").write_bytes(b"PatientName=M\xfcller\n")
    from_file = ["sh", "-c", 'exec "$@" < odd', "sh"]
    process = filled.start(*words, before=from_file, PYTHONIOENCODING="utf-8:strict")
    out, said = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert "it is not UTF-8 text" in said


def test_words_that_are_no_path_are_wrong_use(filled: Site) -> None:
    (filled.folder / "circle").symlink_to("circle")
    for words in (["show", "x" * 5000], ["reidentify", str(SOURCE), "--output", "circle/x"]):
        done = filled.run(*words)
        assert (done.returncode, done.stdout) == (2, "")
        assert "Internal error" not in done.stderr


@pytest.mark.parametrize("place", ["images", "images/out", "linked/out"])
def test_what_is_delivered_is_not_read_again_as_if_it_were_an_original(
    site: Site, place: str
) -> None:
    (site.folder / "images").mkdir()
    (site.folder / "images" / "1.dcm").write_bytes((SOURCE / "CR1" / "6154").read_bytes())
    (site.folder / "linked").symlink_to("images")
    done = site.run("upload", "images", f"folder:{place}")
    assert (done.returncode, done.stdout) == (2, "")
    assert "can't be within the folder that is read" in done.stderr
    assert [path.name for path in (site.folder / "images").iterdir()] == ["1.dcm"]


def test_an_upload_whose_report_nobody_reads_goes_on_and_ends_with_its_own_code(
    site: Site,
) -> None:
    (site.folder / "unread").mkdir()
    cut = site.folder / "unread" / "cut.dcm"
    cut.write_bytes((SERIES / "77654033" / "CR1" / "6154").read_bytes()[:1000])
    shutil.copytree(SOURCE, site.folder / "unread" / "series")
    words = ["upload", "unread", "folder:unread-out"]
    code, said = without_a_reader(site, words, PYTHONUNBUFFERED="1")
    assert code == 3
    assert said == "8 files: 1 refused, 7 uploaded\n"


def without_a_reader(site: Site, words: list[str], **variables: str) -> tuple[int, str]:
    """Exit code and standard error of a command into a pipe that nobody reads any more."""
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.Popen(
        [str(PROGRAM), *words],
        env={**site.environment, **variables},
        cwd=site.folder,
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writer)
    _, said = process.communicate(timeout=60)
    return process.returncode, said


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_who_begins_it_with_closed_streams_gets_the_same_job_done(site: Site, closed: str) -> None:
    words = ["upload", str(SOURCE), "folder:delivered", "--jobs", "2"]
    process = site.start(*words, before=["sh", "-c", f'exec "$@" {closed}', "sh"])
    said = "".join(process.communicate(timeout=100))
    assert process.returncode == 0
    assert "rror" not in said
    assert len(site.files()) == 7
    assert site.unlogged() == []


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_name_without_an_encoding_ends_no_upload(
    site: Site, tmp_path: Path, form: str
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number, path in enumerate(sorted((SOURCE / "CT2").iterdir())):
        name = os.fsencode(source) + (b"/1\xff.dcm", b"/2\xfe", b"/3.dcm", b"/4.dcm")[number]
        Path(os.fsdecode(name)).write_bytes(path.read_bytes())
    (source / os.fsdecode(b"\xff.txt")).write_text("no DICOM")
    words = ["upload", str(source), "folder:delivered", "--format", form]
    ran = site.run(*words, PYTHONIOENCODING="utf-8:strict")  # as in most locales
    assert (ran.returncode, ran.stderr) == (0, "5 files: 1 no DICOM, 4 uploaded\n")
    assert len(site.files()) == 4
    if form in ("json", "jsonl"):
        found = {os.fsencode(row["file"]) for row in FORMATS[form](ran.stdout)}
        assert found == {os.fsencode(path) for path in source.iterdir()}


def test_a_name_without_an_encoding_is_a_name_like_any_other(site: Site) -> None:
    odd = os.fsdecode(b"T\xff")
    words = ["exec", str(SOURCE), "--project", odd, "--as", odd, "--", "ls", "{}"]
    done = site.run(*words)
    assert done.returncode == 0, done.stderr
    for form in ("csv", "jsonl"):
        made = site.run("export", "--format", form, "--output", f"log.{form}")
        assert made.returncode == 0, made.stderr
        assert (site.folder / f"log.{form}").read_text().count("Doe^Archibald") > 3


WAITS = """
import os, time
from deid_hooks import hookimpl
@hookimpl
def {moment}(event):
    open("waiting", "w").close()
    time.sleep(60)
"""


@pytest.mark.parametrize("jobs", ["1", "2"])
@pytest.mark.parametrize("moment", ["post_deid", "pre_upload", "post_upload"])
def test_an_interrupt_ends_an_upload_without_a_traceback_and_the_next_run_does_the_rest(
    site: Site, moment: str, jobs: str
) -> None:
    site.environment["DEID_HOOKS_PLUGIN_TIMEOUT"] = "50"
    site.plug_in(WAITS.format(moment=moment))
    process = site.start(
        "upload", str(SOURCE), "folder:delivered", "--project", "TRIAL7", "--jobs", jobs
    )
    while not (site.folder / "waiting").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert site.unlogged() == []
    assert list((site.folder / "tmp").iterdir()) == []
    site.unplug()
    done = site.upload(SOURCE)
    assert done.returncode == 0
    assert len(site.files()) == 7
    assert site.sql("SELECT count(*) FROM deid_log") == [(4,)]


def test_ctrl_c_is_heard_by_the_uploader_alone_and_not_by_its_workers(site: Site) -> None:
    site.plug_in(WAITS.format(moment="post_deid"))
    words = ["upload", str(SOURCE), "folder:delivered", "--jobs", "2"]
    process = site.start(*words, before=["setsid"])
    while not (site.folder / "waiting").exists():
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said == "7 files: 7 not sent\n"
    assert list((site.folder / "tmp").iterdir()) == []
