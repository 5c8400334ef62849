"""Versions of the tables, and the steps that bring an older log to the present one.

Every step has a name, and the log keeps when it was applied, so that a step is applied once. Steps
are frozen: they name tables and columns as they were when the step was written. Each may be
repeated after a kill in its middle, for MySQL and MariaDB commit every change of a table by itself.
To change the tables, add a step and raise ``VERSION``; a column for a new indexed field is
``changes.add_column("deid_log", Column("NewField"))``. Such a step stands before the first one that
reads records, which reads all columns of today.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from deid_hooks.backends.contract import OlderLog
from deid_hooks.backends.tables.columns import TABLES, Column, ColumnType, Table
from deid_hooks.dicom.names import simplify_words
from deid_hooks.errors import LogUnavailable
from deid_hooks.records.chain import commit_terms
from deid_hooks.records.model import AccessRow, Record, read_clock

VERSION = 3
"""The version that this program writes. It reads the one before too."""

UPGRADING = 1000
"""The version of a log that is being upgraded: programs of every version refuse it."""


class Changes(ABC):
    """What a step may do with the tables of one database."""

    mark: ClassVar[str]
    """What stands for a value in SQL."""
    not_ascii: ClassVar[str]
    """SQL that a row of ``deid_word`` meets whose word is not ASCII."""
    short_limit: ClassVar[int | None]
    """How many characters a column of short text holds."""
    seq_as_text: ClassVar[str]
    """SQL that gives the place of a row in the order of the log as a text."""
    seal: Callable[[str, Sequence[Record]], Sequence[str]]
    """Seals records, as ``LogBackend.append`` says."""

    @abstractmethod
    def run(self, sql: str, *values: Any) -> list[Any]:
        """Run a statement and return its rows."""

    @abstractmethod
    def list_columns(self, table: str) -> set[str]:
        """Return the names of the columns of a table, in lower case; none if it is not there."""

    @abstractmethod
    def create_table(self, table: Table) -> None:
        """Make a table with its indexes if it is not there."""

    @abstractmethod
    def add_column(self, table: str, column: Column) -> None:
        """Add a column if it is not there."""

    @abstractmethod
    def rename_column(self, table: str, old: str, new: str) -> None:
        """Give a column another name."""

    @abstractmethod
    def drop_columns(self, table: str, *columns: str) -> None:
        """Take columns away, with what they hold."""

    @abstractmethod
    def insert_rows(
        self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]
    ) -> None:
        """Insert rows, at least one, many at once."""

    @abstractmethod
    def read_records(self, after: int) -> list[tuple[int, Record]]:
        """Return some records after a place, each with its place; none at the end."""

    @abstractmethod
    def rewrite_access(self, seq: int, row: AccessRow) -> None:
        """Write the salt and the commitment of an access row anew."""

    @abstractmethod
    def make_views(self) -> None:
        """Make all views anew, as this version has them."""


def upgrade(changes: Changes) -> None:
    """Apply the steps that were not applied yet. Others must be kept from changing the tables."""
    changes.create_table(TABLES["deid_log_migration"])
    # From here on older programs refuse to write. Where each statement is committed by itself,
    # they could otherwise write into tables that are half changed.
    changes.run(f"UPDATE deid_log_store SET version = {UPGRADING}")  # noqa: S608
    applied = {name for (name,) in changes.run("SELECT name FROM deid_log_migration")}
    for name, step in STEPS.items():
        if name not in applied:
            step(changes)
            record_step(changes.run, changes.mark, name)
    changes.make_views()
    changes.run(f"UPDATE deid_log_store SET version = {VERSION}")  # noqa: S608


def record_step(run: Callable[..., object], mark: str, name: str) -> None:
    """Note in the log that a step was applied now; of a new log all are."""
    insert = f"INSERT INTO deid_log_migration (name, applied_at) VALUES ({mark}, {mark})"  # noqa: S608
    run(insert, name, read_clock())


def refuse_unreadable(version: int, where: str) -> None:
    """Raise LogUnavailable for a log that this program can't even read."""
    if version < VERSION - 1:
        raise LogUnavailable(
            f"{where} has version {version}, which this program does not know any more; it writes"
            f" {VERSION}",
            "run: deid-hooks init --upgrade",
        )
    refuse_newer(version, where)


def refuse_newer(version: int, where: str) -> None:
    """Raise LogUnavailable for a log that this program can't upgrade either."""
    if version == UPGRADING:
        raise LogUnavailable(
            f"{where} is being upgraded, or its upgrade was interrupted",
            "when no upgrade runs any more, run: deid-hooks init --upgrade",
        )
    if version > VERSION:
        raise LogUnavailable(
            f"{where} has version {version}, this program knows {VERSION}", "update deid-hooks"
        )


def refuse_other(version: int, where: str, records: Sequence[Record] = ()) -> None:
    """Raise LogUnavailable for a log that this program must not write, OlderLog if it may read it.

    To one that it only reads it adds access records, and nothing else: without them nobody may
    read. They are ``records`` then; the upgrade seals them anew, as all that it finds.
    """
    refuse_unreadable(version, where)
    if version < VERSION and not (records and all(isinstance(r, AccessRow) for r in records)):
        raise OlderLog(
            f"{where} has version {version}, which this program only reads; it writes {VERSION}",
            "run: deid-hooks init --upgrade",
        )


def _move_seals(changes: Changes) -> None:
    """Move the seals from the access trail into a table of their own, for records of any kind."""
    changes.create_table(Table("deid_log_chain", "seq", (Column("seal", ColumnType.SHORT),)))
    columns = changes.list_columns("deid_log_access")
    if "seal" not in columns:
        return
    changes.run(
        "INSERT INTO deid_log_chain (seq, seal) SELECT seq, seal FROM deid_log_access"
        " WHERE seal <> '' AND seq NOT IN (SELECT seq FROM deid_log_chain)"
    )
    if "exact" in columns:  # where the columns end that a row of exact texts has
        rows = changes.run("SELECT seq, exact FROM deid_log_access WHERE exact IS NOT NULL")
        for seq, exact in rows:
            texts = json.loads(bytes(exact).decode("utf-8", "surrogatepass"))[:10]
            kept = json.dumps(texts, ensure_ascii=False).encode("utf-8", "surrogatepass")
            mark = changes.mark
            changes.run(
                f"UPDATE deid_log_access SET exact = {mark} WHERE seq = {mark}",  # noqa: S608
                kept,
                seq,
            )
    changes.drop_columns("deid_log_access", "previous", "seal")


def _rename_digest(changes: Changes) -> None:
    """Call the digest of an entry's rows what it is. SQLite has none."""
    if "seal" in changes.list_columns("deid_log"):
        changes.rename_column("deid_log", "seal", "rows_digest")


def _fold_words(changes: Changes) -> None:
    """Make the words of names anew: every Latin letter is one of ASCII now.

    They follow from the old words. What is folded is what this program looks for, so this step
    calls its function, and may be written down again for a version that folds otherwise.
    """
    mark, limit = changes.mark, changes.short_limit
    words = changes.run(f"SELECT DISTINCT word FROM deid_word WHERE {changes.not_ascii}")  # noqa: S608
    for (word,) in words:
        new = simplify_words(word)
        if new == word:
            continue
        of_word = f"SELECT entry FROM deid_word WHERE word = {mark}"  # noqa: S608
        if new[:limit] != new:
            changes.run(f"UPDATE deid_log SET odd = 1 WHERE seq IN ({of_word})", word)  # noqa: S608
        # MySQL reads a table in a statement that changes it only as a derived one.
        twice = f"SELECT entry FROM ({of_word}) other"  # noqa: S608
        changes.run(
            f"DELETE FROM deid_word WHERE word = {mark} AND entry IN ({twice})",  # noqa: S608
            word,
            new[:limit],
        )
        changes.run(f"UPDATE deid_word SET word = {mark} WHERE word = {mark}", new[:limit], word)  # noqa: S608


def _add_ids_and_projects(changes: Changes) -> None:
    """Give upload events ids of their own, and tombstones a project: an empty one to old ones."""
    mark = changes.mark
    for table, column, value in (
        ("deid_log_upload", Column("id", ColumnType.SHORT), changes.seq_as_text),
        ("deid_log_tombstone", Column("project"), "''"),
    ):
        changes.add_column(table, column)
        if "exact" in changes.list_columns(table):
            rows = changes.run(
                f"SELECT seq, exact, {value} FROM {table}"  # noqa: S608
                f" WHERE exact IS NOT NULL AND {column.name} IS NULL"
            )
            for seq, exact, text in rows:
                texts = [*json.loads(bytes(exact).decode("utf-8", "surrogatepass")), text]
                kept = json.dumps(texts, ensure_ascii=False).encode("utf-8", "surrogatepass")
                changes.run(
                    f"UPDATE {table} SET exact = {mark}, {column.name} = {value}"  # noqa: S608
                    f" WHERE seq = {mark}",
                    kept,
                    seq,
                )
        changes.run(f"UPDATE {table} SET {column.name} = {value} WHERE {column.name} IS NULL")  # noqa: S608


def _chain_records(changes: Changes) -> None:
    """Link and seal all records that the log holds, of every kind, as they stand."""
    changes.run("DROP TABLE IF EXISTS deid_log_chain")
    seal = Column("seal", ColumnType.TEXT)
    changes.create_table(Table("deid_log_chain", "seq", (seal,), identifying=True))
    head, after = "", 0
    while places := changes.read_records(after):
        seqs, records = zip(*places, strict=True)
        seals = changes.seal(head, records)
        changes.insert_rows("deid_log_chain", ("seq", "seal"), list(zip(seqs, seals, strict=True)))
        head, after = seals[-1], seqs[-1]


def _commit_terms(changes: Changes) -> None:
    """Cover what was asked and why by a digest that needs no key, where it was not erased."""
    after = 0
    while places := changes.read_records(after):
        for seq, record in places:
            after = seq
            if isinstance(record, AccessRow) and record.salt:
                changes.rewrite_access(seq, commit_terms(record))


STEPS: dict[str, Callable[[Changes], None]] = {
    "2: seals in a table of their own": _move_seals,
    "2: rows_digest": _rename_digest,
    "2: words in ASCII": _fold_words,
    "3: ids of upload events, projects of tombstones": _add_ids_and_projects,
    "3: commitments without a key": _commit_terms,
    "3: one chain over all records": _chain_records,
}
"""The steps by their names, which begin with the version that they lead to, in their order."""
