"""The stores on database servers keep the whole contract."""

from __future__ import annotations

import pytest

from deid_hooks.testing import BackendConformance


class TestPostgreSQL(BackendConformance):
    @pytest.fixture
    def url(self, postgresql_url: str) -> str:
        return postgresql_url


class TestMariaDB(BackendConformance):
    @pytest.fixture
    def url(self, mariadb_url: str) -> str:
        return mariadb_url
