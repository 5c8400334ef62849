"""Sites for the tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from running import Site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A service that the tests of a module share."""
    made = Site(tmp_path_factory.mktemp("site")).start()
    yield made
    made.stop()


@pytest.fixture
def site_of_its_own(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """Makes a site that a test may stop, break and start again."""
    made: list[Site] = []

    def make(deadline: float = 10.0) -> Site:
        made.append(Site(tmp_path, deadline))
        return made[-1]

    yield make
    for each in made:
        each.stop()
