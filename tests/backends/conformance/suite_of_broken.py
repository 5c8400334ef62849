"""The kit on every broken backend. Not collected by itself: see test_kit.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import Phase, settings

settings.register_profile("first failure", phases=[Phase.generate])
settings.load_profile("first failure")  # before the kit is imported: nobody reads what it finds

from deid_hooks.backends.contract import LogBackend  # noqa: E402
from deid_hooks.testing import BackendConformance  # noqa: E402
from tests.backends.conformance.broken import MUST_FAIL  # noqa: E402


def _suite_of(kind: type[LogBackend]) -> type[BackendConformance]:
    class Suite(BackendConformance):
        @pytest.fixture
        def url(self, tmp_path: Path) -> str:
            return f"sqlite:///{tmp_path}/log"

        def backend_of(self, url: str) -> LogBackend:
            return kind(url)

    return Suite


globals().update({f"Test{kind.__name__}": _suite_of(kind) for kind in MUST_FAIL})
