"""Tables, columns, indexes and views of the log: those of the default store, and what is beside.

Columns show values as people read them. Where one can't stand in its column as it is (a NUL, a
lone surrogate, more than an index takes), ``exact`` holds the texts of the whole row as they were,
and ``odd`` tells so of the entry. ``seal`` is a digest of all that an entry's rows hold, and
``size`` about how much memory they take. Numbers that give the order come from ``deid_log_store``,
whose one row every writer locks until it has committed: so the order of the numbers is that of
the commits, and no reader's cursor passes a record that becomes visible later.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Dialect,
    Index,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.types import TypeEngine

from deid_hooks.backends.sqlite.schema import DEID_COLUMNS, INDEXED_COLUMNS
from deid_hooks.errors import LogUnavailable
from deid_hooks.records.fields import INDEXED_FIELDS

VERSION = 1

SHORT = 500
"""Characters that an index takes of a value in any of the servers."""

KEYWORD = 128
"""Characters that an index takes of a keyword beside its value."""

TEXTS = (
    *("id", "created", "uploader", "project", "timestamp"),
    *(*INDEXED_FIELDS, *DEID_COLUMNS, "digest", "key", "patients", "originals"),
)
"""The columns of ``deid_log`` that hold what an entry holds, in their order."""

ENTRY_COLUMNS = ("seq", *TEXTS, "exact", "odd", "size", "seal")

PARTS = {
    "deid_instance": ("SOPInstanceUID", "deid_SOPInstanceUID", "originals"),
    "deid_uid": ("deid_uid", "uid"),
    "deid_value": ("keyword", "value"),
    "deid_word": ("word",),
    "deid_large": (),
}
"""Tables with several rows an entry, in the order of their keys, and their columns of text."""

RECORDS = {
    "deid_log_upload": ("log_id", "at", "event", "destination", "uploader"),
    "deid_log_access": (
        *("id", "at", "who", "origin", "action", "asked", "log_ids", "reason"),
        *("salt", "commitment"),
    ),
    "deid_log_tombstone": ("id", "created", "destinations", "at", "who", "reason"),
    "deid_log_block": ("id", "at", "patient", "project", "who", "reason"),
}
"""Tables with one row a record, and their columns of text."""

IDENTIFYING = ("deid_log", *PARTS, "deid_log_large", "deid_log_access")
"""Tables from which an erasure takes rows or values."""

VIEWS = {
    "deid_log_instance": "SOPInstanceUID, deid_SOPInstanceUID, part.originals",
    "deid_log_uid": "deid_uid, uid",
    "deid_log_value": "keyword, value",
    "deid_log_word": "word",
}


_SHORT = {"id", "log_id", "patient", *INDEXED_COLUMNS, "value", "word", "uid", "deid_uid"}
_SHORT |= {"SOPInstanceUID", "deid_SOPInstanceUID"}


def limit_of(column: str) -> int | None:
    """How many characters a column of text holds; None for any number."""
    return KEYWORD if column == "keyword" else SHORT if column in _SHORT else None


def tables(dialect: Dialect, collation: str) -> MetaData:
    """The tables, for a server that compares texts by code points in this collation."""
    made = MetaData()
    folded = dialect.name == "postgresql"  # there an unquoted PatientName means patientname
    own = collation if folded else None
    anything: TypeEngine[str] = Text(collation=own).with_variant(mysql.LONGTEXT(), "mysql")
    shown = str.lower if folded else str
    options: dict[str, Any] = (
        {} if folded else {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4"}
    )
    if not folded:
        options |= {"mysql_collate": collation, "mysql_row_format": "DYNAMIC"}

    def kind(column: str) -> TypeEngine[str]:
        limit = limit_of(column)
        return String(limit, collation=own) if limit else anything

    def table(name: str, *columns: Column[Any], indexes: Sequence[Sequence[str]] = ()) -> None:
        for column in columns:
            column.name = column.key = shown(column.name)
        made_table: Any = Table(name, made, *columns, **options)
        for those in indexes:
            label = "_".join(["ix", name.removeprefix("deid_"), *map(shown, those)])
            unique = list(those) == ["id"]
            Index(label, *(made_table.c[shown(column)] for column in those), unique=unique)

    texts: list[Column[Any]] = [Column(c, kind(c)) for c in TEXTS]
    beside: list[Column[Any]] = [_blob("exact"), _number("odd"), _big("size"), _blob("seal")]
    indexes = [[column] for column in ("id", *INDEXED_COLUMNS, "odd")]
    table("deid_log", _big("seq", primary=True), *texts, *beside, indexes=indexes)

    for name, columns in PARTS.items():
        values: list[Column[Any]] = [Column(c, kind(c)) for c in columns]
        values += [_blob("exact")] if name in ("deid_instance", "deid_uid", "deid_value") else []
        values += [_number("part")] if name == "deid_value" else []
        values += [_big("large")] if name == "deid_large" else []
        indexes = [[column] for column in columns if column != "originals"]
        indexes = [["keyword", "value"]] if name == "deid_value" else indexes
        indexes = [["large"]] if name == "deid_large" else indexes
        keys = (_big("entry", primary=True), _big("key", primary=True))
        table(name, *keys, *values, indexes=indexes)
    large = (Column("digest", kind("digest")), _blob("exact"), _blob("value"))
    table("deid_log_large", _big("key", primary=True), *large, indexes=[["digest"]])

    for name, columns in RECORDS.items():
        values = [Column(c, kind(c)) for c in columns]
        values += [_number("lifted")] if name == "deid_log_block" else []
        indexes = [["id"], ["patient"]] if name == "deid_log_block" else [[columns[0]]]
        table(name, _big("seq", primary=True), *values, _blob("exact"), indexes=indexes)
    table("deid_log_chain", _big("seq", primary=True), Column("seal", kind("seal")))
    table("deid_log_store", Column("id", kind("id")), _number("version"), _big("last"))
    return made


def views() -> Sequence[str]:
    """Statements that make the views."""
    parts = [
        f"CREATE VIEW {name} AS SELECT deid_log.id AS log_id, {columns}"
        f" FROM deid_{name.removeprefix('deid_log_')} part"
        f" JOIN deid_log ON deid_log.seq = part.entry"
        + (" WHERE part.part = 0" if name == "deid_log_value" else "")
        for name, columns in VIEWS.items()
    ]
    subject = (
        "CREATE VIEW deid_log_subject AS"
        " SELECT DISTINCT project, deid_PatientID AS label, PatientID, IssuerOfPatientID"
        " FROM deid_log WHERE PatientID <> '' AND deid_PatientID <> ''"
    )
    return [*parts, subject]


def refuse_other(version: int, where: str) -> None:
    """Raise LogUnavailable for tables of another version than this package writes."""
    if version > VERSION:
        raise LogUnavailable(
            f"{where} was written by a newer version of deid-hooks-sql", "update deid-hooks-sql"
        )


def _big(name: str, primary: bool = False) -> Column[int]:
    return Column(name, BigInteger, primary_key=primary, autoincrement=False, nullable=not primary)


def _number(name: str) -> Column[int]:
    return Column(name, SmallInteger)


def _blob(name: str) -> Column[bytes]:
    return Column(name, LargeBinary().with_variant(mysql.LONGBLOB(), "mysql"))
