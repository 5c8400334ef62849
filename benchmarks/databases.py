"""What a store costs beside its bare driver, which inserts the same rows as durably, in turn.

python -m benchmarks.databases [ENTRIES ROUNDS]

Servers are started on loopback: PostgreSQL from the wheel, MariaDB if it is installed.
"""

from __future__ import annotations

import shutil
import sqlite3
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pymysql

from deid_hooks.backends import Deadline
from deid_hooks.log import make_backend
from deid_hooks.records.fields import INDEXED_FIELDS
from deid_hooks.records.model import Entry, Instance
from deid_hooks.testing.records import chain_seals, make_entry

sys.path.append(str(Path(__file__).parents[1] / "plugins" / "deid-hooks-sql" / "tests"))

_TABLES = ("deid_log", "deid_instance", "deid_uid", "deid_value", "deid_word")
Rows = dict[int, dict[str, list[tuple[Any, ...]]]]


def entry(number: int, instances: int) -> Entry:
    """As a CT series leaves it: about 1.5 KB, and 300 bytes and a UID more an instance."""
    uids = [f"1.2.840.113619.2.55.3.{number}.{n}" for n in range(instances)]
    return make_entry(
        fields={keyword: (f"{keyword} {number}",) for keyword in INDEXED_FIELDS},
        deid={"PatientID": (f"SUBJ-{number}",), "StudyInstanceUID": (f"2.25.{number}",)},
        originals='{"00100010":{"vr":"PN"}}'.ljust(1000),
        instances=tuple(Instance(uid, f"2.25{uid}", "{}".ljust(300)) for uid in uids),
        uids=tuple((f"2.25.7{uid}", uid) for uid in uids[: max(1, instances // 4)]),
        patients=(f"{number:064x}",),
    )


def compare(name: str, first: str, second: str, entries: int, rounds: int) -> None:
    """Append to the log at the first URL and, the same rows, with the driver at the second."""
    backend, other = make_backend(first), make_backend(second)
    backend.create(Deadline(60))
    other.create(Deadline(60))
    other.close()
    with _driver(first) as (reader, _), _driver(second) as (writer, mark):
        for instances in (1, 20):
            ours, bare = [], []
            for _ in range(rounds):
                made = [entry(n, instances) for n in range(entries)]
                begun = time.perf_counter()
                for each in made:
                    backend.append([each], chain_seals, Deadline())
                ours.append(entries / (time.perf_counter() - begun))
                columns, rows = _rows_of(reader, [each.log_id for each in made])
                begun = time.perf_counter()
                for tables in rows.values():
                    _insert(writer, mark, columns, tables)
                bare.append(entries / (time.perf_counter() - begun))
            rate, of_driver = median(ours), median(bare)
            figures = f"{rate:>9.0f} {rate * instances:>11.0f} {of_driver:>8.0f}"
            print(f"{name:<11} {instances:>9} {figures} {rate / of_driver:>6.2f}", flush=True)
    backend.close()


def _rows_of(connection: Any, log_ids: list[str]) -> tuple[dict[str, list[str]], Rows]:
    columns: dict[str, list[str]] = {}
    rows: Rows = defaultdict(lambda: defaultdict(list))
    cursor = connection.cursor()
    listed = ", ".join(f"'{log_id}'" for log_id in log_ids)
    cursor.execute(f"SELECT seq FROM deid_log WHERE id IN ({listed})")
    seqs = ", ".join(str(seq) for (seq,) in cursor.fetchall())
    for table in _TABLES:
        place = "seq" if table == "deid_log" else "entry"
        cursor.execute(f"SELECT * FROM {table} WHERE {place} IN ({seqs})")
        columns[table] = [column[0] for column in cursor.description]
        at = columns[table].index(place)
        for row in cursor.fetchall():
            rows[row[at]][table].append(row)
    connection.commit()
    return columns, rows


def _insert(
    connection: Any,
    mark: str,
    columns: dict[str, list[str]],
    tables: dict[str, list[tuple[Any, ...]]],
) -> None:
    cursor = connection.cursor()
    for table, rows in tables.items():
        names = ", ".join(f'"{name}"' for name in columns[table])
        marks = ", ".join([mark] * len(columns[table]))
        cursor.executemany(f"INSERT INTO {table} ({names}) VALUES ({marks})", rows)
    connection.commit()


@contextmanager
def _driver(url: str) -> Iterator[tuple[Any, str]]:
    parts = urlsplit(url)
    database = parts.path.removeprefix("/")
    if url.startswith("sqlite"):
        connection: Any = sqlite3.connect(database)
        connection.execute("PRAGMA synchronous = FULL")
        mark = "?"
    elif url.startswith("postgresql"):
        connection, mark = psycopg.connect(url), "%s"
    else:
        where = {"host": parts.hostname, "port": parts.port, "user": parts.username}
        connection = pymysql.connect(**where, database=database, sql_mode="ANSI_QUOTES")
        mark = "%s"
    try:
        yield connection, mark
    finally:
        connection.close()


def main(entries: int, rounds: int) -> None:
    from sql_servers import MariaDBServer, PostgreSQLServer, Server

    Server.room = Path(tempfile.gettempdir())  # a disk
    title = f"{'store':<11} {'instances':>9} {'entries/s':>9} {'instances/s':>11} {'driver/s':>8}"
    print(f"{title} {'share':>6}")
    with tempfile.TemporaryDirectory() as folder:
        compare("sqlite", f"sqlite:///{folder}/a.db", f"sqlite:///{folder}/b.db", entries, rounds)
    postgresql = PostgreSQLServer()
    try:
        postgresql.initialise().start().do("CREATE DATABASE a", "CREATE DATABASE b")
        urls = postgresql.url("a"), postgresql.url("b")
        compare("postgresql", *urls, entries, rounds)
    finally:
        postgresql.remove()
    if shutil.which("mariadbd"):
        mariadb = MariaDBServer()
        try:
            mariadb.start().do("CREATE DATABASE a", "CREATE DATABASE b")
            compare("mariadb", mariadb.url("a"), mariadb.url("b"), entries, rounds)
        finally:
            mariadb.remove()


if __name__ == "__main__":
    main(*(map(int, sys.argv[1:]) if sys.argv[1:] else (200, 5)))
