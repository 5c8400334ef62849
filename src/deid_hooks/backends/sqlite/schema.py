"""Tables, indexes and views of the log, and how an older log is brought up to date.

The columns bear DICOM keywords, so that administrators can ask for them in SQL. What stands in
several rows an entry refers to it by its ``seq``; the views show the de-id log id instead, which
would take 108 bytes more an instance in the table (measured at 20 instances an entry).
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from deid_hooks.errors import LogUnavailable
from deid_hooks.records.fields import DEID_FIELDS, INDEXED_FIELDS

if TYPE_CHECKING:
    from sqlite_utils import Database

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


def read_store(connection: sqlite3.Connection) -> tuple[str, int] | None:
    """The random id of the store and the version of its schema; None if it is half made.

    Raises sqlite3.OperationalError where there is no such table.
    """
    row: tuple[str, int] | None = connection.execute(
        "SELECT id, version FROM deid_log_store"
    ).fetchone()
    return row


def refuse_newer(version: int, path: Path) -> None:
    """Raise LogUnavailable for a log that this version of the package would damage."""
    if version > VERSION:
        raise LogUnavailable(
            f"the log {path} was written by a newer version of deid-hooks", "update deid-hooks"
        )


def migrate(connection: sqlite3.Connection) -> None:
    """Bring an empty database, or an older log, to this version. Within a transaction."""
    from sqlite_utils import Database  # 70 ms that only this needs

    database = Database(connection, execute_plugins=False)
    made = "deid_log_store" in database.table_names()
    stored = read_store(connection) if made else None
    version = stored[1] if stored else 0
    for step in _STEPS[version:]:
        step(database)
    connection.execute("UPDATE deid_log_store SET version = ?", (VERSION,))


def _version_1(database: Database) -> None:
    texts = ("id", "created", "uploader", "project", "timestamp")
    columns = (*texts, *INDEXED_FIELDS, *DEID_COLUMNS, "digest", "key", "patients", "originals")
    _table(database, "deid_log", "seq", dict.fromkeys(columns, str), INDEXED_COLUMNS)
    database.table("deid_log").create_index(["id"], unique=True)

    uids = {"SOPInstanceUID": str, "deid_SOPInstanceUID": str}
    _part(database, "deid_instance", {**uids, "originals": str}, tuple(uids))
    _part(database, "deid_uid", {"deid_uid": str, "uid": str}, ("deid_uid", "uid"))
    # Values of a field beyond the one in the column; with part = 1, other forms of a value that
    # a search term may have, such as one of several that stand in it.
    value = {"keyword": str, "value": str, "part": int}
    _part(database, "deid_value", value, (("keyword", "value"),))
    # With the entry, so that people of one common name are found without a look at each row.
    _part(database, "deid_word", {"word": str}, (("word", "entry"),))
    _part(database, "deid_large", {"large": int}, ("large",))
    large: dict[str, type] = {"digest": str, "value": bytes}
    _table(database, "deid_log_large", "key", large, ("digest",))
    _view(database, "instance", "SOPInstanceUID, deid_SOPInstanceUID, part.originals")
    _view(database, "uid", "deid_uid, uid")
    _view(database, "value", "keyword, value", "WHERE NOT part")
    _view(database, "word", "word")

    upload = ("log_id", "at", "event", "destination", "uploader")
    _table(database, "deid_log_upload", "seq", dict.fromkeys(upload, str), ("log_id",))
    look = ("id", "at", "who", "origin", "action", "asked", "log_ids", "reason")
    access = (*look, "salt", "commitment")
    _table(database, "deid_log_access", "seq", dict.fromkeys(access, str))
    _table(database, "deid_log_chain", "seq", {"seal": str})
    database.table("deid_log_access").create_index(["id"], unique=True)
    tombstone = ("id", "created", "destinations", "at", "who", "reason")
    _table(database, "deid_log_tombstone", "seq", dict.fromkeys(tombstone, str))
    database.table("deid_log_tombstone").create_index(["id"], unique=True)

    block = {
        **dict.fromkeys(("id", "at", "patient", "project", "who", "reason"), str),
        "lifted": int,
    }
    _table(database, "deid_log_block", "seq", block, ("patient",))
    database.table("deid_log_block").create_index(["id"], unique=True)
    database.create_view(
        "deid_log_subject",
        "SELECT DISTINCT project, deid_PatientID AS label, PatientID, IssuerOfPatientID"
        " FROM deid_log WHERE PatientID != '' AND deid_PatientID != ''",
    )

    database.table("deid_log_store").create({"id": str, "version": int})
    database.execute("INSERT INTO deid_log_store VALUES (?, 0)", [secrets.token_hex(16)])


def _table(
    database: Database,
    name: str,
    key: str,
    columns: dict[str, type],
    indexes: tuple[str | tuple[str, ...], ...] = (),
) -> None:
    # An explicit integer key: a VACUUM may renumber rows that have none, and their order counts.
    database.table(name).create({key: int, **columns}, pk=key)
    for index in indexes:
        database.table(name).create_index([index] if isinstance(index, str) else list(index))


def _part(
    database: Database,
    name: str,
    columns: dict[str, type],
    indexes: tuple[str | tuple[str, ...], ...],
) -> None:
    """A table with several rows an entry, in the order of their keys."""
    _table(database, name, "key", {"entry": int, **columns}, ("entry", *indexes))


def _view(database: Database, name: str, columns: str, where: str = "") -> None:
    database.create_view(
        f"deid_log_{name}",
        f"SELECT deid_log.id AS log_id, {columns} FROM deid_{name} AS part"  # noqa: S608
        f" JOIN deid_log ON deid_log.seq = part.entry {where}",
    )


_STEPS: tuple[Callable[[Database], None], ...] = (_version_1,)
"""Each makes the version of its place, counted from 1, out of the one before."""

VERSION = len(_STEPS)
