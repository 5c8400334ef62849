"""Search SQLite: SQL gives candidates, the reference matcher decides."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Protocol, TypeVar

from deid_hooks.backends.sqlite.connection import Opened, reading
from deid_hooks.backends.sqlite.reading import read_entries_at
from deid_hooks.backends.sqlite.rows import encode_cell
from deid_hooks.backends.tables.conditions import Renderer, is_indexed, translate
from deid_hooks.deadline import Deadline
from deid_hooks.query.conditions import Query

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
