"""Destinations and commands of other distributions, found by their entry points alone."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.whole.site import SERIES, Site, rows

SERIES_OF_FOUR = SERIES / "77654033" / "CT2"
DESTINATION = """
from pathlib import Path
from deid_hooks.destinations import Delivery, DestinationError

class Memory:
    def __init__(self, text):
        self.name = text
        if "unusable" in text:
            raise ValueError("secret")

    def check(self):
        if "absent" in self.name:
            raise DestinationError("the memory is not there", "insert it")

    def deliver(self, files, tried_before):
        print(self.name)
        if "broken" in self.name:
            raise ValueError("secret")
        answers = [Delivery("uploaded") for _ in files]
        if "few" in self.name:
            answers.pop()
        if "many" in self.name:
            answers.append(Delivery("uploaded"))
        return answers

plugin = Memory
"""
COMMAND = """
from pathlib import Path
import typer
Path("imported").touch()

def plugin(context: typer.Context, name: str) -> None:
    print(f"Hello {name}, the log is {context.obj.url}")
"""


def install_destination(site: Site, name: str = "mem", source: str = DESTINATION) -> None:
    site.plug_in(source, "deid_hooks.destinations", name)


def outcomes(site: Site) -> list[str]:
    return [event for (event,) in site.sql("SELECT event FROM deid_log_upload ORDER BY seq")]


def test_an_installed_destination_is_called_with_the_whole_text(site: Site) -> None:
    install_destination(site)
    done = site.run("upload", str(SERIES_OF_FOUR), "mem:shelf 3", "--format", "csv")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(("mem:shelf 3\n", "file,"))
    assert site.sql("SELECT DISTINCT destination FROM deid_log_upload") == [("mem:shelf 3",)]
    assert outcomes(site) == ["cleared", "uploaded"]
    assert "mem" in [row["name"] for row in rows(site.run("plugins").stdout)]


@pytest.mark.parametrize(
    ("text", "failed", "reason", "outcome"),
    [
        ("mem:few", 1, "gave no answer for it", "partial"),
        ("mem:many", 4, "gave no answer for it", "failed"),
        ("mem:broken", 4, "failed with ValueError", "failed"),
    ],
)
def test_a_file_without_an_answer_that_can_be_trusted_has_failed(
    site: Site, text: str, failed: int, reason: str, outcome: str
) -> None:
    install_destination(site, source=DESTINATION.replace("print(self.name)", "pass"))
    done = site.run("upload", str(SERIES_OF_FOUR), text)
    found = rows(done.stdout)
    assert done.returncode == 3
    counts = Counter(row["status"] for row in found)
    assert (len(found), counts["failed"]) == (4, failed)
    assert all(reason in row["reason"] for row in found if row["status"] == "failed")
    assert outcomes(site) == ["cleared", outcome]
    assert "secret" not in done.stdout + done.stderr
    assert f"{failed} failed" in done.stderr


@pytest.mark.parametrize(
    ("name", "source", "text", "code", "message"),
    [
        ("mem", DESTINATION, "mem:absent", 1, "The memory is not there. Insert it. Nothing was se"),
        ("mem", DESTINATION, "mem:unusable", 1, "destination mem (mem 1.0) can't be made: ValueE"),
        ("mem", "plugin = lambda text: 0", "mem:", 1, "destination mem (mem 1.0) is none: it has"),
        ("mem", "import nowhere", "mem:", 1, "destination mem (mem 1.0) can't be imported"),
        ("folder", DESTINATION, "folder:x", 1, "claimed twice, by deid-hooks 0.1.0 and by folder"),
        ("mem", DESTINATION, "men:x", 2, "no destination men:"),
    ],
)
def test_a_destination_that_cant_be_used_is_named_and_nothing_is_sent(
    site: Site, name: str, source: str, text: str, code: int, message: str
) -> None:
    install_destination(site, name, source)
    done = site.run("upload", str(SERIES_OF_FOUR), text)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert "secret" not in done.stderr
    assert site.logged() == set()


def test_an_installed_command_is_listed_and_completed_without_being_imported(site: Site) -> None:
    site.plug_in(COMMAND, "deid_hooks.commands", "greet")
    assert "greet       From greet 1.0." in site.run("--help").stdout
    completion = {"_DEID_HOOKS_COMPLETE": "complete_bash", "COMP_WORDS": "deid-hooks gre"}
    assert site.run(**completion, COMP_CWORD="1").stdout.split() == ["greet"]
    assert site.run("check").returncode == 0
    assert not (site.folder / "imported").exists()


def test_an_installed_command_runs_with_the_url_before_it(site: Site) -> None:
    site.plug_in(COMMAND, "deid_hooks.commands", "greet")
    done = site.run("--url", "none:", "greet", "you")
    assert (done.returncode, done.stdout) == (0, "Hello you, the log is none:\n"), done.stderr
    assert "Usage: deid-hooks greet" in site.run("greet", "--help").stdout
    assert site.run("greet").returncode == 2


def test_an_installed_application_has_its_commands_behind_one_name(site: Site) -> None:
    source = "import typer\nplugin = typer.Typer()\n@plugin.command()\ndef list(): print('all')\n"
    site.plug_in(source, "deid_hooks.commands", "shelf")
    assert site.run("shelf", "list").stdout == "all\n"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("check", "check is claimed twice, by deid-hooks itself and by check 1.0"),
        ("greet", "greet in deid_hooks.commands is claimed twice, by greet 1.0 and by other 1.0"),
    ],
)
def test_two_commands_with_one_name_are_an_error_that_names_both(
    site: Site, name: str, message: str
) -> None:
    site.plug_in(COMMAND, "deid_hooks.commands", name)
    if name == "greet":
        info = site.folder / "plugins" / name / "other-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[deid_hooks.commands]\n{name} = a:b\n")
    for words in (["--help"], [name], ["check"]):
        done = site.run(*words)
        assert (done.returncode, done.stdout) == (1, "")
        assert message in done.stderr
    shown = site.run("plugins")
    assert shown.returncode == 1
    assert any(message in row["state"] for row in rows(shown.stdout) if row["kind"] == "command")


@pytest.mark.parametrize("source", ["plugin = 7", "import nowhere"])
def test_a_command_that_is_none_is_named(site: Site, source: str) -> None:
    site.plug_in(source, "deid_hooks.commands", "greet")
    done = site.run("greet")
    assert (done.returncode, done.stdout) == (1, "")
    assert "The command greet (greet 1.0)" in done.stderr
    assert "Traceback" not in done.stderr
    assert any("greet 1.0" in row["state"] for row in rows(site.run("plugins").stdout))
