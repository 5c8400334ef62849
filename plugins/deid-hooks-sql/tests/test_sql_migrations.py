"""A log of the version before is read, an older one is not; init --upgrade upgrades both."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial

import psycopg
import pytest
from sql_servers import MariaDBServer, PostgreSQLServer
from tests.backends.upgrading import (
    FOREIGN,
    KEYRING,
    NEW_FIELD,
    OLDER,
    ROOT,
    VERSION_1,
    VERSION_2,
    OldLog,
    assert_found,
    assert_one_waits,
    assert_upgraded,
    find_faults,
    read_all,
    record_accesses,
    start_upgrade,
    upgrade,
    write_again,
)

from deid_hooks import LogUnavailable
from deid_hooks.backends.contract import Receipt
from deid_hooks.backends.tables.columns import TABLES
from deid_hooks.backends.tables.migrations import UPGRADING, VERSION
from deid_hooks.deadline import Deadline
from deid_hooks.log import Log, make_backend
from deid_hooks.query.parser import parse_terms
from deid_hooks.records.model import Block, Erasure, UploadEvent
from deid_hooks.testing.records import chain_seals, make_entry
from deid_hooks_sql import PostgreSQLBackend, SQLBackend
from deid_hooks_sql.roles import make_script

MODULE = "deid_hooks_sql.migrations"
ERASURE = Erasure("t", "who", "why")


def load_postgresql(old: OldLog, url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(old.read("postgresql.sql").encode())


def load_mariadb(old: OldLog, server: MariaDBServer, url: str) -> None:
    statements = [each for each in old.read("mariadb.sql").split(";\n") if each.strip()]
    server.do(*statements, database=url.rpartition("/")[2])


@pytest.fixture(params=["postgresql", pytest.param("mariadb", marks=pytest.mark.ci)])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(request: pytest.FixtureRequest, kind: str) -> PostgreSQLServer | MariaDBServer:
    found: PostgreSQLServer | MariaDBServer = request.getfixturevalue(kind)
    return found


@pytest.fixture
def url(request: pytest.FixtureRequest, kind: str) -> str:
    return str(request.getfixturevalue(f"{kind}_url"))


@pytest.fixture(params=OLDER, ids=repr)
def old(request: pytest.FixtureRequest) -> OldLog:
    """Each older version."""
    found: OldLog = request.param
    return found


def load(old: OldLog, server: PostgreSQLServer | MariaDBServer, url: str) -> SQLBackend:
    if isinstance(server, PostgreSQLServer):
        load_postgresql(old, url)
    else:
        load_mariadb(old, server, url)
    made = make_backend(url)
    assert isinstance(made, SQLBackend)
    return made


@pytest.fixture
def log(old: OldLog, server: PostgreSQLServer | MariaDBServer, url: str) -> Iterator[SQLBackend]:
    """A log of an older version."""
    made = load(old, server, url)
    yield made
    made.close()


@pytest.fixture
def readable(server: PostgreSQLServer | MariaDBServer, url: str) -> Iterator[SQLBackend]:
    """A log of the version before."""
    made = load(VERSION_2, server, url)
    yield made
    made.close()


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
        "SELECT id, salt, commitment, exact FROM deid_log_access",
        "SELECT seal FROM deid_log_chain",
        "SELECT name FROM deid_log_migration",
        "SELECT version FROM deid_log_store",
    ]
    return [sorted(map(repr, server.do(query, database=database))) for query in queries]


def read_tables(server: PostgreSQLServer | MariaDBServer, url: str) -> dict[str, list[str]]:
    """Return all that the tables hold."""
    database = url.rpartition("/")[2]
    schema = "'public'" if isinstance(server, PostgreSQLServer) else "DATABASE()"
    names = server.do(
        f"SELECT table_name FROM information_schema.tables WHERE table_schema = {schema}",
        database=database,
    )
    return {
        name: sorted(map(repr, server.do(f"SELECT * FROM {name}", database=database)))
        for (name,) in names
    }


def test_the_log_of_the_version_before_is_read(readable: SQLBackend) -> None:
    assert read_all(readable) == VERSION_2.records
    assert_found(readable, VERSION_2.entries)
    sealed = [(record, seal) for record, seal in VERSION_2.records if seal]
    assert list(readable.trail(Deadline())) == sealed


def test_who_reads_it_is_recorded_in_its_trail(readable: SQLBackend) -> None:
    rows = record_accesses(readable)
    found = read_all(readable)
    assert [record for record, _ in found] == [*(r for r, _ in VERSION_2.records), *rows]
    assert all(seal for _, seal in list(readable.trail(Deadline()))[-3:])
    upgrade(readable)
    assert [row.asked for row, _ in list(readable.trail(Deadline()))[-3:]] == [
        r.asked for r in rows
    ]
    assert find_faults(readable) == []


def test_nothing_else_is_written_to_it(readable: SQLBackend) -> None:
    event = UploadEvent("a", "t", "cleared", "d", "u")
    calls: list[Callable[[Deadline], object]] = [
        partial(readable.append, [make_entry()], chain_seals),
        partial(readable.append, [event], chain_seals),
        partial(readable.append, [Block("a", "t", "p", "", "who")], chain_seals),
        partial(readable.append, [], chain_seals),
        partial(readable.erase, [VERSION_2.entries[0].log_id], ERASURE, chain_seals),
        partial(readable.blocks_after, 0),
        readable.check,
    ]
    for call in calls:
        with pytest.raises(LogUnavailable, match=r"has version 2.*deid-hooks init --upgrade"):
            call(Deadline())
    readable.create(Deadline())  # leaves a log that is there as it is
    assert read_all(readable) == VERSION_2.records


def test_an_older_log_is_neither_read_nor_written(
    server: PostgreSQLServer | MariaDBServer, url: str
) -> None:
    log = load(VERSION_1, server, url)
    before = read_tables(server, url)
    entry = VERSION_1.entries[0]
    calls: list[Callable[[Deadline], object]] = [
        partial(log.read, 0),
        partial(log.resolve, entry.log_id),
        lambda deadline: list(log.search(parse_terms(["Aero"]), deadline)),
        lambda deadline: list(log.trail(deadline)),
        lambda deadline: record_accesses(log),
        partial(log.append, [make_entry()], chain_seals),
        partial(log.erase, [entry.log_id], ERASURE, chain_seals),
        log.create,
        log.check,
    ]
    for call in calls:
        with pytest.raises(LogUnavailable, match=r"has version 1.*deid-hooks init --upgrade"):
            call(Deadline())
    log.close()
    assert read_tables(server, url) == before


def test_an_upgraded_log_holds_the_same_and_is_like_a_fresh_one(
    server: PostgreSQLServer | MariaDBServer, log: SQLBackend, old: OldLog
) -> None:
    assert upgrade(log) == f"to version {VERSION}"
    assert_upgraded(log, old)
    record_accesses(log)
    assert find_faults(log) == []
    assert upgrade(log) == ""
    sealed = read_all(log)
    is_postgresql = isinstance(server, PostgreSQLServer)
    server.do("CREATE DATABASE fresh" + (" TEMPLATE template0" if is_postgresql else ""))
    try:
        fresh = make_backend(server.url("fresh"))
        write_again(fresh, sealed)
        assert read_all(fresh) == sealed
        fresh.close()
        assert describe(server, log.url) == describe(server, server.url("fresh"))
    finally:
        server.do("DROP DATABASE fresh" + (" WITH (FORCE)" if is_postgresql else ""))


def test_a_log_of_another_site_secret_is_not_upgraded(
    server: PostgreSQLServer | MariaDBServer, log: SQLBackend, old: OldLog
) -> None:
    before = read_tables(server, log.url)
    with pytest.raises(LogUnavailable, match="another site secret"):
        upgrade(log, FOREIGN)
    log.close()
    assert read_tables(server, log.url) == before
    assert upgrade(log)
    assert_upgraded(log, old)


@pytest.mark.ci
def test_an_upgrade_that_is_killed_again_and_again_ends_whole(log: SQLBackend, old: OldLog) -> None:
    for changes in (*range(0, 30, 2), 40, 60, 1000):
        if start_upgrade(log, MODULE, changes).wait() == 0:
            break
        with pytest.raises(LogUnavailable, match="init --upgrade"):
            log.check(Deadline())
    assert_upgraded(log, old)


def test_of_two_upgrades_at_once_one_waits(log: SQLBackend, old: OldLog) -> None:
    assert_one_waits(log, MODULE, old)


def test_who_had_the_log_open_before_its_upgrade_goes_on(readable: SQLBackend) -> None:
    other = make_backend(readable.url)
    for _ in range(20):  # by statements that the server has prepared
        assert list(other.trail(Deadline())) and other.read(0, Deadline()).records
    upgrade(readable)
    record_accesses(other)
    assert other.read(0, Deadline()).records
    Log(other, KEYRING).append([VERSION_2.entries[0]])
    assert find_faults(other) == []
    other.close()


@pytest.mark.parametrize(
    ("version", "words"),
    [(VERSION + 1, f"version {VERSION + 1}, .* knows {VERSION}"), (UPGRADING, "being")],
)
def test_a_newer_log_is_neither_read_nor_written(
    server: PostgreSQLServer | MariaDBServer, readable: SQLBackend, version: int, words: str
) -> None:
    update = f"UPDATE deid_log_store SET version = {version}"
    server.do(update, database=readable.url.rpartition("/")[2])
    calls: list[Callable[[Deadline], object]] = [
        partial(readable.append, [make_entry()], chain_seals),
        readable.check,
        partial(readable.read, 0),
    ]
    if version != UPGRADING:
        calls.append(partial(readable.upgrade, chain_seals))
    for call in calls:
        with pytest.raises(LogUnavailable, match=words):
            call(Deadline())


def test_check_names_a_column_that_is_missing_or_too_much(
    server: PostgreSQLServer | MariaDBServer, readable: SQLBackend
) -> None:
    upgrade(readable)
    database = readable.url.rpartition("/")[2]
    server.do("ALTER TABLE deid_log ADD COLUMN Later text", database=database)
    with pytest.raises(LogUnavailable, match="deid_log has a column later"):
        readable.check(Deadline())
    server.do("ALTER TABLE deid_log DROP COLUMN Later", database=database)
    server.do("ALTER TABLE deid_log_block DROP COLUMN reason", database=database)
    with pytest.raises(LogUnavailable, match="deid_log_block has no column reason"):
        readable.check(Deadline())


def test_the_roles_are_those_of_the_tables_after_the_script_ran_again(
    postgresql: PostgreSQLServer, postgresql_url: str, old: OldLog
) -> None:
    load_postgresql(old, postgresql_url)
    database = postgresql_url.rpartition("/")[2]
    owner = PostgreSQLBackend(postgresql_url)
    try:
        if old is VERSION_2:  # whose tables this version of the script knows
            postgresql.do(make_script(), database=database)
        upgrade(owner)
        for _ in range(2):
            postgresql.do(make_script(), database=database)
        for name in ("upload", "search"):
            postgresql.do(f"CREATE ROLE its_{name} LOGIN IN ROLE deid_{name}", database=database)
        uploader = PostgreSQLBackend(postgresql_url.replace("postgres@", "its_upload@"))
        uploader.check(Deadline())
        for entry in old.entries:
            assert isinstance(uploader.resolve(entry.log_id, Deadline()), Receipt)
        Log(uploader, KEYRING).append([make_entry()])
        assert Log(uploader, KEYRING).find_blocks(["p" * 64]) == [
            record
            for record, _ in old.records
            if isinstance(record, Block) and record.patient == "p" * 64
        ]
        uploader.close()
        searcher = PostgreSQLBackend(postgresql_url.replace("postgres@", "its_search@"))
        record_accesses(searcher)
        assert find_faults(searcher) == []
        searcher.close()
    finally:
        owner.close()
        for role in ("its_upload", "its_search", "deid_upload", "deid_search"):
            postgresql.do(f"DROP OWNED BY {role}", f"DROP ROLE {role}", database=database)


PROGRAM = """
import sys
from deid_hooks.log import make_backend
from deid_hooks_sql.roles import make_script

log = make_backend(sys.argv[1])
upgrade(log)
assert_upgraded(log, OldLog(int(sys.argv[2])))
use_new_field(log)
log.close()
print(make_script())
"""


def test_an_indexed_field_is_added_in_one_place_and_by_one_step(
    server: PostgreSQLServer | MariaDBServer, log: SQLBackend, old: OldLog
) -> None:
    command = [sys.executable, "-c", NEW_FIELD + PROGRAM, log.url, str(old.version)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    if not isinstance(server, PostgreSQLServer):
        return
    database = log.url.rpartition("/")[2]
    try:  # the owner's function vouches for entries with a value there, and without
        server.do(done.stdout, database=database)
        asked = "SELECT whole FROM deid_log, deid_log_receipt(id)"
        assert set(server.do(asked, database=database)) == {(True,)}
        assert len(server.do(asked, database=database)) == len(old.entries) + 1
    finally:
        for role in ("deid_upload", "deid_search"):
            server.do(f"DROP OWNED BY {role}", f"DROP ROLE {role}", database=database)


def test_no_table_is_forgotten() -> None:
    assert {"deid_log_chain", "deid_log_migration"} <= set(TABLES)
