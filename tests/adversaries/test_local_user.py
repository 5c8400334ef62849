"""Another user of the machine may lay files where a program of ours looks, and gets nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.adversaries.programs import weaken
from tests.commands import run_command
from tests.needed import missing
from tests.whole.site import LOG, PROGRAM, SERIES, Site

NOBODY = 65534


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A site whose log somebody else has put there."""
    if os.geteuid() != 0:
        missing("only root can give a file to another user")
    made = Site(tmp_path / "site")
    os.chown(made.folder / LOG, NOBODY, NOBODY)
    return made


def upload(site: Site, program: Path = PROGRAM) -> tuple[int, str]:
    words: list[str | Path] = [program, "upload", str(SERIES / "77654033" / "CR1")]
    done = run_command([*words, "folder:delivered"], env=site.environment, cwd=site.folder)
    return done.returncode, done.stderr


def test_nothing_is_logged_into_the_file_of_another_user(site: Site) -> None:
    code, said = upload(site)
    assert code == 69
    assert "belongs to nobody" in said
    assert "sudo -u nobody" in said
    assert site.files() == {}


def test_what_a_group_of_the_site_shares_is_taken(site: Site, tmp_path: Path) -> None:
    (site.folder / LOG).chmod(0o660)
    patch = "import deid_hooks.files as files\nfiles.trust_owners(['group:nogroup'])\n"
    assert upload(site, weaken(tmp_path, patch))[0] == 0
    assert (site.folder / LOG).stat().st_mode & 0o777 == 0o660


def test_what_others_may_use_is_refused_even_of_a_trusted_user(site: Site, tmp_path: Path) -> None:
    (site.folder / LOG).chmod(0o644)
    patch = "import deid_hooks.files as files\nfiles.trust_owners(['nobody'])\n"
    code, said = upload(site, weaken(tmp_path, patch))
    assert code == 69
    assert "others may use" in said


def test_twin_a_log_of_any_user_is_written_to(site: Site, tmp_path: Path) -> None:
    patch = (
        "import deid_hooks.backends.sqlite.connection as connection\n"
        "connection.find_stranger = lambda found: ''\n"
    )
    assert upload(site, weaken(tmp_path, patch))[0] == 0
    assert len(site.logged()) == 1
