"""Counting what the log holds, without reading it all into Python."""

from __future__ import annotations

from deid_hooks.sqlite.connection import Opened
from deid_hooks.sqlite.rows import text_of
from deid_hooks.sqlite.transactions import reading

_COUNTS = {
    "entries": "SELECT count(*) FROM deid_log",
    "instances": "SELECT count(*) FROM deid_instance",
    "patients": "SELECT count(*) FROM (SELECT DISTINCT patients FROM deid_log WHERE patients > '')",
    "projects": "SELECT count(DISTINCT project) FROM deid_log",
    "forgotten": "SELECT count(*) FROM deid_log_tombstone",
    "blocked": "SELECT count(*) FROM (SELECT lifted, max(seq) FROM deid_log_block"
    " GROUP BY patient, project) WHERE NOT lifted",
    "looks": "SELECT count(*) FROM deid_log_access",
}
_COPIES = """
    SELECT destination, event, count(*) FROM (
        SELECT destination, event, max(seq) FROM deid_log_upload GROUP BY log_id, destination
    ) GROUP BY destination, event ORDER BY destination, event
"""
_ENDS = "SELECT created FROM deid_log ORDER BY seq {} LIMIT 1"


def counts(opened: Opened) -> dict[str, int]:
    """How many there are of each kind. Each is counted in a transaction of its own."""
    found = {}
    for name, sql in _COUNTS.items():
        with reading(opened) as connection:
            found[name] = int(connection.execute(sql).fetchone()[0])
    return found


def copies(opened: Opened) -> list[tuple[str, str, int]]:
    """Destination, latest event there, and of how many entries it is the latest."""
    with reading(opened) as connection:
        rows = connection.execute(_COPIES).fetchall()
    return [(text_of(destination), text_of(event), count) for destination, event, count in rows]


def ends(opened: Opened) -> tuple[str, str]:
    """When the oldest and the latest entry were made; two empty strings if there is none."""
    with reading(opened) as connection:
        rows = [connection.execute(_ENDS.format(way)).fetchone() for way in ("", "DESC")]
    first, last = (text_of(row[0]) if row else "" for row in rows)
    return first, last
