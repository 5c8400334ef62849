"""Who works at a workstation sets variables and files, but nothing that the site locks."""

from __future__ import annotations

from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.adversaries.programs import weaken
from tests.commands import run_command
from tests.whole.site import Site

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


def test_twin_without_locks_a_variable_undoes_what_the_site_requires(
    workstation: Workstation,
) -> None:
    more = {"DEID_HOOKS_REQUIRE_REASON": "false"}
    asked = workstation.run("search", "PatientName=X", defence=NO_LOCKS, **more)
    assert asked.returncode == 1
    assert workstation.site.sql("SELECT reason FROM deid_log_access") == [("",)]
