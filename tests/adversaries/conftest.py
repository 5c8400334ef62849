"""A site to attack: each test has a copy of one that is made once."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deid_hooks.access import make_access_row
from deid_hooks.log import Log, make_backend
from deid_hooks.records.keys import parse_keyring
from tests.adversaries.attacks import SECRET, Place
from tests.adversaries.served import Served
from tests.whole.site import LOG, SERIES


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave twins that need a service or a program of their own to CI."""
    for item in items:
        if "adversaries" in item.path.parts and item.name.startswith("test_twin"):
            item.add_marker(pytest.mark.ci)


MakeSite = Callable[[bool], Place]
MakeServed = Callable[[bool], Served]
PATIENT, OTHER = SERIES / "77654033", SERIES / "98892003" / "MR1"
BLOCKED = PATIENT / "CR1"
"""An image of the patient who is blocked; its entry was erased."""


@pytest.fixture(scope="session")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A site with images of two patients, an erasure, a block of one of them, and a kept head.

    ``old.db`` is its log from before the block, ``longer.db`` the same with more records since
    than the log has. ``foreign.db`` is a log with another secret. The
    files end with .jsonl are its exports, ``lifted.jsonl`` one in which the block is lifted, and
    ``fresh`` is a site with the same secret and an empty log.
    """
    site = Place(tmp_path_factory.mktemp("attacked"), here=True)

    def do(*words: str, **variables: str) -> str:
        done = site.run(*words, **variables)
        assert done.returncode == 0, site.said
        return done.stdout

    do("init")
    do("upload", str(PATIENT), "folder:delivered", "--project", "TRIAL7")
    do("upload", str(OTHER), "folder:delivered", "--project", "TRIAL7")
    do("search", "Doe", "--reason", "a finding")
    erased = do("search", "Modality=CR", "--limit", "1", "--format", "ids").strip()
    do("forget", erased, "--reason", "asked to", "--yes")
    for name in ("old.db", "longer.db"):
        shutil.copyfile(site.folder / LOG, site.folder / name)
    backend = make_backend(f"sqlite:///{site.folder}/longer.db")
    longer = Log(backend, parse_keyring(SECRET, "a test"))
    for _ in range(10):
        longer.record_access(make_access_row("search", "x", (), ""))
    longer.close()
    do("block", "PatientID=77654033", "--reason", "withdrawn")
    do("search", "Doe", "--reason", "after the block")
    foreign = {"DEID_HOOKS_URL": "sqlite:///foreign.db", "DEID_HOOKS_SECRET": "cd" * 32}
    do("init", **foreign)
    do("access", **foreign)
    do("export", "--output", "whole.jsonl")
    do("export", "Modality=CT", "--output", "part.jsonl")
    do("verify")
    fresh = Place(shutil.copytree(site.folder, site.folder / "fresh"), here=True)
    fresh.run("block", "PatientID=77654033", "--lift", "--reason", "not any more")
    fresh.run("export", "--output", str(site.folder / "lifted.jsonl"))
    shutil.rmtree(fresh.folder)
    fresh = Place(fresh.folder, here=True)
    assert fresh.run("init").returncode == 0
    return site


@pytest.fixture
def make_served(tmp_path: Path) -> Iterator[MakeServed]:
    """Makes a service with an entry in its log, in this process or as it is installed."""
    made: list[Served] = []

    def make(here: bool) -> Served:
        made.append(Served(tmp_path, here))
        return made[-1]

    yield make
    for each in made:
        each.stop()


@pytest.fixture
def make_site(attacked: Place, tmp_path: Path) -> MakeSite:
    """Makes a copy of that site, whose commands run in this process or as they are installed."""

    def make(here: bool) -> Place:
        folder = shutil.copytree(
            attacked.folder, tmp_path / "site", ignore=shutil.ignore_patterns("delivered")
        )
        return Place(folder, here)

    return make
