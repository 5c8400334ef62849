"""A program and a log of different versions, as the people at the command line meet them."""

from __future__ import annotations

from pathlib import Path

import pytest

from deid_hooks.backends.tables.migrations import VERSION
from tests.backends.upgrading import OLDER, VERSION_1, VERSION_2, OldLog

from .site import LOG, SERIES, UNABLE, Site, rows


def make_site(folder: Path, old: OldLog) -> Site:
    """Return a site whose log is of an older version."""
    made = Site(folder, begun=False)
    (folder / LOG).parent.mkdir(parents=True)
    old.unpack(folder / LOG)
    return made


@pytest.fixture(params=OLDER, ids=repr)
def old(request: pytest.FixtureRequest) -> OldLog:
    found: OldLog = request.param
    return found


@pytest.fixture
def site(tmp_path: Path, old: OldLog) -> Site:
    """A site whose log is of an older version, of each one after the other."""
    return make_site(tmp_path, old)


def test_the_log_of_the_version_before_is_searched_and_shown_and_nothing_is_sent(
    tmp_path: Path,
) -> None:
    site = make_site(tmp_path, VERSION_2)
    found = site.run("search", "Aero Thora", "--format", "ids")
    assert found.returncode == 0, found.stderr
    shown = site.run("show", found.stdout.strip(), "--reason", "a finding")
    assert shown.returncode == 0, shown.stderr
    assert "Ærø^Þóra" in shown.stdout
    trail = site.run("access", "--format", "jsonl")
    assert trail.returncode == 0, trail.stderr
    assert [row["action"] for row in rows(trail.stdout)][-3:] == ["search", "show", "access"]
    for words in (["check"], ["upload", str(SERIES / "77654033"), "folder:delivered"], ["init"]):
        refused = site.run(*words)
        assert refused.returncode == 69
        assert "has version 2" in refused.stderr
        assert "deid-hooks init --upgrade" in refused.stderr
        assert words == ["init"] or UNABLE in refused.stderr
    assert site.files() == {}


@pytest.mark.parametrize(
    "words",
    [
        ["search", "Aero"],
        ["show", VERSION_1.entries[0].log_id, "--reason", "a finding"],
        ["access"],
        ["check"],
        ["upload", str(SERIES / "77654033"), "folder:delivered"],
    ],
)
def test_an_older_log_is_refused_with_what_to_do(tmp_path: Path, words: list[str]) -> None:
    site = make_site(tmp_path, VERSION_1)
    refused = site.run(*words)
    assert refused.returncode == 69
    assert "has version 1" in refused.stderr
    assert "un: deid-hooks init --upgrade" in refused.stderr
    assert site.files() == {}


def test_init_upgrades_the_log_once(site: Site, old: OldLog) -> None:
    done = site.run("init", "--upgrade")
    assert done.returncode == 0, done.stderr
    assert f"upgraded from version {old.version} to {VERSION}" in done.stdout
    assert "There is nothing to upgrade." in site.run("init", "--upgrade").stdout
    assert site.run("check").returncode == 0
    found = site.run("search", "Aero Thora", "--format", "ids")
    assert found.returncode == 0, found.stderr
    shown = site.run("show", found.stdout.strip(), "--reason", "a finding")
    assert shown.returncode == 0, shown.stderr
    sent = site.upload(SERIES / "77654033")
    assert sent.returncode == 0, sent.stderr
    assert site.files()


def test_another_site_secret_upgrades_nothing(site: Site, old: OldLog) -> None:
    refused = site.run("init", "--upgrade", DEID_HOOKS_SECRET="cd" * 32)
    assert refused.returncode == 69
    assert "another site secret" in refused.stderr
    assert site.sql("SELECT version FROM deid_log_store") == [(old.version,)]
    assert site.run("init", "--upgrade").returncode == 0


def test_a_newer_log_is_refused_with_its_version(tmp_path: Path) -> None:
    site, newer = Site(tmp_path), VERSION + 1
    site.change(f"UPDATE deid_log_store SET version = {newer}")
    for words in (["search", "Aero"], ["check"], ["upload", str(SERIES), "folder:delivered"]):
        refused = site.run(*words)
        assert refused.returncode == 69
        assert f"has version {newer}, this program knows {VERSION}" in refused.stderr
        assert "pdate deid-hooks" in refused.stderr
    assert site.files() == {}
