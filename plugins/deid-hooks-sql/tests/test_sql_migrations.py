"""An older log on a server is read, never written, and upgraded by init --upgrade only."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psycopg
import pytest
from sql_servers import MariaDBServer, PostgreSQLServer
from tests.backends.version_1 import FOUND_BY_NAME, SECRET, read, read_records

from deid_hooks import LogUnavailable
from deid_hooks.backends.contract import LogBackend, Receipt
from deid_hooks.backends.tables.columns import TABLES
from deid_hooks.backends.tables.migrations import UPGRADING, VERSION
from deid_hooks.deadline import Deadline
from deid_hooks.log import make_backend
from deid_hooks.query.parser import parse_terms
from deid_hooks.records.chain import commit_terms, find_breaks, seal_records
from deid_hooks.records.keys import derive_trail_key
from deid_hooks.records.model import AccessRow, Entry, Erasure
from deid_hooks.testing.records import fresh_id, leave_unsealed, make_entry
from deid_hooks_sql import PostgreSQLBackend, SQLBackend
from deid_hooks_sql.roles import make_script

RECORDS = read_records()
ENTRIES = [record for record, _ in RECORDS if isinstance(record, Entry)]


def load_postgresql(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(read("postgresql.sql").encode())


def load_mariadb(server: MariaDBServer, url: str) -> None:
    statements = [each for each in read("mariadb.sql").split(";\n") if each.strip()]
    server.do(*statements, database=url.rpartition("/")[2])


@pytest.fixture(params=["postgresql", "mariadb"])
def old(request: pytest.FixtureRequest) -> Iterator[SQLBackend]:
    """A log of version 1."""
    url = request.getfixturevalue(f"{request.param}_url")
    if request.param == "postgresql":
        load_postgresql(url)
    else:
        load_mariadb(request.getfixturevalue("mariadb"), url)
    made = make_backend(url)
    assert isinstance(made, SQLBackend)
    yield made
    made.close()


def read_all(store: LogBackend) -> list[tuple[object, str]]:
    page = store.read(0, Deadline())
    found: list[tuple[object, str]] = []
    while page.records:
        found += zip(page.records, page.seals, strict=True)
        page = store.read(page.cursor, Deadline())
    return found


def assert_whole(store: LogBackend) -> None:
    """Everything that version 1 held is read back equal, and found."""
    assert read_all(store) == RECORDS
    assert [store.resolve(entry.log_id, Deadline()) for entry in ENTRIES] == ENTRIES
    trail = list(store.trail(Deadline()))
    assert len(trail) == 6
    assert list(find_breaks(trail, derive_trail_key(SECRET), trail[-1][1])) == []
    for term, name in FOUND_BY_NAME.items():
        wanted = [e.log_id for e in ENTRIES if name in e.fields.get("PatientName", ())]
        assert wanted
        assert list(store.search(parse_terms([term]), Deadline())) == wanted
    for entry in ENTRIES:
        terms = [f"{k}=={v[0]}" for k, v in entry.fields.items() if v and v[0].isascii()]
        for query in (parse_terms([term]) for term in terms):
            wanted = [e.log_id for e in ENTRIES if query.matches(e)]
            assert list(store.search(query, Deadline())) == wanted


def describe(server: PostgreSQLServer | MariaDBServer, url: str) -> list[object]:
    """Return tables, columns, indexes, views and words of a database."""
    database = url.rpartition("/")[2]
    if isinstance(server, PostgreSQLServer):
        here = "table_schema = 'public'"
        queries = [
            "SELECT table_name, column_name, data_type, character_maximum_length, is_nullable,"
            f" collation_name FROM information_schema.columns WHERE {here}",
            "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'",
            "SELECT viewname, definition FROM pg_views WHERE schemaname = 'public'",
            "SELECT relname, attname, attstattarget FROM pg_attribute JOIN pg_class c"
            " ON c.oid = attrelid WHERE relname LIKE 'deid%' AND attnum > 0 AND NOT attisdropped",
        ]
    else:
        here = "table_schema = DATABASE()"
        queries = [
            "SELECT table_name, column_name, column_type, is_nullable, collation_name"
            f" FROM information_schema.columns WHERE {here}",
            "SELECT table_name, index_name, non_unique, seq_in_index, column_name"
            f" FROM information_schema.statistics WHERE {here}",
            "SELECT table_name, replace(view_definition, DATABASE(), '')"
            f" FROM information_schema.views WHERE {here}",
            "SELECT table_name, engine, row_format, table_collation"
            f" FROM information_schema.tables WHERE {here}",
        ]
    queries += [
        "SELECT id, word FROM deid_word JOIN deid_log ON seq = entry",
        "SELECT id, odd, rows_digest FROM deid_log",
        "SELECT id, exact FROM deid_log_access",
        "SELECT name FROM deid_log_migration",
        "SELECT version FROM deid_log_store",
    ]
    return [sorted(map(repr, server.do(query, database=database))) for query in queries]


def test_an_older_log_is_read(old: SQLBackend) -> None:
    assert_whole(old)


def test_an_older_log_is_not_written(old: SQLBackend) -> None:
    calls: list[Callable[[Deadline], object]] = [
        partial(old.append, [make_entry()], leave_unsealed),
        partial(old.erase, [ENTRIES[0].log_id], Erasure("t", "who", "why")),
        old.check,
        old.create,
    ]
    for call in calls[:3]:
        with pytest.raises(LogUnavailable, match=r"has version 1.*deid-hooks init --upgrade"):
            call(Deadline())
    calls[3](Deadline())  # leaves a log that is there as it is
    assert read_all(old) == RECORDS


def test_who_reads_an_older_log_is_recorded_in_its_trail(old: SQLBackend) -> None:
    key = derive_trail_key(SECRET)
    rows = [
        commit_terms(AccessRow(fresh_id(), "t", "who", "host", "show", asked, ()), key)
        for asked in ("PatientID=4711", "PatientName=\ud800\0", "x")
    ]
    old.append(rows[:2], partial(seal_records, key=key), Deadline())
    old.append(rows, partial(seal_records, key=key), Deadline())
    for _ in range(2):
        trail = list(old.trail(Deadline()))
        assert [row for row, _ in trail[-3:]] == rows
        assert list(find_breaks(trail, key)) == []
        old.upgrade(Deadline(60))
    old.check(Deadline())


def test_an_upgraded_log_holds_the_same_and_is_like_a_fresh_one(
    request: pytest.FixtureRequest, old: SQLBackend
) -> None:
    kind = "postgresql" if old.url.startswith("postgresql") else "mariadb"
    server = request.getfixturevalue(kind)
    assert old.upgrade(Deadline(60)) == "to version 2"
    assert_whole(old)
    old.check(Deadline())
    entry = make_entry()
    old.append([entry], leave_unsealed, Deadline())
    old.append([*ENTRIES, entry], leave_unsealed, Deadline())
    assert old.upgrade(Deadline()) == ""
    server.do("CREATE DATABASE fresh" + (" TEMPLATE template0" if kind == "postgresql" else ""))
    try:
        fresh = make_backend(server.url("fresh"))
        fresh.create(Deadline(60))
        for record, seal in [*RECORDS, (entry, "")]:
            fresh.append([record], lambda head, new, seal=seal: [seal], Deadline())  # type: ignore[misc]
        fresh.close()
        assert describe(server, old.url) == describe(server, server.url("fresh"))
    finally:
        server.do("DROP DATABASE fresh" + (" WITH (FORCE)" if kind == "postgresql" else ""))


KILLED = """
import os, signal, sys
from deid_hooks.deadline import Deadline
from deid_hooks.log import make_backend
from deid_hooks_sql import migrations

left = int(sys.argv[2])
run = migrations.ServerChanges.run

def run_or_die(self, sql, *values):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return run(self, sql, *values)

migrations.ServerChanges.run = run_or_die
backend = make_backend(sys.argv[1])
print(backend.upgrade(Deadline(60)))
backend.close()
"""


def test_an_upgrade_that_is_killed_again_and_again_ends_whole(old: SQLBackend) -> None:
    for statements in (*range(12), 16, 24, 100):
        command = [sys.executable, "-c", KILLED, old.url, str(statements)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0:
            break
        with pytest.raises(LogUnavailable, match="init --upgrade"):
            old.check(Deadline())
    assert "to version 2" in done.stdout
    assert_whole(old)
    old.check(Deadline())


def test_of_two_upgrades_at_once_one_waits(old: SQLBackend) -> None:
    command = [sys.executable, "-c", KILLED, old.url, "1000"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert sorted(each.communicate()[0].strip() for each in both) == ["", "to version 2"]
    assert [each.returncode for each in both] == [0, 0]
    assert_whole(old)


@pytest.mark.parametrize(
    ("version", "words"),
    [(VERSION + 1, f"version {VERSION + 1}, .* knows 2"), (UPGRADING, "being")],
)
def test_a_newer_log_is_neither_read_nor_written(
    request: pytest.FixtureRequest, old: SQLBackend, version: int, words: str
) -> None:
    server = request.getfixturevalue(
        "postgresql" if old.url.startswith("postgresql") else "mariadb"
    )
    update = f"UPDATE deid_log_store SET version = {version}"
    server.do(update, database=old.url.rpartition("/")[2])
    calls: list[Callable[[Deadline], object]] = [
        partial(old.append, [make_entry()], leave_unsealed),
        old.check,
        partial(old.read, 0),
    ]
    for call in calls if version == UPGRADING else [*calls, old.upgrade]:
        with pytest.raises(LogUnavailable, match=words):
            call(Deadline())


def test_check_names_a_column_that_is_missing_or_too_much(
    request: pytest.FixtureRequest, old: SQLBackend
) -> None:
    server = request.getfixturevalue(
        "postgresql" if old.url.startswith("postgresql") else "mariadb"
    )
    old.upgrade(Deadline(60))
    database = old.url.rpartition("/")[2]
    server.do("ALTER TABLE deid_log ADD COLUMN Later text", database=database)
    with pytest.raises(LogUnavailable, match="deid_log has a column later"):
        old.check(Deadline())
    server.do("ALTER TABLE deid_log DROP COLUMN Later", database=database)
    server.do("ALTER TABLE deid_log_block DROP COLUMN reason", database=database)
    with pytest.raises(LogUnavailable, match="deid_log_block has no column reason"):
        old.check(Deadline())


def test_the_roles_are_those_of_the_tables_after_the_script_ran_again(
    postgresql: PostgreSQLServer, postgresql_url: str
) -> None:
    load_postgresql(postgresql_url)
    database = postgresql_url.rpartition("/")[2]
    owner = PostgreSQLBackend(postgresql_url)
    owner.upgrade(Deadline(60))
    try:
        for _ in range(2):
            postgresql.do(make_script(), database=database)
        postgresql.do("CREATE ROLE its_upload LOGIN IN ROLE deid_upload", database=database)
        uploader = PostgreSQLBackend(postgresql_url.replace("postgres@", "its_upload@"))
        uploader.check(Deadline())
        for entry in ENTRIES:
            assert isinstance(uploader.resolve(entry.log_id, Deadline()), Receipt)
        uploader.append([make_entry()], leave_unsealed, Deadline())
        uploader.close()
    finally:
        owner.close()
        for role in ("its_upload", "deid_upload", "deid_search"):
            postgresql.do(f"DROP OWNED BY {role}", f"DROP ROLE {role}", database=database)


FIELD = """
import sys
from deid_hooks.records import fields

fields.LATER_FIELDS = ("BodyPartExamined",)
fields.INDEXED_FIELDS = (*fields.INDEXED_FIELDS, "BodyPartExamined")

from deid_hooks.backends.tables import migrations
from deid_hooks.backends.tables.columns import Column

migrations.STEPS["3: BodyPartExamined"] = lambda changes: changes.add_column(
    "deid_log", Column("BodyPartExamined")
)

from deid_hooks.deadline import Deadline
from deid_hooks.log import make_backend
from deid_hooks.query.parser import parse_terms
from deid_hooks.testing.records import fresh_id, leave_unsealed, make_entry
from deid_hooks_sql.roles import make_script
from test_sql_migrations import ENTRIES, assert_whole

log = make_backend(sys.argv[1])
log.upgrade(Deadline(60))
assert_whole(log)
log.check(Deadline())
log.append(ENTRIES, leave_unsealed, Deadline())
entry = make_entry(fields={"BodyPartExamined": ("CHEST", "LUNG")})
log.append([entry], leave_unsealed, Deadline())
assert log.resolve(entry.log_id, Deadline()) == entry
for value in ("CHEST", "LUNG"):
    found = log.search(parse_terms([f"BodyPartExamined={value}"]), Deadline())
    assert list(found) == [entry.log_id]
print(make_script())
"""


def test_an_indexed_field_is_added_in_one_place_and_by_one_step(
    request: pytest.FixtureRequest, old: SQLBackend
) -> None:
    command = [sys.executable, "-c", FIELD, old.url]
    here = Path(__file__).parent
    environment = {"PYTHONPATH": f"{here}:{here.parents[2]}", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    if not old.url.startswith("postgresql"):
        return
    server, database = request.getfixturevalue("postgresql"), old.url.rpartition("/")[2]
    try:  # the owner's function vouches for entries with a value there, and without
        server.do(done.stdout, database=database)
        asked = "SELECT whole FROM deid_log, deid_log_receipt(id)"
        assert set(server.do(asked, database=database)) == {(True,)}
        assert len(server.do(asked, database=database)) == len(ENTRIES) + 1
    finally:
        for role in ("deid_upload", "deid_search"):
            server.do(f"DROP OWNED BY {role}", f"DROP ROLE {role}", database=database)


def test_no_table_is_forgotten() -> None:
    assert {"deid_log_chain", "deid_log_migration"} <= set(TABLES)
