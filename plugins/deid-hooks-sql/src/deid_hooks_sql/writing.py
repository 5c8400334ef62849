"""What appends to the log."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from deid_hooks.backends.rules import Key, Seal, get_id, get_key, seal_new, select_new
from deid_hooks.backends.tables.columns import SHORT_LIMIT, TABLES
from deid_hooks.backends.tables.migrations import CHAINS, VERSION
from deid_hooks.backends.tables.rows import RECORD_TABLES
from deid_hooks.deadline import Turn
from deid_hooks.errors import IdConflict, LogUnavailable
from deid_hooks.records.model import AccessRow, Block, Entry, Record, Tombstone, UploadEvent
from deid_hooks_sql.database import Rows, Statement
from deid_hooks_sql.links import Link
from deid_hooks_sql.reading import select_of
from deid_hooks_sql.rows import (
    EntryRows,
    decode_texts,
    encode_texts,
    make_row,
    make_rows,
    read_entry,
    read_record,
    shorten,
)
from deid_hooks_sql.schema import refuse_changed
from deid_hooks_sql.transactions import Writing

*_OF_ACCESS, _EXACT = TABLES["deid_log_access"].server_names
_VERSION_1 = (*_OF_ACCESS, "previous", "seal", _EXACT)
"""The columns of the access trail in version 1."""


def append(records: Sequence[Record], seal: Seal, link: Link, turn: Turn) -> None:
    """Write all records or none, as ``LogBackend.append`` says."""
    for record in records:
        _refuse_id(get_id(record))
    made: dict[str, EntryRows] = {}
    for record in records:
        if isinstance(record, Entry) and record.log_id not in made:
            made[record.log_id] = make_rows(record)
    larges = sum(len(record.large) for record in records if isinstance(record, Entry))
    writing = Writing(link, turn, len(records) + larges, records)
    asked = list(_questions(records, link))
    answers = writing.begin([statement for _, statement in asked])
    found = {name: rows for (name, _), rows in zip(asked, answers, strict=True)}
    held = _Held(found, made, link)
    new = select_new(records, held.find)
    head = found["head"][0][0] if found.get("head") else ""
    rows = _Rows(writing.first + len(records), found)
    for seq, (record, its_seal) in enumerate(
        zip(new, seal_new(seal, head, new), strict=True), writing.first
    ):
        if isinstance(record, Entry):
            rows.add_entry(seq, record, made[record.log_id])
        elif link.version < VERSION:
            rows.add("deid_log_access", make_row(seq, record, (head, its_seal)), _VERSION_1)
            head = its_seal
            continue
        else:
            rows.add(RECORD_TABLES[type(record)], make_row(seq, record))
        if its_seal:
            rows.add("deid_log_chain", (seq, its_seal))
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
    refuse_changed(link)
    writing.commit()


def _questions(records: Sequence[Record], link: Link) -> Iterator[tuple[str, Statement]]:
    """What to ask the log about these records, only about kinds that are among them."""
    any_of = link.database.any_of

    def of(*kinds: type[Any]) -> list[str]:
        found = (r for r in records if isinstance(r, kinds))
        return [r.log_id if hasattr(r, "log_id") else r.id for r in found]

    if ids := of(Entry, Tombstone):
        yield "entry", (f"SELECT id, seq, rows_digest FROM deid_log WHERE id {any_of}", (ids,))
        stones = f"{select_of('deid_log_tombstone')} WHERE id {any_of}"
        yield "deid_log_tombstone", (stones, (ids,))
    for table, column, kind in (
        ("deid_log_upload", "log_id", UploadEvent),
        ("deid_log_access", "id", AccessRow),
        ("deid_log_block", "id", Block),
    ):
        if ids := of(kind):
            yield table, (f"{select_of(table)} WHERE {column} {any_of}", (ids,))
    if records:
        yield "head", (f"SELECT seal FROM {CHAINS[link.version]} ORDER BY seq DESC LIMIT 1", ())
    digests = [shorten(d) for r in records if isinstance(r, Entry) for d in r.large]
    if digests and link.may_read:  # who may not writes them once more
        large = f'SELECT "key", digest, exact, value FROM deid_log_large WHERE digest {any_of}'
        yield "large", (large, (digests,))


class _Held:
    """What the log holds of the records that are to be written."""

    def __init__(self, found: dict[str, Rows], made: dict[str, EntryRows], link: Link) -> None:
        self._link, self._made = link, made
        self._entries = {row[0]: (row[1], bytes(row[2])) for row in found.get("entry", ())}
        records = (read_record(t, row) for t in RECORD_TABLES.values() for row in found.get(t, ()))
        self._small: dict[Key, Record] = {get_key(record): record for record in records}

    def find(self, key: Key) -> Record | None:
        """Return the record under a key. IdConflict for an entry that this user may not read."""
        if isinstance(key, UploadEvent) or key[0] is not Entry:
            return self._small.get(key)
        if key[1] not in self._entries:
            return None
        seq, digest = self._entries[key[1]]
        made = self._made.get(key[1])
        if made is not None and digest == made.digest:
            return made.entry
        if not self._link.may_read:
            raise IdConflict(key[1])
        # The same content may have been written in another order, or under an odd stamp.
        return read_entry(self._link, seq)


class _Rows:
    """Rows to be inserted, by table."""

    def __init__(self, next_large: int, found: dict[str, Rows]) -> None:
        self.tables: dict[str, tuple[Sequence[str], list[Sequence[Any]]]] = {}
        self._next_large = next_large
        self._large: dict[tuple[str, bytes], int] = {
            (decode_texts([row[1]], row[2])[0], bytes(row[3])): row[0]
            for row in found.get("large", ())
        }

    def add(self, table: str, row: Sequence[Any], names: Sequence[str] = ()) -> None:
        columns = self.tables.setdefault(table, (names or TABLES[table].server_names, []))
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
                [shown], exact = encode_texts([digest], [SHORT_LIMIT])
                self.add("deid_log_large", (self._next_large, shown, exact, value))
                self._next_large += 1
            yield (self._large[digest, value],)


def _refuse_id(id_: str) -> None:
    if not id_ or shorten(id_) != id_:
        raise LogUnavailable("the id of a record is empty, or no text that a database can index")
