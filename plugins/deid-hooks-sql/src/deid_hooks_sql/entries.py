"""Entries by their places in the order of the log, whole, from all of their tables."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from deid_hooks.records.model import Entry
from deid_hooks_sql.database import Rows, Statement
from deid_hooks_sql.links import Link
from deid_hooks_sql.rows import entry_of, texts_of
from deid_hooks_sql.schema import TEXTS

_TEXTS = ", ".join('"key"' if column == "key" else column for column in TEXTS)
SELECT_ENTRY = f"SELECT seq, {_TEXTS}, exact FROM deid_log"
"""Gives the row of an entry, its texts in the order of ``TEXTS``; to be followed by a condition."""


def entry_at(link: Link, seq: int) -> Entry:
    """The entry at this place. Within a transaction that no other writer can disturb."""
    return entries_within(link, [seq])[seq]


def entries_within(link: Link, seqs: Sequence[int]) -> dict[int, Entry]:
    """The entries at these places. Within a transaction that sees one state of the log."""
    if not seqs:
        return {}
    logs, *parts = link.fetch(parts_of(link.database.any_of, list(seqs)))
    return made_of(logs, parts)


def parts_of(which: str, value: Any) -> list[Statement]:
    """Statements that give the rows of the entries whose places are those."""
    order = 'ORDER BY entry, "key"'
    return [
        (f"{SELECT_ENTRY} WHERE seq {which}", (value,)),
        *(
            (f"SELECT entry, {columns} FROM {table} WHERE entry {which} {more}{order}", (value,))
            for table, columns, more in (
                ("deid_instance", "SOPInstanceUID, deid_SOPInstanceUID, originals, exact", ""),
                ("deid_uid", "deid_uid, uid, exact", ""),
                ("deid_value", "keyword, value, exact", "AND part = 0 "),
            )
        ),
        (
            "SELECT entry, digest, exact, value FROM deid_large"
            f' JOIN deid_log_large ON deid_log_large."key" = large WHERE entry {which}',
            (value,),
        ),
    ]


def made_of(logs: Rows, parts: Sequence[Rows]) -> dict[int, Entry]:
    """Entries by their places, from what the statements of :func:`parts_of` give."""
    sorted_parts: list[defaultdict[int, Rows]] = []
    for rows in parts:
        by_entry: defaultdict[int, Rows] = defaultdict(list)
        for row in rows:
            by_entry[row[0]].append(row[1:])
        sorted_parts.append(by_entry)
    instances, uids, values, large = sorted_parts
    made = {}
    for seq, *log in logs:
        whole = [(texts_of(row[:1], row[1])[0], row[2]) for row in large[seq]]
        made[seq] = entry_of(tuple(log), instances[seq], uids[seq], values[seq], whole)
    return made
