"""Make the tables of the log on a database server, recognise them; their rows as records.

Numbers that give the order come from ``deid_log_store``, whose one row every writer locks until it
has committed: so the order of the numbers is that of the commits, and no reader's cursor passes a
record that becomes visible later.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deid_hooks.backends import LATER_FIELDS, Entry, LogUnavailable, estimate_size, make_readable
from deid_hooks.backends.tables.columns import (
    ENTRY_TEXTS,
    SHORT_LIMIT,
    TABLES,
    ColumnType,
    Table,
    find_fault,
    limit_texts,
    view_statements,
)
from deid_hooks.backends.tables.migrations import STEPS, VERSION, record_step, refuse_unreadable
from deid_hooks.backends.tables.rows import (
    RECORD_MAKERS,
    RECORD_TABLES,
    Small,
    collect_words,
    list_cells,
    list_entry_texts,
    list_further_values,
    list_instance_texts,
    list_names,
    list_parts,
    make_entry,
    make_instance,
)
from deid_hooks_sql.database import Failure, Kind, Rows, Statement, make_unavailable
from deid_hooks_sql.links import Link


def create(link: Link) -> None:
    """Make the tables where there are none; leave a log that is there as it is."""
    if not _is_made(link):
        with link.database.changing(link.connection):
            _make_tables(link)
    identify(link)


def identify(link: Link) -> str:
    """Return the random id of the log. Raise LogUnavailable if it is half made or unreadable."""
    rows = link.rows(f"SELECT id, version, {link.database.may_read} FROM deid_log_store")
    if not rows:
        raise make_unavailable(Failure(Kind.NO_TABLES), link.database.where)
    [(store, link.version, may_read)] = rows
    link.may_read = bool(may_read)
    refuse_unreadable(link.version, link.database.where)
    return str(store)


def refuse_changed(link: Link) -> None:
    """Raise LogUnavailable if the tables have other columns than this program writes."""
    if fault := find_fault(find_columns(link), server=True):
        raise LogUnavailable(f"in {link.database.where} {fault}", "report this")


def find_columns(link: Link) -> dict[str, set[str]]:
    """Return the names of the columns of each table that is there, all in lower case."""
    found: dict[str, set[str]] = {}
    for table, column in link.rows(link.database.select_columns):
        found.setdefault(str(table).lower(), set()).add(str(column).lower())
    return found


def list_types(table: Table) -> dict[str, ColumnType]:
    """Return what each column of a table holds, the keys first."""
    kinds = {column.name: column.type for column in table.columns}
    return {name: kinds.get(name, ColumnType.NUMBER) for name in table.server_names}


def define_columns(
    table: Table, names: Mapping[ColumnType, str], fold: Callable[[str], str] = str
) -> Iterator[str]:
    """Yield the lines of CREATE TABLE that define the columns and the primary key."""
    keys = table.server_names[: len(table.server_names) - len(table.columns)]
    for name, kind in list_types(table).items():
        yield f'"{fold(name)}" {names[kind]}{" NOT NULL" if name in keys else ""}'
    if keys:
        yield f"PRIMARY KEY ({quote_names(keys)})"


def list_indexes(
    table: Table, fold: Callable[[str], str] = str
) -> Iterator[tuple[str, bool, list[str]]]:
    """Yield name, whether it is unique, and columns of each index of a table."""
    for columns in (*table.indexes, *([(table.unique,)] if table.unique else [])):
        # Without the entry, with which the primary key begins: that is in every index of InnoDB.
        names = [fold(name) for name in columns if name != "entry"]
        label = "_".join(["ix", table.name.removeprefix("deid_"), *names])
        yield label, columns == (table.unique,), names


def quote_names(names: Iterable[str]) -> str:
    """Return a list of columns as SQL has it."""
    return ", ".join(f'"{name}"' for name in names)


def _is_made(link: Link) -> bool:
    # The row of the store makes a log of the tables: what is half made is made again.
    return "deid_log_store" in find_columns(link) and bool(
        link.rows("SELECT id FROM deid_log_store")
    )


def _make_tables(link: Link) -> None:
    for table in TABLES.values():
        for statement in link.database.create_table(table):
            link.rows(statement)
    if link.rows("SELECT id FROM deid_log_store"):  # another was faster
        return
    for statement in view_statements("CREATE OR REPLACE VIEW"):
        link.rows(statement)
    for name in STEPS:
        record_step(link.rows, "%s", name)
    begin = "INSERT INTO deid_log_store (id, version, last) VALUES (%s, %s, 0)"
    link.rows(begin, secrets.token_hex(16), VERSION)


Texts = Sequence[str | None]
Row = tuple[Any, ...]

DIGESTED = tuple(n for n in ENTRY_TEXTS if n not in ("created", "uploader", *LATER_FIELDS))
"""The columns of ``deid_log`` that the digest of an entry's rows covers, besides later ones."""

_TEXTS = ", ".join('"key"' if column == "key" else column for column in ENTRY_TEXTS)
SELECT_ENTRY = f"SELECT seq, {_TEXTS}, exact FROM deid_log"
"""Reads rows of entries, texts in the order of ``ENTRY_TEXTS``; a condition follows."""


@dataclass(slots=True)
class EntryRows:
    """The rows of one entry, without its place in the order and without its large values."""

    log: Row
    """In the order of the columns of ``deid_log``, from ``id`` on."""
    instances: list[Row]
    uids: list[Row]
    values: list[Row]
    words: list[Row]
    digest: bytes
    entry: Entry


def shorten(text: str, limit: int | None = SHORT_LIMIT) -> str:
    """Return a text as a column shows it: what no server can hold replaced, cut to the limit."""
    return make_readable(text)[:limit]


def encode_texts(texts: Texts, limits: Sequence[int | None]) -> tuple[Texts, bytes | None]:
    """Return texts as their columns show them, and the bytes that hold them if that differs."""
    shown = [
        None if text is None else shorten(text, limit)
        for text, limit in zip(texts, limits, strict=True)
    ]
    if shown == list(texts):
        return shown, None
    # Escapes would join two lone surrogates that stand side by side.
    exact = json.dumps(list(texts), ensure_ascii=False).encode("utf-8", "surrogatepass")
    return shown, exact


def decode_texts(shown: Texts, exact: bytes | None) -> list[Any]:
    """Return the texts that :func:`encode_texts` was given."""
    if exact is None:
        return list(shown)
    texts: list[Any] = json.loads(exact.decode("utf-8", "surrogatepass"))
    return texts


def make_row(seq: int, record: Small) -> Row:
    """Return the row of a record at its place in the order of the log."""
    cells = list_cells(record)
    texts = [cell for cell in cells if isinstance(cell, str)]
    shown, exact = encode_texts(texts, limit_texts(RECORD_TABLES[type(record)]))
    return (seq, *shown, *cells[len(texts) :], exact)


def read_record(table: str, row: Sequence[Any]) -> Small:
    """Return the record that a row of all columns holds."""
    end = 1 + len(TABLES[table].texts)
    texts = decode_texts(row[1:end], row[-1])
    texts += [""] * (end - 1 - len(texts))  # version 2 had fewer of some
    return RECORD_MAKERS[table]([*texts, *row[end:-1]])


def make_rows(entry: Entry) -> EntryRows:
    """Return what is written of an entry."""
    shown, exact = encode_texts(list_entry_texts(entry), limit_texts("deid_log"))

    def encode(table: str, rows: list[Texts]) -> list[Row]:
        encoded = (encode_texts(row, limit_texts(table)) for row in rows)
        return [(*those, own) for those, own in encoded]

    instances = encode("deid_instance", [list_instance_texts(i) for i in entry.instances])
    uids = encode("deid_uid", list(entry.uids))
    values = [(*row, 0) for row in encode("deid_value", list(list_further_values(entry)))]
    digest = _digest_rows(
        dict(zip(ENTRY_TEXTS, shown, strict=True)), exact, entry.large, instances, uids, values
    )
    parts = list(list_parts(entry))
    words = sorted(collect_words(list_names(entry)))
    odd = any(
        (
            exact is not None,
            any(row[-1] is not None for row in (*instances, *uids)),
            any(row[2] is not None for row in values),
            any(shorten(text) != text for text in (*words, *(part for _, part in parts))),
        )
    )
    [keyword_limit, value_limit] = limit_texts("deid_value")
    values += [(shorten(k, keyword_limit), shorten(p, value_limit), None, 1) for k, p in parts]
    return EntryRows(
        (*shown, exact, int(odd), estimate_size(entry), digest),
        instances,
        uids,
        values,
        [(word,) for word in dict.fromkeys(map(shorten, words))],
        digest,
        entry,
    )


def fetch_entry(link: Link, seq: int) -> Entry:
    """Return the entry at this place. Within a transaction that no other writer can disturb."""
    return fetch_entries(link, [seq])[seq]


def fetch_entries(link: Link, seqs: Sequence[int]) -> dict[int, Entry]:
    """Return the entries at these places. Within a transaction that sees one state of the log."""
    if not seqs:
        return {}
    logs, *parts = link.fetch(select_entries(link.database.any_of, list(seqs)))
    return make_entries(logs, parts)


def select_entries(which: str, value: Any) -> list[Statement]:
    """Return statements that read the rows of the entries whose places are those."""
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


def make_entries(logs: Rows, parts: Sequence[Rows]) -> dict[int, Entry]:
    """Return entries by their places, from what the statements of :func:`select_entries` read."""
    sorted_parts: list[defaultdict[int, Rows]] = []
    for rows in parts:
        by_entry: defaultdict[int, Rows] = defaultdict(list)
        for row in rows:
            by_entry[row[0]].append(row[1:])
        sorted_parts.append(by_entry)
    instances, uids, values, large = sorted_parts
    return {
        seq: make_entry(
            decode_texts(shown, exact),
            (decode_texts(row[:-1], row[-1]) for row in values[seq]),
            (make_instance(decode_texts(row[:-1], row[-1])) for row in instances[seq]),
            (decode_texts(row[:-1], row[-1]) for row in uids[seq]),
            {decode_texts(row[:1], row[1])[0]: row[2] for row in large[seq]},
        )
        for seq, *shown, exact in logs
    }


def _digest_rows(
    shown: dict[str, str | None],
    exact: bytes | None,
    large: Mapping[str, bytes],
    *parts: list[Row],
) -> bytes:
    """Return a digest of the content as the rows hold it, so that a server can compute it too."""
    pieces = [*(_piece(shown[column]) for column in DIGESTED), _piece(exact)]
    for column in LATER_FIELDS:  # nothing where there is none, as in entries from before
        pieces += [_piece(column), _piece(shown[column])] if shown[column] is not None else []
    for rows in parts:
        pieces.append(f"{len(rows)}#")
        pieces += (_piece(cell) for row in rows for cell in row)
    pieces.append(f"{len(large)}#")
    for digest, value in sorted(large.items()):
        [shown_digest], exact_digest = encode_texts([digest], limit_texts("deid_log_large"))
        pieces += (_piece(cell) for cell in (shown_digest, exact_digest))
        pieces.append(_piece(hashlib.sha256(value).digest()))
    return hashlib.sha256("".join(pieces).encode()).digest()


def _piece(cell: str | bytes | int | None) -> str:
    """Return a cell so written that two rows never look alike."""
    if cell is None:
        return "-"
    text = cell.hex() if isinstance(cell, bytes) else str(cell)
    return f"{len(text)}:{text}"
