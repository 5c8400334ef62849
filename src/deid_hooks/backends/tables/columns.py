"""The tables of the log, the same in every database: columns, indexes and views.

The columns of ``deid_log`` are named by DICOM keywords, so that administrators can ask for them in
SQL. What has several rows for one entry refers to it by ``seq``; the views show the de-id log id
instead, which would take 108 bytes more an instance in the table (measured at 20 instances an
entry).

Some columns only database servers have. There a column shows a text as people read it, cut to what
an index takes; where that is not the text itself, ``exact`` holds the texts of the whole row, and
``odd`` of the entry is 1. ``rows_digest`` is a digest of all that an entry's rows hold, and
``size`` about how much memory they take.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from functools import cache

from deid_hooks.records.fields import DEID_FIELDS, INDEXED_FIELDS, LATER_FIELDS


class ColumnType(Enum):
    """What a column holds."""

    TEXT = auto()
    SHORT = auto()
    """Text that an index or a comparison needs: a server keeps ``SHORT_LIMIT`` characters of it."""
    KEYWORD = auto()
    """A keyword, short enough to stand in an index beside a value."""
    NUMBER = auto()
    FLAG = auto()
    BYTES = auto()


BEGINNING = -(1 << 62)
"""The place before all others. A log begins with 1, unless somebody planted records before that."""

SHORT_LIMIT = 500
"""Characters of a value that the indexes of any server take."""

KEYWORD_LIMIT = 128
"""Characters of a keyword that they take beside a value."""

LIMITS = {
    ColumnType.TEXT: None,
    ColumnType.SHORT: SHORT_LIMIT,
    ColumnType.KEYWORD: KEYWORD_LIMIT,
}

SERVER_COLUMNS = ("exact", "odd", "size", "rows_digest", "last")
"""Columns that only database servers have."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column, and what it holds."""

    name: str
    type: ColumnType = ColumnType.TEXT


@dataclass(frozen=True, slots=True)
class Table:
    """A table; its rows are in the order of ``key``, ``""`` for a table without order.

    ``part`` tables have several rows for one entry, and refer to it by ``entry``. An erasure takes
    rows or values from the ``identifying`` ones.
    """

    name: str
    key: str
    columns: tuple[Column, ...]
    indexes: tuple[tuple[str, ...], ...] = ()
    unique: str = ""
    part: bool = False
    identifying: bool = False

    @property
    def texts(self) -> tuple[Column, ...]:
        """The columns of text, in their order."""
        return tuple(column for column in self.columns if column.type in LIMITS)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all columns that SQLite has, in their order, the key first."""
        keys = ("key", "entry") if self.part else (self.key,) if self.key else ()
        return (*keys, *(c.name for c in self.columns if c.name not in SERVER_COLUMNS))

    @property
    def server_names(self) -> tuple[str, ...]:
        """The names of all columns that a database server has, in their order, the key first."""
        keys = ("entry", "key") if self.part else (self.key,) if self.key else ()
        return (*keys, *(column.name for column in self.columns))


DEID_COLUMNS = tuple(f"deid_{keyword}" for keyword in DEID_FIELDS)

INDEXED_COLUMNS = (
    "digest",
    "patients",
    "timestamp",
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "AccessionNumber",
    "StudyInstanceUID",
    "StudyDate",
    "SeriesInstanceUID",
    *DEID_COLUMNS,
)
"""Columns of ``deid_log`` with an index. More would find more at once, and append more slowly."""

FIRST_FIELDS = tuple(keyword for keyword in INDEXED_FIELDS if keyword not in LATER_FIELDS)

ENTRY_TEXTS = (
    *("id", "created", "uploader", "project", "timestamp"),
    *(*FIRST_FIELDS, *DEID_COLUMNS, "digest", "key", "patients", "originals", *LATER_FIELDS),
)
"""The columns of ``deid_log`` that hold what an entry holds. Servers rely on their order: a new
column comes last, so that what was written before keeps its meaning."""


_SHORT: tuple[str, ...] = (
    "id",
    "log_id",
    "uid",
    "deid_uid",
    "SOPInstanceUID",
    "deid_SOPInstanceUID",
    "value",
)
_SHORT += (*INDEXED_COLUMNS, "word", "patient", "name")
_TYPES = {
    **dict.fromkeys(_SHORT, ColumnType.SHORT),
    **dict.fromkeys(("exact", "rows_digest"), ColumnType.BYTES),
    **dict.fromkeys(("odd", "part", "lifted", "version"), ColumnType.FLAG),
    **dict.fromkeys(("size", "large", "last"), ColumnType.NUMBER),
    "keyword": ColumnType.KEYWORD,
}


def _define(names: str) -> tuple[Column, ...]:
    return tuple(Column(name, _TYPES.get(name, ColumnType.TEXT)) for name in names.split())


def _define_part(name: str, columns: str, *indexes: str) -> Table:
    split = tuple(tuple(index.split()) for index in indexes)
    return Table(name, "key", _define(columns), split, part=True, identifying=True)


_ACCESS = "id at who origin action asked log_ids reason salt commitment exact"

_TABLES = (
    Table(
        "deid_log",
        "seq",
        _define(f"{' '.join(ENTRY_TEXTS)} exact odd size rows_digest"),
        tuple((name,) for name in (*INDEXED_COLUMNS, "odd")),
        unique="id",
        identifying=True,
    ),
    _define_part(
        "deid_instance",
        "SOPInstanceUID deid_SOPInstanceUID originals exact",
        "SOPInstanceUID",
        "deid_SOPInstanceUID",
    ),
    _define_part("deid_uid", "deid_uid uid exact", "deid_uid", "uid"),
    # Values of a field beyond the one in the column; with part = 1, other forms of a value that
    # a search term may have, such as one of several that stand in it.
    _define_part("deid_value", "keyword value exact part", "keyword value"),
    # With the entry in the index, so that people of one common name are found in it alone.
    _define_part("deid_word", "word", "word entry"),
    _define_part("deid_large", "large", "large"),
    Table(
        "deid_log_large",
        "key",
        (*_define("digest exact"), Column("value", ColumnType.BYTES)),
        (("digest",),),
        identifying=True,
    ),
    Table(
        "deid_log_upload",
        "seq",
        _define("log_id at event destination uploader id exact"),
        (("log_id",),),
    ),
    Table("deid_log_access", "seq", _define(_ACCESS), unique="id", identifying=True),
    Table(
        "deid_log_tombstone",
        "seq",
        _define("id created destinations at who reason project exact"),
        unique="id",
    ),
    Table(
        "deid_log_block",
        "seq",
        _define("id at patient project who reason lifted exact"),
        (("patient",),),
        unique="id",
    ),
    # The salts of entries, with which what an entry held could be guessed.
    Table("deid_log_chain", "seq", _define("seal"), identifying=True),
    Table("deid_log_migration", "", _define("name applied_at"), unique="name"),
    Table("deid_log_store", "", _define("id version last")),
)

TABLES = {table.name: table for table in _TABLES}
"""All tables by name, in the order in which they are made."""

PARTS = tuple(table.name for table in _TABLES if table.part)
IDENTIFYING = tuple(table.name for table in _TABLES if table.identifying)


def find_fault(found: Mapping[str, Collection[str]], server: bool) -> str:
    """Return how the columns that a log has differ from those it should have; ``""`` if not.

    ``found`` are the names of the columns of each table, in lower case.
    """
    for table in TABLES.values():
        names = {name.lower() for name in (table.server_names if server else table.names)}
        there = set(found.get(table.name, ()))
        if missing := sorted(names - there):
            return f"the table {table.name} has no column {missing[0]}"
        if more := sorted(there - names):
            return f"the table {table.name} has a column {more[0]} that does not belong there"
    return ""


def limit_texts(table: str) -> tuple[int | None, ...]:
    """Return how many characters a server keeps of each text of a row; None for all of them."""
    return tuple(LIMITS[column.type] for column in TABLES[table].texts)


@cache
def insert_statement(table: str) -> str:
    """Return SQLite's SQL that inserts a row of all columns it has, in the order of ``names``.

    But for a column ``key``: SQLite gives the next number itself.
    """
    names = [name for name in TABLES[table].names if (name, TABLES[table].key) != ("key", "key")]
    marks = ", ".join("?" * len(names))
    return f"INSERT INTO {table} ({_quote(names)}) VALUES ({marks})"  # noqa: S608


NEW_IN_VERSION_3 = frozenset((("deid_log_upload", "id"), ("deid_log_tombstone", "project")))
"""Table and name of columns that a log of version 2 has not: read from it, they are empty."""


@cache
def select_statement(table: str, version: int = 3) -> str:
    """Return SQLite's SQL that reads all columns it has, in the order of ``names``.

    Of a log of this version: empty texts stand for columns that it has not.
    """
    names = ", ".join(
        "''" if version < 3 and (table, name) in NEW_IN_VERSION_3 else f"[{name}]"
        for name in TABLES[table].names
    )
    return f"SELECT {names} FROM {table}"  # noqa: S608


def view_statements(create: str = "CREATE VIEW") -> tuple[str, ...]:
    """Return SQL that makes the views, in the words of every database after ``create``."""
    views = {
        "instance": "SOPInstanceUID, deid_SOPInstanceUID, part.originals",
        "uid": "deid_uid, uid",
        "value": "keyword, value",
        "word": "word",
    }
    return (
        *(
            f"{create} deid_log_{name} AS SELECT deid_log.id AS log_id, {columns}"  # noqa: S608
            f" FROM deid_{name} part JOIN deid_log ON deid_log.seq = part.entry"
            + (" WHERE part.part = 0" if name == "value" else "")
            for name, columns in views.items()
        ),
        f"{create} deid_log_subject AS"  # noqa: S608
        " SELECT DISTINCT project, deid_PatientID AS label, PatientID, IssuerOfPatientID"
        " FROM deid_log WHERE PatientID <> '' AND deid_PatientID <> ''",
    )


def _quote(names: Iterable[str]) -> str:
    return ", ".join(f"[{name}]" for name in names)
