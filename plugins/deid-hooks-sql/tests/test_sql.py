"""The stores on database servers keep the whole contract, and what people know of the tables."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sql_servers import MariaDBServer, PostgreSQLServer

from deid_hooks.backends import Deadline
from deid_hooks.log import make_backend
from deid_hooks.query.parser import parse_terms
from deid_hooks.testing import BackendConformance
from deid_hooks.testing.records import chain_seals, make_entry
from deid_hooks_sql import SQLBackend


class TestPostgreSQL(BackendConformance):
    @pytest.fixture
    def url(self, postgresql_url: str) -> str:
        return postgresql_url


@pytest.mark.ci
class TestMariaDB(BackendConformance):
    @pytest.fixture
    def url(self, mariadb_url: str) -> str:
        return mariadb_url


@pytest.fixture(params=["postgresql", pytest.param("mariadb", marks=pytest.mark.ci)])
def log(request: pytest.FixtureRequest) -> Iterator[SQLBackend]:
    made = make_backend(request.getfixturevalue(f"{request.param}_url"))
    assert isinstance(made, SQLBackend)
    made.create(Deadline())
    yield made
    made.close()


@pytest.mark.parametrize(
    "term", ["PatientID=x*end", "PatientID=*end", "PatientName=DOE^*Z", "StudyID=x*end"]
)
def test_a_value_longer_than_an_index_takes_is_found_by_its_end(log: SQLBackend, term: str) -> None:
    long = "x" * 600 + "end"
    fields = {"PatientID": (long,), "PatientName": (f"Doe^{long}z",), "StudyID": (long,)}
    entry = make_entry(fields=fields)
    log.append([make_entry(), entry], chain_seals, Deadline())
    assert list(log.search(parse_terms([term]), Deadline())) == [entry.log_id]


def test_the_statements_that_administrators_know_work_as_they_stand(
    request: pytest.FixtureRequest, log: SQLBackend
) -> None:
    kind = "postgresql" if log.url.startswith("postgresql") else "mariadb"
    server: PostgreSQLServer | MariaDBServer = request.getfixturevalue(kind)
    database = log.url.rpartition("/")[2]
    fields = {"PatientName": ("John Doe",), "SeriesInstanceUID": ("1.2.3",), "PatientID": ("47",)}
    entry = make_entry(fields=fields)
    log.append([entry, make_entry(timestamp="2007-01-01T00:00:00")], chain_seals, Deadline())

    def answer(sql: str) -> list[tuple[object, ...]]:
        return server.do(sql, database=database)

    assert answer("SELECT id FROM deid_log WHERE PatientName = 'John Doe'") == [(entry.log_id,)]
    assert answer("SELECT id FROM deid_log WHERE PatientName = 'john doe'") == []
    sql = "SELECT SeriesInstanceUID FROM deid_log WHERE timestamp < '2006-08-31'"
    assert answer(sql) == [("1.2.3",)]
    sql = "SELECT log_id FROM deid_log_instance WHERE deid_SOPInstanceUID = '2.25.1' LIMIT 1"
    assert answer(sql) == [(entry.log_id,)]
    sql = "SELECT project, label, PatientID FROM deid_log_subject WHERE PatientID = '47'"
    assert answer(sql) == [("TRIAL7", "SUBJ-007", "47")]
