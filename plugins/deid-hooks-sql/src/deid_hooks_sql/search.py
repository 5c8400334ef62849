"""Searching: SQL gives candidates, the reference matcher decides."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar, assert_never

from deid_hooks.backends import Deadline, LogUnavailable, Query, make_readable
from deid_hooks.backends.tables.conditions import (
    And,
    Compare,
    InJson,
    InTable,
    Node,
    Or,
    Renderer,
    is_indexed,
    translate,
)
from deid_hooks_sql.links import Link
from deid_hooks_sql.reading import read_entries_at

T = TypeVar("T")

_MOST_BY_INDEX = 10_000
_SECONDS_BY_INDEX = 2.0
_ENTRIES_A_SCAN = 1_000


class ServerRenderer(Renderer):
    """Renders conditions for a server. What an ``odd`` entry matches only the reference tells."""

    mark = "%s"

    def __init__(self, position: str) -> None:
        self.position = position

    def quote(self, column: str) -> str:
        return column

    def encode(self, text: str) -> str:
        return make_readable(text)

    def render_lookup(self, table: str, compare: str) -> str:
        return f"EXISTS (SELECT 1 FROM {table} part WHERE part.entry = deid_log.seq AND {compare})"

    def render_set(self, node: Node) -> tuple[str, list[Any]]:
        """Return a SELECT of the places of the entries that meet a condition.

        Those that an entry must be in are found one by one, each by its index, and then put
        together: servers don't use several indexes for alternatives in one condition.
        """
        match node:
            case Or() if node.parts and is_indexed(node):
                sets = list(map(self.render_set, node.parts))
                return " UNION ".join(s for s, _ in sets), [v for _, vs in sets for v in vs]
            case And():
                where, values = self._join(" AND ", map(self._render_member, node.parts))
            case InTable():
                where, values = self._join(" AND ", map(self.render_compare, node.compares))
                return f"SELECT entry AS seq FROM {node.table} WHERE {where}", values
            case Or() | Compare() | InJson():
                where, values = self.render(node)
            case _:
                assert_never(node)
        return f"SELECT seq FROM deid_log WHERE {where}", values

    def _render_member(self, node: Node) -> tuple[str, list[Any]]:
        if isinstance(node, Compare) or not is_indexed(node):
            return self.render(node)
        # A derived table, not a bare UNION, which MySQL would run anew for every row.
        sql, values = self.render_set(node)
        return f"seq IN (SELECT seq FROM ({sql}) s)", values


class RunPage(Protocol):
    """Runs a job on a link, within a deadline of its own."""

    def __call__(self, job: Callable[[Link], T]) -> T: ...


def search(query: Query, run: RunPage, deadline: Deadline) -> Iterator[str]:
    """Yield the ids of the entries that match, oldest first, in a bounded amount of memory."""
    for seqs in _find_candidates(query, run, deadline):
        while seqs:
            entries, looked_at = run(partial(read_entries_at, seqs=seqs))
            yield from (entry.log_id for entry in entries if query.matches(entry))
            seqs = seqs[looked_at:]


def _find_candidates(query: Query, run: RunPage, deadline: Deadline) -> Iterator[Sequence[int]]:
    """Yield places in the order of the log: all at once by an index, or else scan by scan."""
    try:
        found = run(partial(_find_by_index, query=query, seconds=deadline.seconds / 2))
    except LogUnavailable:  # if that is no matter of time, the scan will fail too
        found = None
    if found is not None:
        yield found
        return
    after: int | None = 0
    while after is not None:
        found, after = run(partial(_find_by_scan, query=query, after=after))
        yield found


def _find_by_index(link: Link, query: Query, seconds: float) -> list[int] | None:
    """Return None if no index helps: if none fits, or there is too much to be read from it."""
    node = translate(query, link.version)
    if not is_indexed(node):
        return None
    link.bound(min(_SECONDS_BY_INDEX, seconds))
    sql, values = ServerRenderer(link.database.position).render_set(node)
    rows = link.rows(
        f"SELECT seq FROM ({sql} UNION SELECT seq FROM deid_log WHERE odd = 1) found"
        f" LIMIT {_MOST_BY_INDEX + 1}",
        *values,
    )
    return None if len(rows) > _MOST_BY_INDEX else sorted(seq for (seq,) in rows)


def _find_by_scan(link: Link, query: Query, after: int) -> tuple[list[int], int | None]:
    """Return candidates among the next entries, and where to go on; None at the end."""
    sql, values = ServerRenderer(link.database.position).render(translate(query, link.version))
    [(last,)] = link.rows(
        "SELECT max(seq) FROM"
        f" (SELECT seq FROM deid_log WHERE seq > %s ORDER BY seq LIMIT {_ENTRIES_A_SCAN}) page",
        after,
    )
    if last is None:
        return [], None
    rows = link.rows(
        f"SELECT seq FROM deid_log WHERE seq > %s AND seq <= %s AND ({sql} OR odd = 1)"
        " ORDER BY seq",
        after,
        last,
        *values,
    )
    return [seq for (seq,) in rows], last
