"""Read and search the log in SQLite, by pages, each in a transaction of its own."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

from deid_hooks.backends.contract import Key, Page, Statistics, count_fitting, estimate_size
from deid_hooks.backends.sqlite.connection import Opened, reading
from deid_hooks.backends.sqlite.schema import decode_cell, decode_cells, encode_cell, read_entry
from deid_hooks.backends.tables.columns import select_statement
from deid_hooks.backends.tables.conditions import Renderer, is_indexed, translate
from deid_hooks.backends.tables.migrations import CHAINS
from deid_hooks.backends.tables.rows import (
    RECORD_MAKERS,
    RECORD_TABLES,
    make_access,
    make_block,
    make_event,
)
from deid_hooks.deadline import Deadline
from deid_hooks.query.conditions import Query
from deid_hooks.records.model import AccessRow, Block, Entry, Record, Tombstone, UploadEvent

_RECORDS_A_PAGE = 200
_BYTES_A_PAGE = 4_000_000
_ROWS_A_PAGE = 1_000

_KINDS: tuple[type[Any], ...] = (Entry, *RECORD_TABLES)

# The next places in the order of the log, and the kind of record that each one is.
_PLACES = " UNION ALL ".join(
    f"SELECT * FROM (SELECT seq, {number} FROM {table} WHERE seq > ?1 ORDER BY seq LIMIT ?2)"  # noqa: S608
    for number, table in enumerate(("deid_log", *RECORD_TABLES.values()))
)


def read_page(opened: Opened, after: int) -> Page:
    """Return some records after the cursor, all kinds in one order; at least one if there is."""
    records: list[Record] = []
    size, seqs = 0, []
    with reading(opened) as connection:
        for seq, number in connection.execute(
            f"{_PLACES} ORDER BY 1 LIMIT ?2", (after, _RECORDS_A_PAGE)
        ).fetchall():
            record = _read_record(connection, _KINDS[number], seq)
            if record is None:
                continue
            records.append(record)
            seqs.append(seq)
            size += estimate_size(record) if isinstance(record, Entry) else 0
            if size > _BYTES_A_PAGE:
                break
        last = seqs[-1] if seqs else after
        seals = _read_seals(opened, after, last)
    return Page(tuple(records), tuple(seals.get(seq, "") for seq in seqs), last)


def find_held(connection: sqlite3.Connection, key: Key) -> Record | None:
    """Return the record that the log holds under a key, within a transaction that writes."""
    if isinstance(key, UploadEvent):
        rows = connection.execute(
            f"{select_statement('deid_log_upload')} WHERE log_id = ?", (encode_cell(key.log_id),)
        )
        return next((key for row in rows if make_event(decode_cells(row[1:])) == key), None)
    kind, id_ = key
    table = "deid_log" if kind is Entry else RECORD_TABLES[kind]
    seq = _find_seq(connection, table, id_)
    return None if seq is None else _read_record(connection, kind, seq)


def resolve(opened: Opened, log_id: str) -> Entry | Tombstone | None:
    """Return the entry or tombstone under this id."""
    with reading(opened) as connection:
        found = find_held(connection, (Entry, log_id)) or find_held(connection, (Tombstone, log_id))
    return found if isinstance(found, Entry | Tombstone) else None


def read_entries(opened: Opened, log_ids: Sequence[str]) -> tuple[list[Entry], int]:
    """Return entries of some of these ids in that order, and how many of the ids that took."""
    with reading(opened) as connection:
        return _read_some(connection, [_find_seq(connection, "deid_log", i) for i in log_ids])


def read_entries_at(opened: Opened, seqs: Sequence[int]) -> tuple[list[Entry], int]:
    """Return entries at some of these places, and how many of the places that took."""
    with reading(opened) as connection:
        return _read_some(connection, seqs)


def find_digest(opened: Opened, digest: str) -> str | None:
    """Return the id of the oldest entry with this digest."""
    with reading(opened) as connection:
        row = connection.execute(
            "SELECT id FROM deid_log WHERE digest = ? ORDER BY seq LIMIT 1", (encode_cell(digest),)
        ).fetchone()
        return None if row is None else decode_cell(row[0])


def read_events(
    opened: Opened, after: int, log_ids: Sequence[str] | None
) -> tuple[list[UploadEvent], int]:
    """Return some upload events after the cursor, of these entries or of all; the next cursor."""
    some = "" if log_ids is None else f" AND log_id IN ({', '.join('?' * len(log_ids))})"
    with reading(opened) as connection:
        rows = connection.execute(
            f"{select_statement('deid_log_upload')} WHERE seq > ?{some} ORDER BY seq LIMIT ?",
            (after, *map(encode_cell, log_ids or ()), _ROWS_A_PAGE),
        ).fetchall()
    events = [make_event(decode_cells(row[1:])) for row in rows]
    return events, rows[-1][0] if rows else after


def read_blocks(opened: Opened, patients: Collection[str]) -> list[Block]:
    """Return the blocks of these patients, oldest first."""
    marks = ", ".join("?" * len(patients))
    with reading(opened) as connection:
        rows = connection.execute(
            f"{select_statement('deid_log_block')} WHERE patient IN ({marks}) ORDER BY seq",
            tuple(map(encode_cell, patients)),
        ).fetchall()
    return [make_block(decode_cells(row[1:])) for row in rows]


def find_label(opened: Opened, project: str, patient: str) -> str | None:
    """Return the de-identified PatientID of the oldest entry of this patient in this project."""
    with reading(opened) as connection:
        row = connection.execute(
            "SELECT deid_PatientID FROM deid_log WHERE patients = ? AND project = ?"
            " AND deid_PatientID != '' ORDER BY seq LIMIT 1",
            (encode_cell(patient), encode_cell(project)),
        ).fetchone()
    return None if row is None else decode_cell(row[0])


def read_trail(opened: Opened, after: int) -> tuple[list[tuple[AccessRow, str]], int]:
    """Return some access rows after the cursor with their seals, and the next cursor."""
    with reading(opened) as connection:
        rows = connection.execute(
            f"{select_statement('deid_log_access')} WHERE seq > ? ORDER BY seq LIMIT ?",
            (after, _ROWS_A_PAGE),
        ).fetchall()
        last = rows[-1][0] if rows else after
        seals = _read_seals(opened, after, last)
    return [(make_access(decode_cells(row[1:])), seals.get(row[0], "")) for row in rows], last


def _read_seals(opened: Opened, after: int, last: int) -> dict[int, str]:
    sql = f"SELECT seq, seal FROM {CHAINS[opened.version]} WHERE seq > ? AND seq <= ?"  # noqa: S608
    return {seq: decode_cell(seal) for seq, seal in opened.connection.execute(sql, (after, last))}


def _read_some(
    connection: sqlite3.Connection, seqs: Sequence[int | None]
) -> tuple[list[Entry], int]:
    found: list[Entry] = []

    def read_sizes() -> Iterator[int]:
        for seq in seqs:
            entry = None if seq is None else read_entry(connection, seq)
            if entry is not None:
                found.append(entry)
            yield 0 if entry is None else estimate_size(entry)

    return found, count_fitting(read_sizes(), _BYTES_A_PAGE)


def _find_seq(connection: sqlite3.Connection, table: str, id_: str) -> int | None:
    row = connection.execute(
        f"SELECT seq FROM {table} WHERE id = ?",  # noqa: S608 - our constants
        (encode_cell(id_),),
    ).fetchone()
    return None if row is None else int(row[0])


def _read_record(connection: sqlite3.Connection, kind: type[Any], seq: int) -> Record | None:
    if kind is Entry:
        return read_entry(connection, seq)
    table = RECORD_TABLES[kind]
    row = connection.execute(f"{select_statement(table)} WHERE seq = ?", (seq,)).fetchone()
    return None if row is None else RECORD_MAKERS[table](decode_cells(row[1:]))


_COUNTS = {
    "entries": "SELECT count(*) FROM deid_log",
    "instances": "SELECT count(*) FROM deid_instance",
    "patients": "SELECT count(*) FROM (SELECT DISTINCT patients FROM deid_log WHERE patients > '')",
    "projects": "SELECT count(DISTINCT project) FROM deid_log",
    "forgotten": "SELECT count(*) FROM deid_log_tombstone",
    "blocked": "SELECT count(*) FROM (SELECT lifted, max(seq) FROM deid_log_block"
    " GROUP BY patient, project) WHERE NOT lifted",
    "accesses": "SELECT count(*) FROM deid_log_access",
}
_COPIES = """
    SELECT destination, event, count(*) FROM (
        SELECT destination, event, max(seq) FROM deid_log_upload GROUP BY log_id, destination
    ) GROUP BY destination, event ORDER BY destination, event
"""
_ENDS = "SELECT created FROM deid_log ORDER BY seq {} LIMIT 1"


def count(opened: Opened) -> Statistics:
    """Count what the log holds, each kind in a transaction of its own."""
    counts = {}
    for name, sql in _COUNTS.items():
        with reading(opened) as connection:
            counts[name] = int(connection.execute(sql).fetchone()[0])
    with reading(opened) as connection:
        copies = connection.execute(_COPIES).fetchall()
        ends = [connection.execute(_ENDS.format(way)).fetchone() for way in ("", "DESC")]
    return Statistics(
        counts,
        [(decode_cell(destination), decode_cell(event), n) for destination, event, n in copies],
        *(decode_cell(row[0]) if row else "" for row in ends),
    )


T = TypeVar("T")

_MOST_BY_INDEX = 10_000
_SECONDS_BY_INDEX = 1.0
_ENTRIES_A_SCAN = 1_000
_ENTRIES_AT_FIRST = 50
_INDEX = re.compile(r"USING (?:COVERING )?INDEX (\S+)")


class RunPage(Protocol):
    """Runs a job on a connection, within a deadline of its own."""

    def __call__(self, job: Callable[[Opened], T]) -> T: ...


class SQLiteRenderer(Renderer):
    """Renders conditions for a ``scan`` of the entries, or for the use of indexes."""

    mark = "?"
    position = "instr"

    def __init__(self, scan: bool) -> None:
        self._scan = scan

    def quote(self, column: str) -> str:
        return f"[{column}]"

    def encode(self, text: str) -> str | bytes:
        return encode_cell(text)

    def render_lookup(self, table: str, compare: str) -> str:
        if self._scan:
            return (
                f"EXISTS (SELECT 1 FROM {table} part WHERE part.entry = deid_log.seq AND {compare})"  # noqa: S608
            )
        return f"seq IN (SELECT entry FROM {table} WHERE {compare})"  # noqa: S608


def search(query: Query, run: RunPage) -> Iterator[str]:
    """Yield the ids of the entries that match, oldest first, in a bounded amount of memory.

    The first pages are small: who wants a few of many does not wait for more.
    """
    size = _ENTRIES_AT_FIRST
    for seqs in _find_candidates(query, run):
        while seqs:
            entries, looked_at = run(partial(read_entries_at, seqs=seqs[:size]))
            yield from (entry.log_id for entry in entries if query.matches(entry))
            seqs, size = seqs[looked_at:], min(4 * size, _MOST_BY_INDEX)


def explain(opened: Opened, query: Query) -> list[tuple[str, str]]:
    """Return for each term its attribute and the indexes that serve it, or that none does."""
    explained = []
    for term in query.terms:
        with reading(opened) as connection:
            node = translate(Query((term,)), opened.version)
            where, values = SQLiteRenderer(scan=False).render(node)
            sql = f"EXPLAIN QUERY PLAN SELECT seq FROM deid_log WHERE {where}"  # noqa: S608
            plan = [row[3] for row in connection.execute(sql, values)]
        used = (found[1] for line in plan if (found := _INDEX.search(line)))
        names = ", ".join(dict.fromkeys(used)) if is_indexed(node) else ""
        name = term.name if term.side != "deid" else f"deid:{term.name}"
        explained.append((name, names or "none: every entry that the other terms leave is read"))
    return explained


def _find_candidates(query: Query, run: RunPage) -> Iterator[Sequence[int]]:
    """Yield places in the order of the log: all at once by an index, or else scan by scan."""
    found = run(partial(_find_by_index, query=query))
    if found is not None:
        yield found
        return
    after: int | None = 0
    while after is not None:
        found, after = run(partial(_find_by_scan, query=query, after=after))
        yield found


def _find_by_index(opened: Opened, query: Query) -> list[int] | None:
    """Return None if no index helps: if none fits, or there is too much to be read from it."""
    node = translate(query, opened.version)
    if not is_indexed(node):
        return None
    where, values = SQLiteRenderer(scan=False).render(node)
    sql = f"SELECT seq FROM deid_log WHERE {where} LIMIT {_MOST_BY_INDEX + 1}"  # noqa: S608
    whole, opened.deadline = (
        opened.deadline,
        Deadline(min(_SECONDS_BY_INDEX, opened.deadline.left() / 2)),
    )
    try:
        with reading(opened) as connection:
            rows = connection.execute(sql, values).fetchall()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
            raise
        return None
    finally:
        opened.deadline = whole
    return None if len(rows) > _MOST_BY_INDEX else sorted(seq for (seq,) in rows)


def _find_by_scan(opened: Opened, query: Query, after: int) -> tuple[list[int], int | None]:
    """Return candidates among the next entries, and where to go on; None at the end."""
    where, values = SQLiteRenderer(scan=True).render(translate(query, opened.version))
    with reading(opened) as connection:
        (last,) = connection.execute(
            "SELECT max(seq) FROM (SELECT seq FROM deid_log WHERE seq > ? ORDER BY seq LIMIT ?)",
            (after, _ENTRIES_A_SCAN),
        ).fetchone()
        rows = connection.execute(
            f"SELECT seq FROM deid_log NOT INDEXED WHERE seq > ? AND seq <= ? AND {where}"  # noqa: S608
            " ORDER BY seq",
            (after, last, *values),
        ).fetchall()
    return [seq for (seq,) in rows], last
