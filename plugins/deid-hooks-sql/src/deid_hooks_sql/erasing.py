"""What takes entries away: their rows, and what is left of those in the server's files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from deid_hooks.backends.tables.columns import ENTRY_TEXTS, IDENTIFYING, PARTS, TABLES
from deid_hooks.deadline import Turn
from deid_hooks.errors import LogError, LogUnavailable
from deid_hooks.records.chain import erase_terms
from deid_hooks.records.model import AccessRow, Erasure, Tombstone, UploadEvent
from deid_hooks_sql.database import Statement
from deid_hooks_sql.links import Link
from deid_hooks_sql.reading import select_of
from deid_hooks_sql.rows import decode_texts, make_row, read_record, shorten
from deid_hooks_sql.transactions import Writing

T = TypeVar("T")


class Run(Protocol):
    """Runs a job on a link, within a deadline."""

    def __call__(self, job: Callable[[Link], T]) -> T: ...


def erase(log_ids: Sequence[str], erasure: Erasure, link: Link, turn: Turn) -> None:
    """Delete what these entries hold and leave tombstones, in one transaction."""
    ids = [*dict.fromkeys(map(shorten, log_ids))]
    writing = Writing(link, turn, len(ids))
    any_of = link.database.any_of
    asked = (f"SELECT seq, id, created, exact FROM deid_log WHERE id {any_of}", (ids,))
    found = [row for rows in writing.begin([asked] if ids else []) for row in rows]
    created = {
        log_id: (shown if exact is None else decode_texts((), exact)[ENTRY_TEXTS.index("created")])
        for _, log_id, shown, exact in found
    }
    if found:
        link.fetch(_deletions([seq for seq, *_ in found], any_of))
        events = link.rows(
            f"{select_of('deid_log_upload')} WHERE log_id {any_of} ORDER BY seq", [*created]
        )
        destinations: dict[str, dict[str, None]] = {log_id: {} for log_id in created}
        for row in events:
            event = read_record("deid_log_upload", row)
            if isinstance(event, UploadEvent):
                destinations[event.log_id][event.destination] = None
        stones = [
            make_row(seq, Tombstone(log_id, created[log_id], tuple(destinations[log_id]), erasure))
            for seq, log_id in enumerate((i for i in ids if i in created), writing.first)
        ]
        columns = TABLES["deid_log_tombstone"].server_names
        link.fetch(link.database.inserts("deid_log_tombstone", columns, stones))
        for log_id in created:
            _erase_terms(link, log_id)
    writing.commit()


def scrub(run: Run, where: str) -> None:
    """Have the server write its files anew, without what was deleted."""
    try:
        left = run(lambda link: link.database.scrub(link.connection, IDENTIFYING))
    except LogUnavailable as error:
        left = error.cause
    if left:
        raise LogError(
            f"the entries are erased from {where}, but traces may be left in the files of its"
            f" server: {left}",
            "repeat it when nobody uses the log, with a longer deadline, as the tables' owner",
        )


def _deletions(seqs: list[int], any_of: str) -> list[Statement]:
    others = (
        'SELECT 1 FROM deid_large other WHERE other.large = deid_log_large."key"'
        f" AND NOT other.entry {any_of}"
    )
    larges = f"SELECT large FROM deid_large WHERE entry {any_of}"
    return [
        (
            f'DELETE FROM deid_log_large WHERE "key" IN ({larges}) AND NOT EXISTS ({others})',
            (seqs, seqs),
        ),
        *((f"DELETE FROM {table} WHERE entry {any_of}", (seqs,)) for table in PARTS),
        (f"DELETE FROM deid_log WHERE seq {any_of}", (seqs,)),
    ]


def _erase_terms(link: Link, log_id: str) -> None:
    """What was asked, and why, where this entry was among the answers."""
    rows = link.rows(
        f"{select_of('deid_log_access')} WHERE {link.database.position}(log_ids, %s) > 0",
        f'"{log_id}"',
    )
    for row in rows:
        look = read_record("deid_log_access", row)
        if isinstance(look, AccessRow) and log_id in look.log_ids:
            *_, exact = make_row(row[0], erase_terms(look))
            link.rows(
                "UPDATE deid_log_access SET asked = '', reason = '', salt = '', exact = %s"
                " WHERE seq = %s",
                exact,
                row[0],
            )
