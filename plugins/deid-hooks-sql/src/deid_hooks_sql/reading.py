"""What reads the log: by pages, each of one state of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any

from deid_hooks.backends.contract import Page, Receipt
from deid_hooks.backends.rules import count_fitting
from deid_hooks.backends.tables.columns import ENTRY_TEXTS, SHORT_LIMIT, TABLES
from deid_hooks.backends.tables.migrations import CHAINS
from deid_hooks.backends.tables.rows import RECORD_TABLES
from deid_hooks.errors import LogUnavailable
from deid_hooks.records.model import AccessRow, Block, Entry, Record, Tombstone, UploadEvent
from deid_hooks_sql.failures import not_allowed
from deid_hooks_sql.links import Link
from deid_hooks_sql.rows import (
    SELECT_ENTRY,
    decode_texts,
    make_entries,
    read_entries,
    read_record,
    select_entries,
    shorten,
)
from deid_hooks_sql.transactions import reading, snapshot

_RECORDS_A_PAGE = 200
_BYTES_A_PAGE = 4_000_000
_ROWS_A_PAGE = 1_000
RECEIPTS = {1: "deid_log_sealed", 2: "deid_log_receipt"}
"""The function that answers who may not read, by the version of the log."""
_KINDS = tuple(RECORD_TABLES.values())

# The next places in the order of the log, the kind of record that each one is, and its size.
_PLACES = " UNION ALL ".join(
    f"(SELECT seq, {kind}, {size} FROM {table} WHERE seq > %s ORDER BY seq LIMIT {_RECORDS_A_PAGE})"
    for kind, (table, size) in enumerate([("deid_log", "size"), *((t, "0") for t in _KINDS)])
)


def select_of(table: str) -> str:
    """SQL that gives rows as ``read_record`` takes them, to be followed by a condition."""
    return f"SELECT {', '.join(TABLES[table].server_names)} FROM {table}"


def page_after(link: Link, after: int) -> Page:
    """Some records after the cursor, all kinds in one order; at least one if there is one."""
    _require(link)
    with reading(link):
        places = link.rows(f"{_PLACES} ORDER BY 1 LIMIT {_RECORDS_A_PAGE}", *[after] * 5)
        places = places[: count_fitting((size for _, _, size in places), _BYTES_A_PAGE)]
        by_kind: defaultdict[int, list[int]] = defaultdict(list)
        for seq, kind, _ in places:
            by_kind[kind].append(seq)
        found: dict[int, Record] = dict(read_entries(link, by_kind.pop(0, [])))
        small = [
            (f"{select_of(_KINDS[kind - 1])} WHERE seq {link.database.any_of}", (seqs,))
            for kind, seqs in by_kind.items()
        ]
        for kind, rows in zip(by_kind, link.fetch(small) if small else (), strict=True):
            found |= {row[0]: read_record(_KINDS[kind - 1], row) for row in rows}
        last = places[-1][0] if places else after
        seals = _read_seals(link, after, last) if places else {}
    seqs = [seq for seq, _, _ in places]
    return Page(tuple(map(found.__getitem__, seqs)), tuple(seals.get(s, "") for s in seqs), last)


def resolve(link: Link, log_id: str) -> Entry | Receipt | Tombstone | None:
    """The entry or tombstone under this id; Sealed for who may not read what identifies."""
    if not link.may_read:
        return _sealed(link, log_id)
    seq = "(SELECT seq FROM deid_log WHERE id = %s)"
    stone = (f"{select_of('deid_log_tombstone')} WHERE id = %s", (shorten(log_id),))
    logs, *parts, stones = snapshot(link, [*select_entries(f"= {seq}", shorten(log_id)), stone])
    entries = make_entries(logs, parts)
    for record in (*entries.values(), *(read_record("deid_log_tombstone", row) for row in stones)):
        if isinstance(record, Entry | Tombstone) and record.log_id == log_id:
            return record
    return None


def entries_of(link: Link, log_ids: Sequence[str]) -> tuple[list[Entry], int]:
    """The entries of some of these ids in that order, and how many of the ids were looked at."""
    _require(link)
    with reading(link):
        known = link.rows(
            f"SELECT id, seq, size FROM deid_log WHERE id {link.database.any_of}",
            [shorten(log_id) for log_id in log_ids],
        )
        places = {log_id: (seq, size) for log_id, seq, size in known}
        return _some(link, [places.get(log_id) for log_id in log_ids])


def entries_at(link: Link, seqs: Sequence[int]) -> tuple[list[Entry], int]:
    """The entries at some of these places, and how many of the places were looked at."""
    _require(link)
    with reading(link):
        known = link.rows(
            f"SELECT seq, size FROM deid_log WHERE seq {link.database.any_of}",
            list(seqs),
        )
        places = {seq: (seq, size) for seq, size in known}
        return _some(link, [places.get(seq) for seq in seqs])


def id_with_digest(link: Link, digest: str) -> str | None:
    """The id of the oldest entry with this digest."""
    sql = "SELECT id FROM deid_log WHERE digest = %s ORDER BY seq LIMIT 50"
    for (log_id,) in link.rows(sql, shorten(digest)):
        if _tells(digest) or _exactly(link, log_id, digest=digest):
            return str(log_id)
    return None


def events_after(
    link: Link, after: int, log_ids: Sequence[str] | None
) -> tuple[list[UploadEvent], int]:
    """Some upload events after the cursor, of these entries or of all, and the next cursor."""
    some = "" if log_ids is None else f" AND log_id {link.database.any_of}"
    values = () if log_ids is None else ([*map(shorten, log_ids)],)
    rows = link.rows(
        f"{select_of('deid_log_upload')} WHERE seq > %s{some} ORDER BY seq LIMIT {_ROWS_A_PAGE}",
        after,
        *values,
    )
    events = [read_record("deid_log_upload", row) for row in rows]
    return [e for e in events if isinstance(e, UploadEvent)], rows[-1][0] if rows else after


def read_trail(link: Link, after: int) -> tuple[list[tuple[AccessRow, str]], int]:
    """Return some access rows after the cursor with their seals, and the next cursor."""
    _require(link)
    rows = link.rows(
        f"{select_of('deid_log_access')} WHERE seq > %s ORDER BY seq LIMIT {_ROWS_A_PAGE}", after
    )
    if not rows:
        return [], after
    seals = _read_seals(link, after, rows[-1][0])
    records = [(read_record("deid_log_access", row), seals.get(row[0], "")) for row in rows]
    return [(row, seal) for row, seal in records if isinstance(row, AccessRow)], rows[-1][0]


def _read_seals(link: Link, after: int, last: int) -> dict[int, str]:
    rows = link.rows(
        f"SELECT seq, seal FROM {CHAINS[link.version]} WHERE seq > %s AND seq <= %s", after, last
    )
    return dict(rows)


def blocks_of(link: Link, patients: Collection[str]) -> list[Block]:
    """The blocks of these patients, oldest first."""
    rows = link.rows(
        f"{select_of('deid_log_block')} WHERE patient {link.database.any_of} ORDER BY seq",
        [shorten(patient) for patient in patients],
    )
    blocks = [read_record("deid_log_block", row) for row in rows]
    return [b for b in blocks if isinstance(b, Block) and b.patient in patients]


def label_of(link: Link, project: str, patient: str) -> str | None:
    """The de-identified PatientID of the oldest entry of this patient in this project."""
    rows = link.rows(
        "SELECT id, deid_PatientID FROM deid_log WHERE patients = %s AND project = %s"
        " AND deid_PatientID <> '' ORDER BY seq LIMIT 50",
        *map(shorten, (patient, project)),
    )
    asked = {"project": project, "patients": patient}
    for log_id, label in rows:
        if all(map(_tells, asked.values())) or _exactly(link, log_id, **asked):
            return str(label if _tells(label) else _texts_at(link, log_id)["deid_PatientID"])
    return None


def _tells(shown: str) -> bool:
    """Whether a column that shows this text can stand for no other one."""
    return len(shown) < SHORT_LIMIT and "\ufffd" not in shown and shorten(shown) == shown


def _exactly(link: Link, log_id: str, **wanted: str) -> bool:
    """Whether an entry has these values, where its columns can't tell."""
    texts = _texts_at(link, log_id)
    return all(texts[column] == value for column, value in wanted.items())


def _texts_at(link: Link, log_id: str) -> dict[str, Any]:
    _require(link)
    [(_, *shown, exact)] = link.rows(f"{SELECT_ENTRY} WHERE id = %s", log_id)
    return dict(zip(ENTRY_TEXTS, decode_texts(shown, exact), strict=True))


def _require(link: Link) -> None:
    if not link.may_read:
        raise not_allowed(link.database.where)


def _sealed(link: Link, log_id: str) -> Receipt | Tombstone | None:
    columns = 'project, digest, "key", patients, deid_uids, whole'
    rows = link.rows(f"SELECT {columns} FROM {RECEIPTS[link.version]}(%s)", log_id)
    for project, digest, key, patients, deid_uids, whole in rows:
        if not whole:
            raise LogUnavailable(
                f"the entry {log_id} is not what was written: it was altered in the store",
                "restore the log from a backup",
            )
        return Receipt(log_id, project, digest, key, tuple(patients.split()), tuple(deid_uids))
    stones = link.rows(f"{select_of('deid_log_tombstone')} WHERE id = %s", shorten(log_id))
    found = [read_record("deid_log_tombstone", row) for row in stones]
    return next((stone for stone in found if isinstance(stone, Tombstone)), None)


def _some(link: Link, places: Sequence[tuple[int, int] | None]) -> tuple[list[Entry], int]:
    looked_at = count_fitting((0 if p is None else p[1] for p in places), _BYTES_A_PAGE)
    seqs = [place[0] for place in places[:looked_at] if place is not None]
    found = read_entries(link, seqs)
    return [found[seq] for seq in seqs], looked_at
