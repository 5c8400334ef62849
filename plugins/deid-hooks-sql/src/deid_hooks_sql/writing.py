"""What appends to the log, and what erases entries."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from deid_hooks.backends import (
    AccessRow,
    Block,
    Entry,
    Erased,
    Erasure,
    IdConflict,
    Key,
    LogError,
    LogUnavailable,
    Record,
    Seal,
    Tombstone,
    Turn,
    UploadEvent,
    erase_salt,
    erase_terms,
    get_id,
    get_key,
    make_tombstone,
    seal_new,
    select_new,
)
from deid_hooks.backends.tables.columns import (
    ENTRY_TEXTS,
    IDENTIFYING,
    PARTS,
    SHORT_LIMIT,
    TABLES,
)
from deid_hooks.backends.tables.migrations import VERSION
from deid_hooks.backends.tables.rows import RECORD_TABLES
from deid_hooks_sql.database import Rows, Statement
from deid_hooks_sql.links import Link, Writing
from deid_hooks_sql.reading import select_rows
from deid_hooks_sql.schema import (
    EntryRows,
    decode_texts,
    encode_texts,
    fetch_entry,
    make_row,
    make_rows,
    read_record,
    refuse_changed,
    shorten,
)

T = TypeVar("T")

_HEAD: tuple[str, Statement] = (
    "head",
    (
        "SELECT seal FROM deid_log_chain ORDER BY seq DESC LIMIT 1",
        (),
    ),
)


def append(records: Sequence[Record], seal: Seal, link: Link, turn: Turn) -> None:
    """Write all records or none, as ``LogBackend.append`` says."""
    for record in records:
        _refuse_id(get_id(record))
        if isinstance(record, UploadEvent):
            _refuse_id(record.log_id)
    made: dict[str, EntryRows] = {}
    for record in records:
        if isinstance(record, Entry) and record.log_id not in made:
            made[record.log_id] = make_rows(record)
    larges = sum(len(record.large) for record in records if isinstance(record, Entry))
    writing = Writing(link, turn, len(records) + larges, records)
    asked = list(_list_questions(records, link))
    answers = writing.begin([statement for _, statement in asked])
    found = {name: rows for (name, _), rows in zip(asked, answers, strict=True)}
    held = _Held(found, made, link)
    new = select_new(records, held.find)
    seals = seal_new(seal, _find_head(link, found.get("head", ())), new)
    rows = _Rows(writing.first + len(records), found)
    for seq, (record, its_seal) in enumerate(zip(new, seals, strict=True), writing.first):
        if isinstance(record, Entry):
            rows.add_entry(seq, record, made[record.log_id])
        elif not isinstance(record, Erased):
            rows.add(RECORD_TABLES[type(record)], make_row(seq, record))
        rows.add("deid_log_chain", (seq, its_seal))
    if rows.tables:
        link.fetch(rows.list_inserts(link))
    writing.commit()


def prove_writable(link: Link, turn: Turn) -> None:
    """Write to the log what makes no difference, durably."""
    writing = Writing(link, turn, 0)
    writing.begin()
    refuse_changed(link)
    writing.commit()


def _list_questions(records: Sequence[Record], link: Link) -> Iterator[tuple[str, Statement]]:
    """Yield what to ask the log about these records, only about kinds that are among them."""
    any_of = link.database.any_of

    def of(*kinds: type[Any]) -> list[str]:
        found = (r for r in records if isinstance(r, kinds))
        return [getattr(r, "log_id", "") or get_id(r) for r in found]

    if ids := of(Entry, Tombstone, Erased):
        yield "entry", (f"SELECT id, seq, rows_digest FROM deid_log WHERE id {any_of}", (ids,))
    if ids := of(Entry, Tombstone):
        stones = f"{select_rows('deid_log_tombstone')} WHERE id {any_of}"
        yield "deid_log_tombstone", (stones, (ids,))
    for table, column, kind in (
        ("deid_log_upload", "log_id", UploadEvent),
        ("deid_log_access", "id", AccessRow),
        ("deid_log_block", "id", Block),
    ):
        if ids := of(kind):
            yield table, (f"{select_rows(table)} WHERE {column} {any_of}", (ids,))
    if records:
        yield _HEAD
    digests = [shorten(d) for r in records if isinstance(r, Entry) for d in r.large]
    if digests and link.may_read:  # who may not writes them once more
        large = f'SELECT "key", digest, exact, value FROM deid_log_large WHERE digest {any_of}'
        yield "large", (large, (digests,))


def _find_head(link: Link, rows: Sequence[Sequence[Any]]) -> str:
    """Return the last seal of the log; in version 2 there is none that a record could follow."""
    return rows[0][0] if rows and link.version == VERSION else ""


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
        return fetch_entry(self._link, seq)


class _Rows:
    """Rows to be inserted, by table."""

    def __init__(self, next_large: int, found: dict[str, Rows]) -> None:
        self.tables: dict[str, tuple[Sequence[str], list[Sequence[Any]]]] = {}
        self._next_large = next_large
        self._large: dict[tuple[str, bytes], int] = {
            (decode_texts([row[1]], row[2])[0], bytes(row[3])): row[0]
            for row in found.get("large", ())
        }

    def add(self, table: str, row: Sequence[Any]) -> None:
        self.tables.setdefault(table, (TABLES[table].server_names, []))[1].append(row)

    def list_inserts(self, link: Link) -> Sequence[Statement]:
        """Return the statements that insert the rows."""
        statements = [
            statement
            for table, (columns, rows) in self.tables.items()
            for statement in link.database.inserts(table, columns, rows)
        ]
        return link.database.join_inserts(statements)

    def add_entry(self, seq: int, entry: Entry, made: EntryRows) -> None:
        self.add("deid_log", (seq, *made.log))
        for table, rows in (
            ("deid_instance", made.instances),
            ("deid_uid", made.uids),
            ("deid_value", made.values),
            ("deid_word", made.words),
            ("deid_large", self._find_keys(entry.large.items())),
        ):
            for number, row in enumerate(rows):
                self.add(table, (seq, number, *row))

    def _find_keys(self, larges: Iterable[tuple[str, bytes]]) -> Iterator[tuple[int]]:
        """Yield the keys of large values, each written once for all entries that have it.

        One digest means one value, but that is not for the store to believe.
        """
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


class Run(Protocol):
    """Runs a job on a link, within a deadline."""

    def __call__(self, job: Callable[[Link], T]) -> T: ...


def erase(log_ids: Sequence[str], erasure: Erasure, seal: Seal, link: Link, turn: Turn) -> None:
    """Delete what these entries hold and leave tombstones, in one transaction."""
    ids = [*dict.fromkeys(map(shorten, log_ids))]
    writing = Writing(link, turn, len(ids))
    any_of = link.database.any_of
    asked = (f"SELECT seq, id, created, project, exact FROM deid_log WHERE id {any_of}", (ids,))
    found, heads = writing.begin([asked, _HEAD[1]] if ids else []) or ([], [])
    places = [ENTRY_TEXTS.index(name) for name in ("created", "project")]
    created, projects = {}, {}
    for _, log_id, *shown, exact in found:
        texts = shown if exact is None else [decode_texts((), exact)[place] for place in places]
        created[log_id], projects[log_id] = texts
    if found:
        seqs = [seq for seq, *_ in found]
        events_of = f"{select_rows('deid_log_upload')} WHERE log_id {any_of} ORDER BY seq"
        seals_at = f"SELECT seq, seal FROM deid_log_chain WHERE seq {any_of}"
        *_, events, sealed = link.fetch(
            [*_list_deletions(seqs, any_of), (events_of, ([*created],)), (seals_at, (seqs,))]
        )
        sent_to: dict[str, list[str]] = {log_id: [] for log_id in created}
        for row in events:
            event = read_record("deid_log_upload", row)
            if isinstance(event, UploadEvent):
                sent_to[event.log_id].append(event.destination)
        stones = [
            make_tombstone(log_id, created[log_id], sent_to[log_id], erasure, projects[log_id])
            for log_id in ids
            if log_id in created
        ]
        rows = _Rows(0, {})
        seals = seal_new(seal, _find_head(link, heads), stones)
        for seq, (stone, its_seal) in enumerate(zip(stones, seals, strict=True), writing.first):
            rows.add("deid_log_tombstone", make_row(seq, stone))
            rows.add("deid_log_chain", (seq, its_seal))
        update = "UPDATE deid_log_chain SET seal = %s WHERE seq = %s"
        link.fetch(
            [
                *rows.list_inserts(link),
                *((update, (erase_salt(its_seal), seq)) for seq, its_seal in sealed),
            ]
        )
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


def _list_deletions(seqs: list[int], any_of: str) -> list[Statement]:
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
    """Erase what was asked, and why, where this entry was among the answers."""
    rows = link.rows(
        f"{select_rows('deid_log_access')} WHERE {link.database.position}(log_ids, %s) > 0",
        f'"{log_id}"',
    )
    for row in rows:
        found = read_record("deid_log_access", row)
        if isinstance(found, AccessRow) and log_id in found.log_ids:
            *_, exact = make_row(row[0], erase_terms(found))
            link.rows(
                "UPDATE deid_log_access SET asked = '', reason = '', salt = '', exact = %s"
                " WHERE seq = %s",
                exact,
                row[0],
            )
