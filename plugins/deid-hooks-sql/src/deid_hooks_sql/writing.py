"""What appends to the log."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from deid_hooks.errors import Forgotten, IdConflict, LogUnavailable, TrailMoved
from deid_hooks.records.chain import same_row
from deid_hooks.records.model import AccessRow, Block, Entry, Record, Tombstone, UploadEvent
from deid_hooks_sql.database import Rows, Statement
from deid_hooks_sql.entries import entry_at
from deid_hooks_sql.links import Link
from deid_hooks_sql.reading import HEAD, head_of, select_of
from deid_hooks_sql.records import TABLES, Small, columns_of, record_of, row_of
from deid_hooks_sql.rows import EntryRows, kept, plain, rows_of, texts_of
from deid_hooks_sql.schema import ENTRY_COLUMNS, PARTS, SHORT
from deid_hooks_sql.transactions import Turn, Writing

_PART_COLUMNS = {
    "deid_instance": ("entry", "key", *PARTS["deid_instance"], "exact"),
    "deid_uid": ("entry", "key", *PARTS["deid_uid"], "exact"),
    "deid_value": ("entry", "key", *PARTS["deid_value"], "exact", "part"),
    "deid_word": ("entry", "key", *PARTS["deid_word"]),
    "deid_large": ("entry", "key", "large"),
}


def append(records: Sequence[Record], link: Link, turn: Turn) -> None:
    """Write all records or none, as ``LogBackend.append`` says."""
    for record in records:
        _refuse_id(record.log_id if hasattr(record, "log_id") else record.id)
    written = {id(r): rows_of(r) for r in records if isinstance(r, Entry)}
    larges = sum(len(record.large) for record in records if isinstance(record, Entry))
    writing = Writing(link, turn, len(records) + larges)
    asked = list(_questions(records, link))
    answers = writing.begin([statement for _, statement in asked])
    held = _Held({name: rows for (name, _), rows in zip(asked, answers, strict=True)}, link)
    rows = _Rows(writing.first + len(records), held)
    for seq, record in enumerate(records, writing.first):
        if isinstance(record, Entry):
            made = written[id(record)]
            if not held.has_entry(record, made):
                rows.add_entry(seq, record, made)
        elif not held.has(record):
            rows.add(TABLES[type(record)], row_of(seq, record))
    statements = [
        statement
        for table, (columns, those) in rows.tables.items()
        for statement in link.database.inserts(table, columns, those)
    ]
    if statements:
        link.fetch(statements)
    writing.commit()


def prove_writable(link: Link, turn: Turn) -> None:
    """Write to the log what makes no difference, durably."""
    writing = Writing(link, turn, 0)
    writing.begin()
    writing.commit()


def _questions(records: Sequence[Record], link: Link) -> Iterator[tuple[str, Statement]]:
    """What to ask the log about these records, only about kinds that are among them."""
    any_of = link.database.any_of

    def of(*kinds: type[Any]) -> list[str]:
        found = (r for r in records if isinstance(r, kinds))
        return [r.log_id if hasattr(r, "log_id") else r.id for r in found]

    if ids := of(Entry, Tombstone):
        yield "entry", (f"SELECT id, seq, seal FROM deid_log WHERE id {any_of}", (ids,))
        stones = f"{select_of('deid_log_tombstone')} WHERE id {any_of}"
        yield "deid_log_tombstone", (stones, (ids,))
    for table, column, kind in (
        ("deid_log_upload", "log_id", UploadEvent),
        ("deid_log_access", "id", AccessRow),
        ("deid_log_block", "id", Block),
    ):
        if ids := of(kind):
            yield table, (f"{select_of(table)} WHERE {column} {any_of}", (ids,))
            if kind is AccessRow:
                yield "head", HEAD
    digests = [plain(d) for r in records if isinstance(r, Entry) for d in r.large]
    if digests and link.may_read:  # who may not writes them once more
        large = f'SELECT "key", digest, exact, value FROM deid_log_large WHERE digest {any_of}'
        yield "large", (large, (digests,))


class _Held:
    """What the log holds of the records that are to be written, and what of them is new."""

    def __init__(self, found: dict[str, Rows], link: Link) -> None:
        self._link = link
        self._entries: dict[str, tuple[int, bytes] | Entry] = {
            row[0]: (row[1], bytes(row[2])) for row in found.get("entry", ())
        }
        self._events: set[Small] = set()
        self._others: dict[tuple[str, str], Small] = {}
        for table in TABLES.values():
            for row in found.get(table, ()):
                self._note(record_of(table, row))
        self._head = head_of(found.get("head", []))
        self.large: dict[tuple[str, bytes], int] = {
            (texts_of([row[1]], row[2])[0], bytes(row[3])): row[0] for row in found.get("large", ())
        }

    def has_entry(self, entry: Entry, made: EntryRows) -> bool:
        """Whether the entry is there already. Raises Forgotten or IdConflict."""
        if (TABLES[Tombstone], entry.log_id) in self._others:
            raise Forgotten(entry.log_id)
        known = self._entries.get(entry.log_id)
        if known is None:
            self._entries[entry.log_id] = entry
            return False
        if isinstance(known, tuple):
            seq, seal = known
            if seal == made.seal:
                return True
            if not self._link.may_read:
                raise IdConflict(entry.log_id)
            # The same content may have been written in another order, or under an odd stamp.
            known = entry_at(self._link, seq)
        # When and by whom it was written is a stamp, not content.
        if known != replace(entry, created=known.created, uploader=known.uploader):
            raise IdConflict(entry.log_id)
        return True

    def has(self, record: Small) -> bool:
        """Whether the record is there already. Raises IdConflict or TrailMoved."""
        if isinstance(record, UploadEvent):
            known: Small | None = record if record in self._events else None
        else:
            id_ = record.log_id if isinstance(record, Tombstone) else record.id
            if isinstance(record, Tombstone) and id_ in self._entries:
                raise IdConflict(id_)  # appending never takes an entry away
            known = self._others.get((TABLES[type(record)], id_))
            same = known == record
            if isinstance(known, AccessRow) and isinstance(record, AccessRow):
                same = same_row(known, record)
            if known is not None and not same:
                raise IdConflict(id_)
        if known is None:
            if isinstance(record, AccessRow):
                if record.previous != self._head:
                    raise TrailMoved
                self._head = record.seal
            self._note(record)
        return known is not None

    def _note(self, record: Small) -> None:
        if isinstance(record, UploadEvent):
            self._events.add(record)
        else:
            id_ = record.log_id if isinstance(record, Tombstone) else record.id
            self._others[TABLES[type(record)], id_] = record


class _Rows:
    """Rows to be inserted, by table."""

    def __init__(self, next_large: int, held: _Held) -> None:
        self.tables: dict[str, tuple[Sequence[str], list[Sequence[Any]]]] = {}
        self._next_large = next_large
        self._large = held.large

    def add(self, table: str, row: Sequence[Any]) -> None:
        columns = self.tables.setdefault(table, (_columns_of(table), []))
        columns[1].append(row)

    def add_entry(self, seq: int, entry: Entry, made: EntryRows) -> None:
        self.add("deid_log", (seq, *made.log))
        for table, rows in (
            ("deid_instance", made.instances),
            ("deid_uid", made.uids),
            ("deid_value", made.values),
            ("deid_word", made.words),
            ("deid_large", self._keys_of(entry.large.items())),
        ):
            for number, row in enumerate(rows):
                self.add(table, (seq, number, *row))

    def _keys_of(self, larges: Iterable[tuple[str, bytes]]) -> Iterator[tuple[int]]:
        """Once for all entries that have it. One digest means one value: that is not our word."""
        for digest, value in larges:
            if (digest, value) not in self._large:
                self._large[digest, value] = self._next_large
                [shown], exact = kept([digest], [SHORT])
                self.add("deid_log_large", (self._next_large, shown, exact, value))
                self._next_large += 1
            yield (self._large[digest, value],)


def _columns_of(table: str) -> Sequence[str]:
    if table == "deid_log":
        return ENTRY_COLUMNS
    if table == "deid_log_large":
        return ("key", "digest", "exact", "value")
    return _PART_COLUMNS[table] if table in _PART_COLUMNS else columns_of(table)


def _refuse_id(id_: str) -> None:
    if not id_ or plain(id_) != id_:
        raise LogUnavailable("the id of a record is empty, or no text that a database can index")
