"""Durable appends of our SQLite store against raw ``sqlite3`` that writes the same rows.

The same tables and indexes, the same PRAGMAs, a transaction an acquisition, in turn.

python -m benchmarks.append [ACQUISITIONS ROUNDS]
"""

from __future__ import annotations

import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from dicognito.anonymizer import Anonymizer
from pydicom import Dataset

from benchmarks.ct import dataset
from deid_hooks import capture, changes
from deid_hooks.backends.sqlite import SQLiteBackend
from deid_hooks.deadline import Deadline
from deid_hooks.dicom.difference import assemble, list_patients
from deid_hooks.records.fields import INDEXED_FIELDS
from deid_hooks.records.keys import RootKey, key_entry
from deid_hooks.records.model import Entry, make_log_id
from deid_hooks.testing.records import chain_seals

Rows = dict[str, list[tuple[object, ...]]]


def main(acquisitions: int, rounds: int) -> None:
    print(f"{'instances':>9} {'raw us':>8} {'ours us':>8} {'of raw':>7} {'bytes an instance':>18}")
    for instances in (1, 20):
        with tempfile.TemporaryDirectory() as name:
            _compare(Path(name), instances, acquisitions, rounds)


def _compare(folder: Path, instances: int, acquisitions: int, rounds: int) -> None:
    engine = Anonymizer(seed="s").anonymize
    entries = [_entry(number, instances, engine) for number in range(acquisitions * rounds)]
    ours, model = _store(folder / "ours.db"), _store(folder / "model.db")
    for entry in entries:
        model.append([entry], chain_seals, Deadline())
    model.close()
    rows = _rows_of(folder / "model.db")
    _store(folder / "raw.db").close()
    raw = _raw(folder / "raw.db")
    taken: dict[str, list[float]] = {"raw": [], "ours": []}
    for number, entry in enumerate(entries, 1):
        sides: list[tuple[str, Callable[[], None]]] = [
            ("raw", lambda part=rows[number]: _append(raw, part)),  # type: ignore[misc]
            ("ours", lambda entry=entry: ours.append([entry], chain_seals, Deadline())),  # type: ignore[misc]
        ]
        for side, append in sides if number % 2 else reversed(sides):
            begun = time.perf_counter()
            append()
            taken[side].append(time.perf_counter() - begun)
    ours.close()
    raw.close()
    of_raw = median(
        sum(taken["raw"][i : i + acquisitions]) / sum(taken["ours"][i : i + acquisitions])
        for i in range(0, len(entries), acquisitions)
    )
    size = (folder / "ours.db").stat().st_size / len(entries) / instances
    us = {side: median(seconds) * 1e6 for side, seconds in taken.items()}
    print(f"{instances:>9} {us['raw']:>8.0f} {us['ours']:>8.0f} {of_raw:>7.2f} {size:>18.0f}")


def _entry(number: int, instances: int, engine: Callable[[Dataset], object]) -> Entry:
    """What the log holds of a series of CT images."""
    gathered = []
    for instance in range(instances):
        ct = dataset(number, number, instance, b"\0\0")
        before = capture(ct)
        engine(ct)
        gathered.append(changes(before, ct))
    entry = assemble(gathered, make_log_id(), "TRIAL7", "benchmark", INDEXED_FIELDS)
    return key_entry(entry, list_patients(gathered), RootKey(b"s" * 32))


def _store(path: Path) -> SQLiteBackend:
    store = SQLiteBackend(f"sqlite:///{path}")
    store.create(Deadline())
    return store


def _rows_of(path: Path) -> dict[int, Rows]:
    """Every row that each entry left in the store, by its place in the order of the log."""
    connection = sqlite3.connect(path)
    found: dict[int, Rows] = {}
    tables = [
        name
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    ]
    for table in tables:
        columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
        owner = "entry" if "entry" in columns else "seq" if table == "deid_log" else None
        if owner:
            place = columns.index(owner)
            for row in connection.execute(f"SELECT * FROM {table} ORDER BY 1"):
                found.setdefault(row[place], {}).setdefault(table, []).append(row)
    connection.close()
    return found


def _raw(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "secure_delete = ON"):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def _append(connection: sqlite3.Connection, rows: Rows) -> None:
    connection.execute("BEGIN IMMEDIATE")
    for table, those in rows.items():
        marks = ", ".join("?" * len(those[0]))
        connection.executemany(f"INSERT INTO {table} VALUES ({marks})", those)
    connection.execute("COMMIT")


if __name__ == "__main__":
    asked = [int(word) for word in sys.argv[1:]]
    main(*(asked or (50, 5)))
