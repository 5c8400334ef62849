"""Whatever a server does, the caller is told the truth, in time, in a sentence without a value."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import psycopg
import pymysql
import pytest
from proxy import Proxy
from sql_servers import MariaDBServer, PostgreSQLServer, Server, free_port
from tests.whole.disks import remount, small_disk

from deid_hooks import AppendUnknown, LogUnavailable
from deid_hooks.backends import Deadline
from deid_hooks.errors import LogError
from deid_hooks.records.chain import parse_seal
from deid_hooks.records.model import Entry, Erasure
from deid_hooks.testing.records import chain_seals, make_entry
from deid_hooks_sql import MySQLBackend, PostgreSQLBackend, SQLBackend

_CANARY = "Zyxwvut^Canary"


@dataclass
class Place:
    """A log, its server, and URLs that lead to it by other ways."""

    server: Server
    url: str
    do: Callable[..., list[tuple[Any, ...]]]

    @property
    def kind(self) -> type[SQLBackend]:
        return PostgreSQLBackend if self.url.startswith("postgresql") else MySQLBackend

    @property
    def commit(self) -> bytes:
        """A commit as it passes by."""
        return b"COMMIT\0" if self.kind is PostgreSQLBackend else b"\x03COMMIT"

    def backend(self) -> SQLBackend:
        return self.kind(self.url)

    def by(self, port: int) -> SQLBackend:
        return self.kind(self.url.replace(f":{self.server.port}/", f":{port}/"))

    def as_user(self, user: str) -> SQLBackend:
        scheme, _, rest = self.url.partition("://")
        return self.kind(f"{scheme}://{user}@{rest.partition('@')[2]}")


@pytest.fixture(params=["postgresql", pytest.param("mariadb", marks=pytest.mark.ci)])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    server: PostgreSQLServer | MariaDBServer = request.getfixturevalue(request.param)
    url: str = request.getfixturevalue(f"{request.param}_url")
    database = url.rpartition("/")[2]

    def do(*statements: str) -> list[tuple[Any, ...]]:
        return server.do(*statements, database=database)

    yield Place(server, url, do)


@pytest.fixture
def log(place: Place) -> Iterator[SQLBackend]:
    made = place.backend()
    made.create(Deadline())
    yield made
    made.close()


@pytest.fixture
def proxy(place: Place) -> Iterator[Proxy]:
    made = Proxy(place.server.port)
    yield made
    made.close()


def _said(call: Callable[[], object], kind: type[LogError] = LogUnavailable) -> str:
    with pytest.raises(LogError) as caught:
        call()
    assert type(caught.value) is kind, str(caught.value)
    assert _CANARY not in str(caught.value) and "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    return str(caught.value)


def test_a_server_that_is_not_there_can_not_be_reached(place: Place) -> None:
    backend = place.by(free_port())
    assert "can't be reached" in _said(lambda: backend.check(Deadline()))


def test_a_host_that_nobody_knows_can_not_be_reached(place: Place) -> None:
    backend = place.kind(place.url.replace("127.0.0.1", "nowhere.invalid"))
    assert "can't be reached" in _said(lambda: backend.check(Deadline()))


def test_a_database_that_is_not_there_is_said_not_to_exist(place: Place) -> None:
    backend = place.kind(place.url + "_not")
    assert "does not exist" in _said(lambda: backend.check(Deadline()))


def test_a_wrong_password_is_refused_without_being_shown(place: Place) -> None:
    if isinstance(place.server, PostgreSQLServer):
        place.do("DROP ROLE IF EXISTS guarded", "CREATE ROLE guarded LOGIN PASSWORD 'other'")
    else:
        place.do("CREATE USER IF NOT EXISTS guarded@'127.0.0.1' IDENTIFIED BY 'other'")
    backend = place.as_user("guarded:s3cret")
    assert "refuses this user or password" in _said(lambda: backend.check(Deadline()))


def test_a_database_without_our_tables_is_no_log(place: Place) -> None:
    backend = place.backend()
    assert "deid-hooks init" in _said(
        lambda: backend.append([make_entry()], chain_seals, Deadline())
    )


def test_a_log_of_a_newer_version_is_left_alone(place: Place, log: SQLBackend) -> None:
    place.do("UPDATE deid_log_store SET version = 99")
    for backend in (log, place.backend()):  # one that was open before, and one that opens it now
        assert "has version 99, this program knows" in _said(
            partial(backend.append, [make_entry()], chain_seals, Deadline())
        )
    assert place.do("SELECT count(*) FROM deid_log") == [(0,)]


def test_a_user_who_may_only_read_can_not_write(place: Place, log: SQLBackend) -> None:
    if isinstance(place.server, PostgreSQLServer):
        place.do("DROP ROLE IF EXISTS reader", "CREATE ROLE reader LOGIN")
        place.do("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader")
    else:
        place.do(
            "CREATE USER IF NOT EXISTS reader@'127.0.0.1'",
            "GRANT SELECT ON *.* TO reader@'127.0.0.1'",
        )
    backend = place.as_user("reader")
    assert "this user may not do that" in _said(lambda: backend.check(Deadline()))
    assert "this user may not do that" in _said(
        lambda: backend.append([make_entry()], chain_seals, Deadline())
    )
    assert backend.read(0, Deadline()).records == ()
    if isinstance(place.server, PostgreSQLServer):
        place.do("DROP OWNED BY reader", "DROP ROLE reader")


@pytest.mark.parametrize("word", [b"BEGIN", b"INSERT"])
def test_a_connection_cut_before_the_commit_wrote_nothing(
    place: Place, log: SQLBackend, proxy: Proxy, word: bytes
) -> None:
    word = b"START" if word == b"BEGIN" and isinstance(place.server, MariaDBServer) else word
    backend, entry = place.by(proxy.port), make_entry()
    proxy.when(word, "before")
    assert "lost" in _said(lambda: backend.append([entry], chain_seals, Deadline()))
    assert log.resolve(entry.log_id, Deadline()) is None
    backend.append([entry], chain_seals, Deadline())
    assert log.resolve(entry.log_id, Deadline()) == entry
    backend.close()


@pytest.mark.parametrize("how", ["before", "after"])
def test_a_connection_cut_at_the_commit_leaves_it_unknown(
    place: Place, log: SQLBackend, proxy: Proxy, how: str
) -> None:
    backend, entry = place.by(proxy.port), make_entry()
    proxy.when(place.commit, how)
    said = _said(lambda: backend.append([entry], chain_seals, Deadline()), AppendUnknown)
    assert "is unknown" in said
    assert log.resolve(entry.log_id, Deadline()) == (entry if how == "after" else None)
    backend.append([entry], chain_seals, Deadline())
    assert list(log.everything(Deadline())) == [entry]
    backend.close()


@pytest.mark.parametrize(("word", "kind"), [(b"INSERT", LogUnavailable), (b"", AppendUnknown)])
def test_packets_that_are_dropped_keep_nobody_waiting(
    place: Place, log: SQLBackend, proxy: Proxy, word: bytes, kind: type[LogError]
) -> None:
    backend, entry = place.by(proxy.port), make_entry()
    backend.check(Deadline())
    proxy.when(word or place.commit, "hold")
    assert "no answer" in _said(lambda: backend.append([entry], chain_seals, Deadline(0.5)), kind)
    backend.append([entry], chain_seals, Deadline())
    assert list(log.everything(Deadline())) == [entry]
    backend.close()


def test_a_connection_that_was_cut_while_nobody_used_it_is_made_again(
    place: Place, log: SQLBackend, proxy: Proxy
) -> None:
    backend, entry = place.by(proxy.port), make_entry()
    backend.check(Deadline())
    proxy.when(b"deid_log_store", "before")
    backend.append([entry], chain_seals, Deadline())
    assert log.resolve(entry.log_id, Deadline()) == entry
    backend.close()


def test_a_server_that_accepts_and_never_answers_keeps_nobody_waiting(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        backend = place.by(silent.getsockname()[1])
        begun = time.monotonic()
        assert "no answer" in _said(
            lambda: backend.append([make_entry()], chain_seals, Deadline(0.5))
        )
        assert "no answer" in _said(lambda: backend.resolve("A" * 32, Deadline(0.5)))
        assert time.monotonic() - begun < 5


def test_a_server_that_talks_nonsense_can_not_be_used(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:

        def answer() -> None:
            made, _ = silent.accept()
            made.sendall(os.urandom(300))
            made.close()

        threading.Thread(target=answer, daemon=True).start()
        backend = place.by(silent.getsockname()[1])
        assert _said(lambda: backend.check(Deadline(5)))


def test_a_server_that_is_stopped_keeps_nobody_waiting_and_goes_on_later(
    place: Place, log: SQLBackend
) -> None:
    entries = [make_entry() for _ in range(3)]
    log.append(entries[:1], chain_seals, Deadline())
    place.server.send(signal.SIGSTOP)
    try:
        begun = time.monotonic()
        said = _said(lambda: log.append(entries[1:2], chain_seals, Deadline(0.5)))
        assert "no answer within 0.5 seconds" in said
        assert "no answer" in _said(lambda: log.check(Deadline(0.5)))
        assert "no answer" in _said(lambda: log.resolve(entries[0].log_id, Deadline(0.5)))
        assert time.monotonic() - begun < 5
    finally:
        place.server.send(signal.SIGCONT)
    log.append(entries[2:], chain_seals, Deadline())
    assert list(log.everything(Deadline())) == [entries[0], entries[2]]


def test_somebody_who_holds_the_lock_keeps_nobody_waiting(place: Place, log: SQLBackend) -> None:
    begin = "UPDATE deid_log_store SET last = last"
    if isinstance(place.server, PostgreSQLServer):
        holder: Any = psycopg.connect(place.url)
    else:
        database = place.url.rpartition("/")[2]
        holder = pymysql.connect(
            host="127.0.0.1", port=place.server.port, user="root", database=database
        )
    with closing(holder):
        holder.cursor().execute(begin)
        entry = make_entry()
        _said(lambda: log.append([entry], chain_seals, Deadline(0.5)))
        holder.rollback()
        time.sleep(0.2)
        assert log.resolve(entry.log_id, Deadline()) is None
    log.append([entry], chain_seals, Deadline())
    assert log.resolve(entry.log_id, Deadline()) == entry


def test_a_full_disk_of_the_server_is_said_to_be_full_and_nothing_is_half_written(
    postgresql: PostgreSQLServer,
) -> None:
    folder = postgresql.folder / "tight"
    with small_disk(folder, 24_000), ExitStack() as afterwards:
        if os.geteuid() == 0:
            shutil.chown(folder, "nobody")
        postgresql.do(f"CREATE TABLESPACE tight LOCATION '{folder}'")
        postgresql.do("CREATE DATABASE tight TEMPLATE template0 TABLESPACE tight")
        afterwards.callback(
            postgresql.do, "DROP DATABASE tight WITH (FORCE)", "DROP TABLESPACE tight"
        )
        log = PostgreSQLBackend(postgresql.url("tight"))
        log.create(Deadline())
        written = []
        with pytest.raises(LogUnavailable, match=r"the disk of .* is full"):
            for _ in range(40):
                entry = make_entry(large={"d": os.urandom(1_000_000)})
                log.append([make_entry(), entry], chain_seals, Deadline())
                written.append(entry)
        remount(folder, "size=60000k")  # PostgreSQL may want room to read, too
        assert [r for r in log.everything(Deadline(30)) if isinstance(r, Entry)][1::2] == written
        log.append([entry], chain_seals, Deadline())
        assert log.resolve(entry.log_id, Deadline()) == entry
        log.close()


def test_an_entry_that_mariadb_takes_in_no_packet_is_said_to_be_too_large(mariadb_url: str) -> None:
    with closing(MySQLBackend(mariadb_url)) as backend:
        backend.create(Deadline())
        large = {"digest": _CANARY.encode() * 1_500_000}
        said = _said(lambda: backend.append([make_entry(large=large)], chain_seals, Deadline(30)))
        assert said.startswith("a value is too large for the log")
        backend.append([make_entry()], chain_seals, Deadline())


def test_an_erasure_whose_traces_can_not_be_removed_says_so(postgresql_url: str) -> None:
    # On MariaDB a table is made anew beside those who read it.
    log, entry = PostgreSQLBackend(postgresql_url), make_entry()
    log.create(Deadline())
    log.append([entry], chain_seals, Deadline())
    erasure = Erasure("t", "who", "why")
    with psycopg.connect(postgresql_url) as reader:
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT 1 FROM pg_class LIMIT 1")
        said = _said(lambda: log.erase([entry.log_id], erasure, chain_seals, Deadline()), LogError)
        assert "traces may be left" in said
    assert list(log.entries([entry.log_id], Deadline())) == []
    log.erase([entry.log_id], erasure, chain_seals, Deadline())
    log.close()


def test_nothing_of_what_was_erased_is_left_in_the_files_of_the_tables(
    place: Place, log: SQLBackend
) -> None:
    entries = [
        make_entry(
            fields={"PatientName": (_CANARY,), "PatientID": (_CANARY,)},
            originals=f'{{"x":"{_CANARY}"}}',
            uids=(("2.25.9", _CANARY),),
            large={"d": _CANARY.encode() * 200},
        )
        for _ in range(20)
    ]
    log.append(entries, chain_seals, Deadline())
    log.append([make_entry()], chain_seals, Deadline())
    sealed = map(parse_seal, log.read(0, Deadline()).seals[: len(entries)])
    salts = [seal.salt for seal in sealed if seal]
    _flush(place)
    assert _find_in_tables(place, _CANARY)
    assert all(_find_in_tables(place, salt) for salt in salts) and len(salts) == len(entries)
    log.erase(
        [entry.log_id for entry in entries], Erasure("t", "who", "why"), chain_seals, Deadline(30)
    )
    _flush(place)
    assert not any(_find_in_tables(place, text) for text in (_CANARY, *salts))


def _flush(place: Place) -> None:
    if isinstance(place.server, PostgreSQLServer):
        place.do("CHECKPOINT")
    else:
        place.do("SET GLOBAL innodb_max_dirty_pages_pct = 0")
        place.do("FLUSH TABLES deid_log, deid_log_chain FOR EXPORT", "UNLOCK TABLES")


def _find_in_tables(place: Place, text: str) -> list[str]:
    """Return the files of the database's own folder that hold a text."""
    folder = place.server.folder / "data"
    if isinstance(place.server, PostgreSQLServer):
        [(number,)] = place.do("SELECT oid FROM pg_database WHERE datname = current_database()")
        folder = folder / "base" / str(number)
    else:
        folder = folder / place.url.rpartition("/")[2]
    files = (path for path in folder.iterdir() if path.is_file())
    return [path.name for path in files if text.encode() in path.read_bytes()]
