"""What tests import: the conformance kit for stores, and the fixture ``memory_log``."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from deid_hooks.testing.appending import Appending, Ordering
from deid_hooks.testing.durability import Durability, Failing
from deid_hooks.testing.erasing import Erasing, Sealing
from deid_hooks.testing.memory import MemoryLog, open_memory_log
from deid_hooks.testing.reading import Reading, Searching


class BackendConformance(
    Reading, Appending, Ordering, Durability, Searching, Erasing, Sealing, Failing
):
    """Every rule of the contract. Subclass it and give it the fixture ``url``."""


_SECONDS = "0.5"


@pytest.fixture
def memory_log(monkeypatch: pytest.MonkeyPatch) -> Iterator[MemoryLog]:
    """Make an empty log in memory the one that ``DeidHooks.load()`` uses in this test.

    A call that gives no answer is given up after half a second.
    """
    url = f"memory:{uuid.uuid4().hex}"
    monkeypatch.setenv("DEID_HOOKS_URL", url)
    monkeypatch.setenv("DEID_HOOKS_SECRET", uuid.uuid4().hex * 2)
    monkeypatch.setenv("DEID_HOOKS_DEADLINE", _SECONDS)
    log = open_memory_log(url)
    log.exists = True
    yield log
