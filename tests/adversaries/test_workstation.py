"""Who works at a workstation sets variables and files, but nothing that the site locks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import httpx
import pytest
from running import Site as Served

from deid_hooks.records.json_codec import encode_record
from deid_hooks.testing.records import make_entry
from tests.adversaries.programs import weaken
from tests.commands import run_command
from tests.whole.site import SERIES, Site

SITE = """
import os
from pathlib import Path
import deid_hooks.settings as settings
settings.SITE_FILE = Path({file!r})
settings._SITE_OWNER = os.getuid()
"""
NO_LOCKS = "settings._take_locks = lambda site: site.pop('locked') and ()\n"


class Workstation:
    """A machine whose site requires a reason for access, and locks that."""

    def __init__(self, folder: Path) -> None:
        self.site = Site(folder / "site")
        self.folder = folder / "etc"
        self.folder.mkdir()
        self.file = self.folder / "deid-hooks.toml"
        self.set("require_reason = true\nlocked = ['require_reason']")

    def set(self, text: str) -> None:
        self.file.write_text(text)
        self.file.chmod(0o644)

    def run(self, *words: str, defence: str = "", **more: str) -> CompletedProcess[str]:
        program = weaken(self.folder, SITE.format(file=str(self.file)) + defence)
        environment = {**self.site.environment, **more}
        return run_command([program, *words], env=environment, cwd=self.site.folder)


@pytest.fixture
def workstation(tmp_path: Path) -> Workstation:
    return Workstation(tmp_path)


def test_no_variable_undoes_what_the_site_locks(workstation: Workstation) -> None:
    asked = workstation.run("search", "PatientName=X", DEID_HOOKS_REQUIRE_REASON="false")
    assert asked.returncode == 2
    assert "locks require_reason" in asked.stderr
    assert workstation.site.sql("SELECT count(*) FROM deid_log_access") == [(0,)]
    shown = workstation.run("config", "--format", "csv").stdout
    assert f"require_reason,{workstation.file} (locked),True" in shown
    assert "allowed_plugins,default,all" in shown


def test_twin_without_locks_a_variable_undoes_what_the_site_requires(
    workstation: Workstation,
) -> None:
    more = {"DEID_HOOKS_REQUIRE_REASON": "false"}
    asked = workstation.run("search", "PatientName=X", defence=NO_LOCKS, **more)
    assert asked.returncode == 1
    assert workstation.site.sql("SELECT reason FROM deid_log_access") == [("",)]


RULES = """
allowed_plugins = []
locked = ["projects", "allowed_plugins"]
[projects.TRIAL7]
destinations = ["folder:/srv/research"]
"""


def test_a_project_goes_to_its_destinations_only(workstation: Workstation) -> None:
    workstation.set(RULES)
    target = f"folder:{workstation.site.delivered}"
    for project in ("TRIAL7", "ANOTHER"):
        ran = workstation.run("upload", str(SERIES / "77654033"), target, "--project", project)
        assert ran.returncode == 2, ran.stderr
    assert workstation.site.files() == {}


def test_twin_without_locks_a_project_goes_anywhere(workstation: Workstation) -> None:
    workstation.set(RULES)
    words = ["upload", str(SERIES / "77654033" / "CR1"), f"folder:{workstation.site.delivered}"]
    assert workstation.run(*words, "--project", "ANOTHER", defence=NO_LOCKS).returncode == 0
    assert len(workstation.site.files()) == 1


def test_a_plugin_that_the_site_does_not_allow_stops_everything(workstation: Workstation) -> None:
    workstation.set(RULES)
    workstation.site.plug_in(
        "from deid_hooks import hookimpl\n@hookimpl\ndef post_deid(event): ..."
    )
    ran = workstation.run("check")
    assert ran.returncode != 0
    assert "The plugin plugged (plugged 1.0) is installed, and allowed_plugins" in ran.stderr
    assert "FAILED: The plugin plugged" in workstation.run("plugins").stdout


def test_twin_where_plugins_are_not_held_to_names_any_is_loaded(workstation: Workstation) -> None:
    workstation.set("")
    workstation.site.plug_in(
        "from deid_hooks import hookimpl\n@hookimpl\ndef post_deid(event): ..."
    )
    assert workstation.run("check").returncode == 0


# Behind the service: one token, for uploads


PATIENT = "4711"
NO_CHECK = """
import deid_hooks_service.handlers as handlers
async def take_anything(records): pass
handlers.refuse_malformed = take_anything
"""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    site = Served(tmp_path)
    yield site
    site.stop()


def post_malformed(served: Served) -> tuple[httpx.Response, str]:
    """Post an entry that is sound but for its originals; return the answer and its log id."""
    entry = make_entry(
        digest="", key="", originals="{00080080: no JSON", fields={"PatientID": (PATIENT,)}
    )
    body = {"records": [encode_record(entry)]}
    return served.client(served.token("upload")).post("/v1/records", json=body), entry.log_id


@pytest.mark.ci
def test_an_entry_that_nobody_could_read_is_refused(served: Served) -> None:
    answer, _ = post_malformed(served.start())
    assert answer.status_code == 422
    assert "no elements of the DICOM JSON model" in answer.json()["cause"]


@pytest.mark.ci
def test_an_entry_that_nobody_can_read_is_named_and_stops_no_reader(
    served: Served, tmp_path: Path
) -> None:
    program = weaken(tmp_path, NO_CHECK, "deid_hooks_service.cli")
    answer, log_id = post_malformed(served.start(program=program))
    assert answer.status_code == 200  # the twin of the test above
    for words, code in (
        (["search", "InstitutionName=X"], 1),
        (["search", f"PatientID={PATIENT}", "--show", "InstitutionName"], 0),
        (["report", "InstitutionName=X"], 1),
        (["show", log_id], 3),
        (["block", "InstitutionName=X", "--reason", "asked"], 1),
        (["export", "InstitutionName=X"], 0),
        (["forget", "InstitutionName=X", "--reason", "asked", "--yes"], 1),
    ):
        done = served.run("deid-hooks", *words)
        assert (done.returncode, "Internal error" in done.stderr) == (code, False), done.stderr
        assert f"The entry {log_id} is malformed" in done.stderr, words
    gone = served.run("deid-hooks", "forget", log_id, "--reason", "malformed", "--yes")
    assert gone.returncode == 0, gone.stderr


def test_twin_an_entry_that_nobody_can_read_ends_every_search(
    served: Served, tmp_path: Path
) -> None:
    program = weaken(tmp_path, NO_CHECK, "deid_hooks_service.cli")
    post_malformed(served.start(program=program))
    patch = "import deid_hooks.query.conditions as conditions\nconditions.WRONG_FORM = ()\n"
    weakened = weaken(tmp_path, patch)
    done = run_command(
        [weakened, "search", "InstitutionName=X"], env=served.environment, cwd=tmp_path
    )
    assert "Internal error" in done.stderr


def post_lists(served: Served) -> int:
    """Post 3 MB of JSON which take a hundred MB of memory, and return the status."""
    body = b'{"records":[' + b"[]," * 1_000_000 + b"[]]}"
    kind = {"Content-Type": "application/json"}
    client = served.client(served.token("upload"))
    return client.post("/v1/records", content=body, headers=kind).status_code


@pytest.mark.ci
def test_a_body_that_takes_much_memory_is_not_parsed(served: Served) -> None:
    assert post_lists(served.start()) == 413


def test_twin_a_body_whose_values_nobody_counts_is_parsed(served: Served, tmp_path: Path) -> None:
    patch = "import deid_hooks_service.forms as forms\nforms._MOST_VALUES = 1 << 60\n"
    served.start(program=weaken(tmp_path, patch, "deid_hooks_service.cli"))
    assert post_lists(served) == 422
