"""Servers that the tests share, and databases of their own for each."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from sql_servers import MariaDBServer, PostgreSQLServer
from tests.needed import program

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQLServer]:
    other = os.environ.get("DEID_HOOKS_TEST_POSTGRESQL")  # a folder of other programs
    server = PostgreSQLServer(Path(other) if other else None)
    try:
        yield server.initialise().start()
    finally:
        server.remove()


@pytest.fixture
def postgresql_url(postgresql: PostgreSQLServer) -> Iterator[str]:
    """The URL of an empty database."""
    name = f"log_{next(_numbers)}"
    postgresql.do(f"CREATE DATABASE {name} TEMPLATE template0")
    yield postgresql.url(name)
    postgresql.do(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDBServer]:
    program("mariadbd")
    server = MariaDBServer()
    try:
        yield server.start()
    finally:
        server.remove()


@pytest.fixture
def mariadb_url(mariadb: MariaDBServer) -> Iterator[str]:
    """The URL of an empty database."""
    name = f"log_{next(_numbers)}"
    mariadb.do(f"CREATE DATABASE {name}")
    yield mariadb.url(name)
    mariadb.do(f"DROP DATABASE {name}")
