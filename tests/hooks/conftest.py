from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from deid_hooks import DeidHooks, settings
from tests.hooks.distributions import Distributions
from tests.hooks.memory import STORES, Store

Load = Callable[..., DeidHooks]

URL = "kept:site"


@dataclass
class Machine:
    """A machine where nothing was ever set up."""

    work: Path
    """The current folder."""
    user: Path
    """The user's configuration folder."""
    site: Path
    """The site's configuration folder."""
    data: Path
    """The user's data folder."""


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    for name in os.environ:
        if name.startswith("DEID_HOOKS_"):
            monkeypatch.delenv(name)
    home, site = tmp_path / "home", tmp_path / "etc" / "deid-hooks"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(home / ".local" / "share"))
    monkeypatch.setattr(settings, "SITE_FILE", site / "deid-hooks.toml")
    monkeypatch.setattr(settings, "_SITE_OWNER", os.getuid())
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return Machine(
        work,
        home / ".config" / "deid-hooks",
        site,
        home / ".local" / "share" / "deid-hooks",
    )


@pytest.fixture
def distributions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Distributions]:
    made = Distributions(tmp_path / "distributions", monkeypatch)
    yield made
    made.forget()


@pytest.fixture
def store(distributions: Distributions) -> Iterator[Store]:
    """The store behind ``kept:site``, whose backend is installed like any other."""
    distributions.install(
        "deid-hooks-memory",
        {"deid_hooks.backends": {"kept": "tests.hooks.memory:MemoryBackend"}},
    )
    STORES.clear()
    STORES[URL] = Store()
    yield STORES[URL]
    STORES.clear()


@pytest.fixture
def load(store: Store) -> Iterator[Load]:
    """Load the hooks as an uploader does, over the log in memory, which is set up."""
    loaded: list[DeidHooks] = []

    def load(**arguments: Any) -> DeidHooks:
        settings = {"url": URL, "deadline": 0.3, "plugin_timeout": 0.3, **arguments}
        hooks = DeidHooks.load("tester/1.0", **settings)
        loaded.append(hooks)
        hooks.init()
        return hooks

    yield load
    for hooks in loaded:
        hooks.close()


@pytest.fixture
def hooks(load: Load) -> DeidHooks:
    return load()
