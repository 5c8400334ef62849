"""Searching: SQL gives candidates, the reference matcher decides."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Protocol, TypeVar

from deid_hooks.backends.sqlite.clauses import translate
from deid_hooks.deadline import Deadline
from deid_hooks.errors import LogUnavailable
from deid_hooks.query.conditions import Query
from deid_hooks_sql.clauses import condition, selection
from deid_hooks_sql.links import Link
from deid_hooks_sql.reading import entries_at

T = TypeVar("T")

_MOST_BY_INDEX = 10_000
_SECONDS_BY_INDEX = 2.0
_ENTRIES_A_SCAN = 1_000


class RunPage(Protocol):
    """Runs a job on a link, within a deadline of its own."""

    def __call__(self, job: Callable[[Link], T]) -> T: ...


def search(query: Query, run: RunPage, deadline: Deadline) -> Iterator[str]:
    """The ids of the entries that match, oldest first, in a bounded amount of memory."""
    for seqs in _candidates(query, run, deadline):
        while seqs:
            entries, looked_at = run(partial(entries_at, seqs=seqs))
            yield from (entry.log_id for entry in entries if query.matches(entry))
            seqs = seqs[looked_at:]


def _candidates(query: Query, run: RunPage, deadline: Deadline) -> Iterator[Sequence[int]]:
    """Places in the order of the log: all at once by an index, or else scan by scan."""
    try:
        found = run(partial(_by_index, query=query, seconds=deadline.seconds / 2))
    except LogUnavailable:  # if that is no matter of time, the scan will say it again
        found = None
    if found is not None:
        yield found
        return
    after: int | None = 0
    while after is not None:
        found, after = run(partial(_by_scan, query=query, after=after))
        yield found


def _by_index(link: Link, query: Query, seconds: float) -> list[int] | None:
    """None if no index helps: if none fits, or there is too much to be read from it."""
    clause = translate(query, scan=False)
    if not clause.indexed:
        return None
    link.bound(min(_SECONDS_BY_INDEX, seconds))
    sql, values = selection(clause, link.database)
    rows = link.rows(f"{sql} LIMIT {_MOST_BY_INDEX + 1}", *values)
    return None if len(rows) > _MOST_BY_INDEX else sorted(seq for (seq,) in rows)


def _by_scan(link: Link, query: Query, after: int) -> tuple[list[int], int | None]:
    """What is worth a look among the next entries, and where to go on; None at the end."""
    sql, values = condition(translate(query, scan=True), link.database)
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
