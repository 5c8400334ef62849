"""From entries to rows and back, without loss."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator

from deid_hooks.backends.sqlite.schema import DEID_COLUMNS
from deid_hooks.backends.sqlite.searchable import collect_words, split_parts
from deid_hooks.records.fields import DEID_FIELDS, INDEXED_FIELDS
from deid_hooks.records.model import Entry, Instance

Cell = str | bytes | None

_COLUMNS = (
    *("seq", "id", "created", "uploader", "project", "timestamp"),
    *(*INDEXED_FIELDS, *DEID_COLUMNS, "digest", "key", "patients", "originals"),
)
_INSERT_ENTRY = (
    f"INSERT INTO deid_log ({', '.join(f'[{name}]' for name in _COLUMNS)})"  # noqa: S608
    f" VALUES ({', '.join('?' * len(_COLUMNS))})"
)
_SELECT_ENTRY = f"SELECT {', '.join(f'[{n}]' for n in _COLUMNS)} FROM deid_log WHERE seq = ?"  # noqa: S608
_FIRST_FIELD = _COLUMNS.index(INDEXED_FIELDS[0])
_FIRST_DEID = _FIRST_FIELD + len(INDEXED_FIELDS)


def encode_cell(text: str) -> str | bytes:
    """A string as SQLite can keep it: as text, or as bytes where it has NULs or lone surrogates."""
    if "\0" not in text:
        if text.isascii():
            return text
        try:
            text.encode()
        except UnicodeEncodeError:
            pass
        else:
            return text
    return text.encode("utf-8", "surrogatepass")


def decode_cell(value: str | bytes) -> str:
    """The string that :func:`encode_cell` made into ``value``."""
    return value.decode("utf-8", "surrogatepass") if isinstance(value, bytes) else value


def insert_entry(connection: sqlite3.Connection, seq: int, entry: Entry) -> None:
    """Write an entry under this place in the order of the log."""
    connection.execute(
        _INSERT_ENTRY,
        (
            seq,
            *map(encode_cell, (entry.log_id, entry.created, entry.uploader, entry.project)),
            None if entry.timestamp is None else encode_cell(entry.timestamp),
            *(_first(entry.fields.get(keyword)) for keyword in INDEXED_FIELDS),
            *(_first(entry.deid.get(keyword)) for keyword in DEID_FIELDS),
            *map(encode_cell, (entry.digest, entry.key, " ".join(entry.patients), entry.originals)),
        ),
    )
    connection.executemany(
        "INSERT INTO deid_instance (entry, SOPInstanceUID, deid_SOPInstanceUID, originals)"
        " VALUES (?, ?, ?, ?)",
        [
            (
                seq,
                encode_cell(i.uid),
                encode_cell(i.deid_uid),
                None if i.originals == "{}" else encode_cell(i.originals),
            )
            for i in entry.instances
        ],
    )
    connection.executemany(
        "INSERT INTO deid_uid (entry, deid_uid, uid) VALUES (?, ?, ?)",
        [(seq, encode_cell(deid_uid), encode_cell(uid)) for deid_uid, uid in entry.uids],
    )
    connection.executemany(
        "INSERT INTO deid_value (entry, keyword, value, part) VALUES (?, ?, ?, ?)",
        [
            *((seq, encode_cell(keyword), value, 0) for keyword, value in _further_values(entry)),
            *((seq, encode_cell(keyword), part, 1) for keyword, part in split_parts(entry)),
        ],
    )
    connection.executemany(
        "INSERT INTO deid_word (entry, word) VALUES (?, ?)",
        [(seq, word) for word in sorted(collect_words(entry))],
    )
    for digest, value in entry.large.items():
        _insert_large(connection, seq, encode_cell(digest), value)


def read_entry(connection: sqlite3.Connection, seq: int) -> Entry | None:
    """The entry at this place in the order of the log; None if it is no longer there."""
    row = connection.execute(_SELECT_ENTRY, (seq,)).fetchone()
    if row is None:
        return None
    fields = _columns_of(INDEXED_FIELDS, row[_FIRST_FIELD:])
    deid = _columns_of(DEID_FIELDS, row[_FIRST_DEID:])
    for keyword, value in connection.execute(
        "SELECT keyword, value FROM deid_value WHERE entry = ? AND NOT part ORDER BY key", (seq,)
    ):
        name = decode_cell(keyword)
        side, name = (deid, name[5:]) if name.startswith("deid_") else (fields, name)
        side.setdefault(name, []).extend([] if value is None else [decode_cell(value)])
    log_id, created, uploader, project = map(decode_cell, row[1:5])
    digest, key, patients, originals = map(decode_cell, row[-4:])
    return Entry(
        log_id=log_id,
        created=created,
        uploader=uploader,
        project=project,
        timestamp=None if row[5] is None else decode_cell(row[5]),
        fields={keyword: tuple(values) for keyword, values in fields.items()},
        deid={keyword: tuple(values) for keyword, values in deid.items()},
        originals=originals,
        instances=tuple(_instances(connection, seq)),
        uids=tuple(
            (decode_cell(deid_uid), decode_cell(uid))
            for deid_uid, uid in connection.execute(
                "SELECT deid_uid, uid FROM deid_uid WHERE entry = ? ORDER BY key", (seq,)
            )
        ),
        large={
            decode_cell(name): value
            for name, value in connection.execute(
                "SELECT digest, value FROM deid_large"
                " JOIN deid_log_large ON deid_log_large.key = large WHERE entry = ?",
                (seq,),
            )
        },
        digest=digest,
        key=key,
        patients=tuple(patients.split()),
    )


def _instances(connection: sqlite3.Connection, seq: int) -> Iterator[Instance]:
    for uid, deid_uid, originals in connection.execute(
        "SELECT SOPInstanceUID, deid_SOPInstanceUID, originals"
        " FROM deid_instance WHERE entry = ? ORDER BY key",
        (seq,),
    ):
        own = "{}" if originals is None else decode_cell(originals)
        yield Instance(decode_cell(uid), decode_cell(deid_uid), own)


def _insert_large(
    connection: sqlite3.Connection, seq: int, digest: str | bytes, value: bytes
) -> None:
    """Once for all entries that have it. One digest means one value, but that is not our word."""
    known = connection.execute(
        "SELECT key FROM deid_log_large WHERE digest = ? AND value = ?", (digest, value)
    ).fetchone()
    key = known[0] if known else None
    if key is None:
        key = connection.execute(
            "INSERT INTO deid_log_large (digest, value) VALUES (?, ?)", (digest, value)
        ).lastrowid
    connection.execute("INSERT INTO deid_large (entry, large) VALUES (?, ?)", (seq, key))


def _first(values: tuple[str, ...] | None) -> Cell:
    return encode_cell(values[0]) if values else None


def _columns_of(keywords: tuple[str, ...], row: Iterable[Cell]) -> dict[str, list[str]]:
    pairs = zip(keywords, row, strict=False)
    return {keyword: [decode_cell(value)] for keyword, value in pairs if value is not None}


def _further_values(entry: Entry) -> Iterator[tuple[str, Cell]]:
    """What the columns don't hold; a keyword without any value is a row without one."""
    sides = (("", entry.fields, INDEXED_FIELDS), ("deid_", entry.deid, DEID_FIELDS))
    for prefix, mapping, with_column in sides:
        for keyword, values in mapping.items():
            if not values:
                yield prefix + keyword, None
            for value in values[1:] if keyword in with_column else values:
                yield prefix + keyword, encode_cell(value)
