from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deid_hooks.backends.sqlite import SQLiteBackend
from deid_hooks.deadline import Deadline

NewStore = Callable[[], SQLiteBackend]


@pytest.fixture
def new_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NewStore]:
    """Makes stores that are empty, from a copy of one: cheap enough for every example."""
    folder = tmp_path_factory.mktemp("stores")
    template = folder / "template.db"
    made = SQLiteBackend(f"sqlite:///{template}")
    made.create(Deadline())
    made.close()
    stores: list[SQLiteBackend] = []

    def make() -> SQLiteBackend:
        for old in stores:
            old.close()
        path = folder / f"{len(stores)}.db"
        shutil.copyfile(template, path)
        stores.append(SQLiteBackend(f"sqlite:///{path}"))
        return stores[-1]

    yield make
    for store in stores:
        store.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


@pytest.fixture
def store(path: Path) -> Iterator[SQLiteBackend]:
    backend = SQLiteBackend(f"sqlite:///{path}")
    backend.create(Deadline())
    yield backend
    backend.close()
