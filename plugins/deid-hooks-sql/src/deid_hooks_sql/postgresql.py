"""PostgreSQL 13 and later, through psycopg 3."""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from deid_hooks.backends import Deadline, LogUnavailable
from deid_hooks.backends.tables.columns import (
    KEYWORD_LIMIT,
    SHORT_LIMIT,
    TABLES,
    Column,
    ColumnType,
    Table,
)
from deid_hooks_sql.database import (
    Committed,
    Database,
    Failed,
    Failure,
    Kind,
    Rows,
    Statement,
    is_local,
)
from deid_hooks_sql.schema import define_columns, list_indexes, list_types, quote_names

logging.getLogger("psycopg").setLevel(logging.CRITICAL)  # its warnings quote the server

_OLDEST = 130000
_KINDS = {  # by SQLSTATE, or by its class (PostgreSQL documentation, appendix A)
    "28": Kind.PASSWORD,
    "3D000": Kind.NO_DATABASE,
    "42P01": Kind.NO_TABLES,
    "3F000": Kind.NO_TABLES,
    "42501": Kind.FORBIDDEN,
    "25006": Kind.READ_ONLY,
    "53100": Kind.FULL,
    "53": Kind.BUSY,
    "40001": Kind.IN_THE_WAY,
    "40P01": Kind.IN_THE_WAY,
    "57014": Kind.SLOW,
    "25P03": Kind.SLOW,
    "55P03": Kind.SLOW,
    "54": Kind.TOO_BIG,
    "0A000": Kind.UPGRADED,  # a prepared statement has other columns now
    "08": Kind.LOST,
    "57P": Kind.LOST,
}
# A connection that fails has no SQLSTATE, and words in the language of the server. In English:
_REFUSALS = (
    ("password authentication failed", Kind.PASSWORD),
    ("no password supplied", Kind.PASSWORD),
    ("authentication failed", Kind.PASSWORD),
    ("pg_hba.conf", Kind.PASSWORD),
    ('role "', Kind.PASSWORD),
    ('database "', Kind.NO_DATABASE),
    ("session is read-only", Kind.STANDBY),
    ("is in hot standby mode", Kind.STANDBY),
    ("too many", Kind.BUSY),
    ("remaining connection slots", Kind.BUSY),
    ("SSL", Kind.ENCRYPTION),
    ("certificate", Kind.ENCRYPTION),
)

_TYPES = {
    ColumnType.TEXT: 'text COLLATE "C"',
    ColumnType.SHORT: f'varchar({SHORT_LIMIT}) COLLATE "C"',
    ColumnType.KEYWORD: f'varchar({KEYWORD_LIMIT}) COLLATE "C"',
    ColumnType.NUMBER: "bigint",
    ColumnType.FLAG: "smallint",
    ColumnType.BYTES: "bytea",
}
_ARRAYS = {
    ColumnType.NUMBER: "bigint[]",
    ColumnType.FLAG: "smallint[]",
    ColumnType.BYTES: "bytea[]",
}

# What a commit waits for is never less than the server's own disk; a site may want more.
_PREPARE = """
    SELECT set_config('synchronous_commit', CASE current_setting('synchronous_commit')
               WHEN 'off' THEN 'on' WHEN 'local' THEN 'on'
               ELSE current_setting('synchronous_commit') END, false),
           current_setting('fsync'), current_setting('server_version_num')::int,
           pg_is_in_recovery(), current_setting('server_encoding')
"""


_INSECURE = re.compile(r"([?&])insecure=true(&|$)")
_VERIFYING = ("verify-ca", "verify-full")


def _take_out(option: re.Match[str]) -> str:
    """Return what stands between the options beside one that libpq does not know."""
    return option[1] if option[2] else ""


def _has_authorities(parameters: Mapping[str, Any]) -> bool:
    """Return whether libpq finds authorities of its own; it does not ask the system by itself."""
    named = "sslrootcert" in parameters or "PGSSLROOTCERT" in os.environ
    return named or Path("~/.postgresql/root.crt").expanduser().exists()


class PostgreSQL(Database):
    """A server as libpq's URLs name it, several hosts and TLS included.

    Beyond this machine it is reached over verified TLS, unless the URL says ``insecure=true``.
    """

    begin_reading = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
    begin_writing = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
    any_of = "= ANY(%s)"
    may_read = "has_column_privilege('deid_log', 'originals', 'SELECT')"
    position = "strpos"
    select_columns = (
        "SELECT relname, attname FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid"
        " WHERE pg_table_is_visible(pg_class.oid) AND relkind IN ('r', 'p') AND attnum > 0"
        " AND NOT attisdropped AND left(relname, 5) = 'deid_'"
    )

    def __init__(self, url: str) -> None:
        """Raise LogUnavailable for a URL that libpq can't read, or asks for TLS unverified."""
        url, insecure = _INSECURE.subn(_take_out, url)
        try:
            self._parameters: dict[str, Any] = dict(conninfo_to_dict(url))
        except psycopg.Error:
            raise LogUnavailable(
                "the URL of the log is not one of a PostgreSQL database",
                "write postgresql://USER:PASSWORD@HOST/DATABASE, with %40 for an @ in a password",
            ) from None
        hosts = str(self._parameters.get("host", "this machine"))
        if "," in hosts:
            self._parameters.setdefault("target_session_attrs", "read-write")
        self.where = f"the log {self._parameters.get('dbname', '')} on {hosts}".replace("  ", " ")
        self._standby = False
        if not insecure and not self._stays_here():
            self._verify_server()

    def _stays_here(self) -> bool:
        """Return whether libpq connects within this machine, by parameters or variables."""
        if "service" in self._parameters or "PGSERVICE" in os.environ:
            return False
        names = (("hostaddr", "PGHOSTADDR"), ("host", "PGHOST"))
        found = (self._parameters.get(name, os.environ.get(variable)) for name, variable in names)
        return all(map(is_local, str(next(filter(None, found), "")).split(",")))

    def _verify_server(self) -> None:
        """Have libpq verify the server. Raise LogUnavailable if the URL asks for less."""
        if self._parameters.setdefault("sslmode", "verify-full") not in _VERIFYING:
            raise LogUnavailable(
                "the URL of the log asks for TLS that does not verify the server",
                "write sslmode=verify-full&sslrootcert=FILE; insecure=true insists on less",
            )
        if not _has_authorities(self._parameters):
            self._parameters["sslrootcert"] = "system"

    def connect(self, deadline: Deadline, watch: Callable[[int], None]) -> Any:
        hosts = str(self._parameters.get("host", "")).count(",") + 1
        seconds = max(2, math.ceil(deadline.left() / hosts))  # libpq's own least
        dead = str(int(deadline.seconds * 1000))
        settings: dict[str, Any] = {
            "connect_timeout": seconds,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": dead,
            "application_name": "deid-hooks",
            "client_encoding": "UTF8",
        }
        try:
            connection = psycopg.connect(**{**settings, **self._parameters}, autocommit=True)
        except psycopg.Error as error:
            raise Failed(_find_refusal(str(error))) from None
        try:
            watch(connection.fileno())
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def bound(self, connection: Any, seconds: float) -> None:
        time = f"'{int(seconds * 1000)}ms'"
        connection.execute(
            f"SET statement_timeout = {time}; SET idle_in_transaction_session_timeout = {time}"
        )

    def fetch(self, connection: Any, statements: Sequence[Statement]) -> list[Rows]:
        # What psycopg sends after a pipeline stops the server's clock for transactions that idle:
        # one that goes on ends with a statement apart.
        together = len(statements) - (statements[-1][0] != "COMMIT")
        with connection.pipeline() if together > 1 else nullcontext():
            cursors = [connection.execute(*each) for each in statements[:together]]
        cursors += [connection.execute(*each) for each in statements[together:]]
        return [cursor.fetchall() if cursor.description else [] for cursor in cursors]

    def inserts(
        self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]
    ) -> list[Statement]:
        if not rows:
            return []
        return [(_insert(table, tuple(columns)), [list(c) for c in zip(*rows, strict=True)])]

    def join_inserts(self, statements: Sequence[Statement]) -> Sequence[Statement]:
        if len(statements) < 2:
            return statements
        sqls, values = zip(*statements, strict=True)
        return [(_join_inserts(sqls), [value for each in values for value in each])]

    def commit(self, connection: Any) -> None:
        # A commit that gave up waiting for its standby is acknowledged, with a warning.
        warnings: list[Any] = []
        connection.add_notice_handler(warnings.append)
        try:
            done = connection.execute("COMMIT", prepare=False).statusmessage
        finally:
            connection.remove_notice_handler(warnings.append)
        if done != "COMMIT" or warnings:
            raise Committed

    @contextmanager
    def changing(self, connection: Any) -> Iterator[None]:
        if connection.info.parameter_status("server_encoding") != "UTF8":
            raise LogUnavailable(
                f"the database of {self.where} is not one of UTF-8",
                "have one created with ENCODING 'UTF8'",
            )
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(7296435081)")
            yield

    def create_table(self, table: Table) -> list[str]:
        lines = ", ".join(define_columns(table, _TYPES, str.lower))
        statements = [f"CREATE TABLE IF NOT EXISTS {table.name} ({lines})"]
        for name, unique, columns in list_indexes(table, str.lower):
            kind = "UNIQUE INDEX" if unique else "INDEX"
            statements.append(
                f'CREATE {kind} IF NOT EXISTS "{name}" ON {table.name} ({quote_names(columns)})'
            )
        if table.identifying:
            statements += [_keep_no_samples(table.name, name) for name in table.server_names]
        return statements

    def add_column(self, table: str, column: Column) -> list[str]:
        add = f'ALTER TABLE {table} ADD "{column.name.lower()}" {_TYPES[column.type]}'
        hide = [_keep_no_samples(table, column.name)] if TABLES[table].identifying else []
        return [add, *hide]

    def scrub(self, connection: Any, names: Sequence[str]) -> str:
        left: list[int] = []

        def note(notice: Any) -> None:
            # "N dead row versions cannot be removed yet": others still see what was erased.
            found = re.search(r"\d+", notice.message_detail or "")
            left.extend([int(found[0])] if found else [])

        connection.add_notice_handler(note)
        try:
            for name in names:
                connection.execute(f"VACUUM (FULL, VERBOSE) {name}")
        finally:
            connection.remove_notice_handler(note)
        if len(left) < len(names):
            return "the server does not say whether it removed them"
        return "somebody reads in a transaction that began before" if any(left) else ""

    def failure(self, error: BaseException) -> Failure:
        code = getattr(error, "sqlstate", None) or ""
        if code in ("25006", "0A000") and self._standby:
            return Failure(Kind.STANDBY)
        for length in (5, 3, 2):
            if kind := _KINDS.get(code[:length]):
                return Failure(kind)
        if isinstance(error, psycopg.OperationalError) and not code:
            return Failure(Kind.LOST)
        return Failure(Kind.OTHER, code or type(error).__name__)

    def _prepare(self, connection: Any) -> None:
        _, fsync, version, self._standby, _ = connection.execute(_PREPARE).fetchone()
        if version < _OLDEST:
            raise LogUnavailable(f"the server of {self.where} is older than PostgreSQL 13")
        if fsync != "on":
            raise LogUnavailable(
                f"the server of {self.where} does not write what it commits to its disk",
                "set fsync = on",
            )


def _keep_no_samples(table: str, column: str) -> str:
    # Statistics are samples of values, and an erasure would not reach them.
    return f'ALTER TABLE {table} ALTER "{column.lower()}" SET STATISTICS 0'


def _find_refusal(text: str) -> Failure:
    """Return why nothing was connected."""
    return Failure(next((kind for words, kind in _REFUSALS if words in text), Kind.UNREACHABLE))


@lru_cache
def _join_inserts(sqls: tuple[str, ...]) -> str:
    """Return one statement that inserts into several tables: it is sent, and answered, once."""
    *first, last = sqls
    parts = ", ".join(f"t{number} AS ({sql})" for number, sql in enumerate(first))
    return f"WITH {parts} {last}"


@lru_cache
def _insert(table: str, columns: tuple[str, ...]) -> str:
    """Return one statement for any number of rows, which the server prepares after some time."""
    kinds = list_types(TABLES[table])
    arrays = ", ".join(
        f"%s::{_ARRAYS.get(kinds.get(column, ColumnType.TEXT), 'text[]')}" for column in columns
    )
    names = quote_names(map(str.lower, columns))
    return f"INSERT INTO {table} ({names}) SELECT * FROM unnest({arrays})"
