"""Read and search the log in SQLite, by pages, each in a transaction of its own."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

from deid_hooks.backends.contract import (
    BlocksPage,
    Key,
    Page,
    Statistics,
    count_fitting,
    estimate_size,
)
from deid_hooks.backends.sqlite.connection import Opened, reading
from deid_hooks.backends.sqlite.schema import decode_cell, decode_cells, encode_cell, read_entry
from deid_hooks.backends.tables.columns import BEGINNING, select_statement
from deid_hooks.backends.tables.conditions import Renderer, is_indexed, translate
from deid_hooks.backends.tables.migrations import VERSION, refuse_other
from deid_hooks.backends.tables.rows import (
    RECORD_MAKERS,
    RECORD_TABLES,
    make_access,
    make_block,
    make_event,
)
from deid_hooks.deadline import Deadline
from deid_hooks.query.conditions import Query
from deid_hooks.records.chain import make_erased
from deid_hooks.records.model import AccessRow, Block, Entry, Record, Tombstone, UploadEvent

_RECORDS_A_PAGE = 200
_BYTES_A_PAGE = 4_000_000
_ROWS_A_PAGE = 1_000

_KINDS: tuple[type[Any], ...] = (Entry, *RECORD_TABLES)

# The next places in the order of the log, and the kind of record that each one is; -1 for one that
# was erased.
_PLACES = " UNION ALL ".join(
    f"SELECT * FROM (SELECT seq, {number} kind FROM {table} WHERE seq > ?1 ORDER BY seq LIMIT ?2)"  # noqa: S608
    for number, table in enumerate(("deid_log_chain", "deid_log", *RECORD_TABLES.values()), -1)
)
_NEXT_PLACES = f"SELECT seq, max(kind) FROM ({_PLACES}) GROUP BY seq ORDER BY seq LIMIT ?2"  # noqa: S608


def read_page(opened: Opened, after: int) -> Page:
    """Return some records after the cursor, all kinds in one order; at least one if there is."""
    with reading(opened) as connection:
        places = read_places(connection, after or BEGINNING, opened.version)
    last = places[-1][0] if places else after
    return Page(tuple(r for _, r, _ in places), tuple(seal for *_, seal in places), last)


def read_places(
    connection: sqlite3.Connection, after: int, version: int = VERSION
) -> list[tuple[int, Record, str]]:
    """Return some places after the cursor, with the record and its seal at each; none at the end.

    Of a log of this version, within a transaction. A place that has neither a record nor a seal is
    passed over.
    """
    places: list[tuple[int, Record, str]] = []
    size = 0
    found = connection.execute(_NEXT_PLACES, (after, _RECORDS_A_PAGE)).fetchall()
    seals = _read_seals(connection, after, found[-1][0] if found else after)
    for seq, number in found:
        seal = seals.get(seq, "")
        if number < 0:
            record: Record | None = make_erased(seal)
        else:
            record = _read_record(connection, _KINDS[number], seq, version)
        if record is not None:
            places.append((seq, record, seal))
            size += estimate_size(record) if isinstance(record, Entry) else 0
        if size > _BYTES_A_PAGE:
            break
    return places if places or not found else read_places(connection, found[-1][0], version)


def find_held(connection: sqlite3.Connection, key: Key, version: int = VERSION) -> Record | None:
    """Return the record that a log of this version holds under a key. Within a transaction."""
    if isinstance(key, UploadEvent):
        rows = connection.execute(
            f"{select_statement('deid_log_upload')} WHERE log_id = ?", (encode_cell(key.log_id),)
        )
        events = (make_event(decode_cells(row[1:])) for row in rows)
        return next((event for event in events if event.id == key.id), None)
    kind, id_ = key
    table = "deid_log" if kind is Entry else RECORD_TABLES[kind]
    seq = _find_seq(connection, table, id_)
    return None if seq is None else _read_record(connection, kind, seq, version)


def resolve(opened: Opened, log_id: str) -> Entry | Tombstone | None:
    """Return the entry or tombstone under this id."""
    with reading(opened) as connection:
        found = find_held(connection, (Entry, log_id)) or find_held(
            connection, (Tombstone, log_id), opened.version
        )
    return found if isinstance(found, Entry | Tombstone) else None


def read_entries(opened: Opened, log_ids: Sequence[str]) -> tuple[list[tuple[Entry, str]], int]:
    """Return entries of some of these ids in that order, and how many of the ids that took."""
    with reading(opened) as connection:
        seqs = [_find_seq(connection, "deid_log", log_id) for log_id in log_ids]
        return _read_some(connection, seqs)


def read_entries_at(opened: Opened, seqs: Sequence[int]) -> tuple[list[Entry], int]:
    """Return entries at some of these places, and how many of the places that took."""
    with reading(opened) as connection:
        found, count = _read_some(connection, seqs)
    return [entry for entry, _ in found], count


def find_digest(opened: Opened, digest: str) -> str | None:
    """Return the id of the oldest entry with this digest."""
    with reading(opened) as connection:
        row = connection.execute(
            "SELECT id FROM deid_log WHERE digest = ? ORDER BY seq LIMIT 1", (encode_cell(digest),)
        ).fetchone()
        return None if row is None else decode_cell(row[0])


def read_events(
    opened: Opened, after: int, log_ids: Sequence[str] | None
) -> tuple[list[tuple[UploadEvent, str]], int]:
    """Return some upload events with their seals after the cursor, and the next cursor.

    Of these entries, or of all.
    """
    some = "" if log_ids is None else f" AND log_id IN ({', '.join('?' * len(log_ids))})"
    with reading(opened) as connection:
        rows = connection.execute(
            f"{select_statement('deid_log_upload', opened.version)}"
            f" WHERE seq > ?{some} ORDER BY seq LIMIT ?",
            (after or BEGINNING, *map(encode_cell, log_ids or ()), _ROWS_A_PAGE),
        ).fetchall()
        seals = _read_seals_at(connection, [row[0] for row in rows])
    events = [(make_event(decode_cells(row[1:])), seals.get(row[0], "")) for row in rows]
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


def read_blocks_after(opened: Opened, after: int) -> BlocksPage:
    """Return all blocks after the cursor with their seals, and the last seal of the log."""
    with reading(opened) as connection:
        refuse_other(opened.version, f"the log {opened.path}")
        last, head = connection.execute(_END).fetchone()
        rows = []
        if last > after:
            rows = connection.execute(
                f"{select_statement('deid_log_block')} WHERE seq > ? ORDER BY seq", (after,)
            ).fetchall()
        seals = _read_seals_at(connection, [row[0] for row in rows]) if rows else {}
    blocks = tuple((make_block(decode_cells(row[1:])), seals.get(row[0], "")) for row in rows)
    return BlocksPage(blocks, rows[-1][0] if rows else after, decode_cell(head))


_END = """
    SELECT coalesce((SELECT max(seq) FROM deid_log_block), 0),
           coalesce((SELECT seal FROM deid_log_chain ORDER BY seq DESC LIMIT 1), '')
"""


def find_label(opened: Opened, project: str, patient: str) -> str | None:
    """Return the de-identified PatientID of the oldest entry of this patient in this project."""
    with reading(opened) as connection:
        row = connection.execute(
            "SELECT deid_PatientID FROM deid_log WHERE patients = ? AND project = ?"
            " AND deid_PatientID != '' ORDER BY seq LIMIT 1",
            (encode_cell(patient), encode_cell(project)),
        ).fetchone()
    return None if row is None else decode_cell(row[0])


def find_tombstone(opened: Opened, log_id: str) -> tuple[Tombstone, str] | None:
    """Return the tombstone under this id, and its seal."""
    with reading(opened) as connection:
        stone = find_held(connection, (Tombstone, log_id), opened.version)
        seq = _find_seq(connection, "deid_log_tombstone", log_id)
        seals = _read_seals_at(connection, [seq] if seq is not None else [])
    return (stone, seals.get(seq or 0, "")) if isinstance(stone, Tombstone) else None


def read_trail(opened: Opened, after: int) -> tuple[list[tuple[AccessRow, str]], int]:
    """Return some access rows after the cursor with their seals, and the next cursor."""
    with reading(opened) as connection:
        rows = connection.execute(
            f"{select_statement('deid_log_access')} WHERE seq > ? ORDER BY seq LIMIT ?",
            (after or BEGINNING, _ROWS_A_PAGE),
        ).fetchall()
        last = rows[-1][0] if rows else after
        seals = _read_seals_at(connection, [row[0] for row in rows])
    return [(make_access(decode_cells(row[1:])), seals.get(row[0], "")) for row in rows], last


def _read_seals(connection: sqlite3.Connection, after: int, last: int) -> dict[int, str]:
    sql = "SELECT seq, seal FROM deid_log_chain WHERE seq > ? AND seq <= ?"
    return {seq: decode_cell(seal) for seq, seal in connection.execute(sql, (after, last))}


def _read_seals_at(connection: sqlite3.Connection, seqs: Sequence[int]) -> dict[int, str]:
    sql = "SELECT seq, seal FROM deid_log_chain WHERE seq IN (SELECT value FROM json_each(?))"
    return {seq: decode_cell(seal) for seq, seal in connection.execute(sql, (json.dumps(seqs),))}


def _read_some(
    connection: sqlite3.Connection, seqs: Sequence[int | None]
) -> tuple[list[tuple[Entry, str]], int]:
    found: list[tuple[int, Entry]] = []

    def read_sizes() -> Iterator[int]:
        for seq in seqs:
            entry = None if seq is None else read_entry(connection, seq)
            if seq is not None and entry is not None:
                found.append((seq, entry))
            yield 0 if entry is None else estimate_size(entry)

    count = count_fitting(read_sizes(), _BYTES_A_PAGE)
    seals = _read_seals_at(connection, [seq for seq, _ in found])
    return [(entry, seals.get(seq, "")) for seq, entry in found], count


def _find_seq(connection: sqlite3.Connection, table: str, id_: str) -> int | None:
    row = connection.execute(
        f"SELECT seq FROM {table} WHERE id = ?",  # noqa: S608 - our constants
        (encode_cell(id_),),
    ).fetchone()
    return None if row is None else int(row[0])


def _read_record(
    connection: sqlite3.Connection, kind: type[Any], seq: int, version: int
) -> Record | None:
    if kind is Entry:
        return read_entry(connection, seq)
    table = RECORD_TABLES[kind]
    select = f"{select_statement(table, version)} WHERE seq = ?"
    row = connection.execute(select, (seq,)).fetchone()
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
            node = translate(Query((term,)))
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
    node = translate(query)
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
    where, values = SQLiteRenderer(scan=True).render(translate(query))
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
