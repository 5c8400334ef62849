"""A program and a log of different versions, as the people at the command line meet them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.backends.version_1 import unpack

from .site import LOG, SERIES, UNABLE, Site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A site whose log is of version 1."""
    made = Site(tmp_path, begun=False)
    (tmp_path / LOG).parent.mkdir(parents=True)
    unpack(tmp_path / LOG)
    return made


def test_an_older_log_is_searched_and_shown_and_nothing_is_sent(site: Site) -> None:
    found = site.run("search", "Aero Thora", "--format", "ids")
    assert found.returncode == 0, found.stderr
    shown = site.run("show", found.stdout.strip(), "--reason", "a finding")
    assert "Ærø^Þóra" in shown.stdout
    assert site.run("export", "--output", "all.jsonl").returncode == 0
    trail = site.run("access", "--format", "jsonl")
    assert trail.returncode == 0, trail.stderr
    for words in (["check"], ["upload", str(SERIES / "77654033"), "folder:delivered"], ["init"]):
        refused = site.run(*words)
        assert refused.returncode == 69
        assert "has version 1" in refused.stderr
        assert "deid-hooks init --upgrade" in refused.stderr
        assert words == ["init"] or UNABLE in refused.stderr
    assert site.files() == {}


def test_init_upgrades_the_log_once(site: Site) -> None:
    done = site.run("init", "--upgrade")
    assert done.returncode == 0, done.stderr
    assert "upgraded from version 1 to 2" in done.stdout
    assert "There is nothing to upgrade." in site.run("init", "--upgrade").stdout
    assert site.run("check").returncode == 0
    assert site.run("search", "Aero Thora", "--format", "ids").returncode == 0
    assert site.upload(SERIES / "77654033").returncode == 0
    assert site.files()


def test_a_newer_log_is_refused_with_its_version(site: Site) -> None:
    site.run("init", "--upgrade")
    site.change("UPDATE deid_log_store SET version = 3")
    for words in (["search", "Aero"], ["check"], ["upload", str(SERIES), "folder:delivered"]):
        refused = site.run(*words)
        assert refused.returncode == 69
        assert "has version 3, this program knows 2" in refused.stderr
        assert "pdate deid-hooks" in refused.stderr
    assert site.files() == {}
