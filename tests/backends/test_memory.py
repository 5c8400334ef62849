"""The log in memory keeps the contract, as far as one process can, and fails on request."""

from __future__ import annotations

import uuid

import pytest

from deid_hooks import DeidHooks, LogUnavailable
from deid_hooks.backends import Deadline
from deid_hooks.backends.contract import LogBackend
from deid_hooks.testing import FAULTS, MemoryBackend, MemoryLog, memory_log
from deid_hooks.testing.appending import Appending
from deid_hooks.testing.erasing import Erasing
from deid_hooks.testing.reading import Reading, Searching

__all__ = ["memory_log"]


class TestMemory(Reading, Appending, Searching, Erasing):
    @pytest.fixture
    def url(self) -> str:
        return f"memory:{uuid.uuid4().hex}"

    def backend_of(self, url: str) -> LogBackend:
        return MemoryBackend(url)


def test_hooks_of_a_test_use_the_log_of_its_fixture(memory_log: MemoryLog) -> None:
    with DeidHooks.load("test") as hooks:
        hooks.check()
        assert hooks.settings.url.startswith("memory:")
    memory_log.fault = "refuse"
    with DeidHooks.load("test") as hooks, pytest.raises(LogUnavailable):
        hooks.check()


def test_the_faults_are_those_of_the_page() -> None:
    assert FAULTS == ("refuse", "unknown", "hang", "lose", "block")


def test_a_log_that_was_never_made_refuses() -> None:
    with pytest.raises(LogUnavailable):
        MemoryBackend("memory:never").check(Deadline())
