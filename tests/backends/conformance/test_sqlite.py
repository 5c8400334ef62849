"""The default store keeps the whole contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from deid_hooks.testing import BackendConformance


class TestSQLite(BackendConformance):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/log.db"
