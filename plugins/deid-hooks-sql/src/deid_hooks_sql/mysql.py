"""MySQL 8 and MariaDB 10.6 and later, through PyMySQL."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any

import pymysql
from sqlalchemy import Dialect, Index, Table
from sqlalchemy.dialects.mysql.pymysql import dialect
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.schema import CreateIndex, CreateTable

from deid_hooks.deadline import Deadline
from deid_hooks.errors import LogUnavailable
from deid_hooks_sql.database import Database, Rows, Statement
from deid_hooks_sql.failures import Failed, Failure, Kind
from deid_hooks_sql.schema import tables

_KINDS = {  # by error number (MySQL Server Error Message Reference; MariaDB Error Codes)
    Kind.PASSWORD: (1045, 1130, 1251, 1698, 3118, 4151),
    Kind.NO_DATABASE: (1049,),
    Kind.NO_TABLES: (1146,),
    Kind.FORBIDDEN: (1044, 1142, 1143, 1227, 1370),
    Kind.READ_ONLY: (1290, 1792, 1836, 3100),
    Kind.FULL: (3, 1021, 1030, 1114),
    Kind.BUSY: (1040, 1047, 1203, 1226),
    Kind.IN_THE_WAY: (1020, 1205, 1213),
    Kind.SLOW: (1317, 1969, 3024),
    Kind.TOO_BIG: (1118, 1153, 1301, 1406),
    Kind.UNREACHABLE: (2002, 2003, 2005),
    Kind.LOST: (1053, 1077, 1927, 2006, 2013, 2014, 2055, 4031),
    Kind.ENCRYPTION: (2026, 3159),
}
_KIND_OF = {number: kind for kind, numbers in _KINDS.items() for number in numbers}

_MODES = "ANSI_QUOTES,STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION"
_CHARACTERS_AT_ONCE = 500_000  # the least that a server takes in a packet is 1 MiB


class MySQL(Database):
    """A server as ``mysql://user:password@host:port/database`` names it; ``ssl_ca=`` for TLS."""

    dialect: Dialect = dialect()
    begin_reading = "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY"
    begin_writing = "START TRANSACTION READ WRITE"
    any_of = "IN %s"
    may_read = "1"
    position = "instr"

    def __init__(self, url: str) -> None:
        """Raises LogUnavailable for a URL that names no database."""
        try:
            found = make_url(url)
            if not found.database:
                raise ValueError
        except (SQLAlchemyError, ValueError):
            raise LogUnavailable(
                "the URL of the log is not one of a MySQL database",
                "write mysql://USER:PASSWORD@HOST/DATABASE, with %40 for an @ in a password",
            ) from None
        self._database, self._user = found.database, found.username or ""
        self._password = str(found.password or "")
        self._hosts = (found.host or "localhost").split(",")
        self._port = found.port or 3306
        self._options = {
            name: value if name.startswith("ssl_") and name in _PATHS else _truth(str(value))
            for name, value in found.query.items()
            if name in _OPTIONS
        }
        self._file = found.query.get("unix_socket")
        self._most = 1 << 30
        self.where = f"the log {self._database} on {found.host or 'this machine'}"

    def connect(self, deadline: Deadline, watch: Callable[[int], None]) -> Any:
        connection: Any = pymysql.Connection(
            user=self._user,
            password=self._password,
            host=self._hosts[0],
            database=self._database,
            charset="utf8mb4",
            autocommit=True,
            defer_connect=True,
            sql_mode=_MODES,
            **self._options,
        )
        reached = self._reach(deadline)
        watch(reached.fileno())
        connection.connect(sock=reached)
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def bound(self, connection: Any, seconds: float) -> None:
        settings = {"innodb_lock_wait_timeout": seconds, "lock_wait_timeout": seconds}
        if _is_mariadb(connection):
            settings |= {"max_statement_time": seconds, "idle_transaction_timeout": seconds}
        else:
            settings |= {"max_execution_time": seconds * 1000, "wait_timeout": 60}
        _execute(connection, f"SET {', '.join(f'{k} = {int(v)}' for k, v in settings.items())}")

    def fetch(self, connection: Any, statements: Sequence[Statement]) -> list[Rows]:
        return [_execute(connection, sql, values) for sql, values in statements]

    def inserts(
        self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]
    ) -> list[Statement]:
        made: list[Statement] = []
        begin, size = 0, 0
        for number, row in enumerate(rows, 1):
            size += sum(len(cell) if isinstance(cell, str | bytes) else 10 for cell in row)
            if size > self._most:  # the server would hang up on us, which sounds like its end
                raise Failed(Failure(Kind.TOO_BIG))
            if size > _CHARACTERS_AT_ONCE or number == len(rows):
                some = rows[begin:number]
                sql = _insert(table, tuple(columns), len(some))
                made.append((sql, [cell for each in some for cell in each]))
                begin, size = number, 0
        return made

    def commit(self, connection: Any) -> None:
        _execute(connection, "COMMIT")

    def make(self, connection: Any, statements: Sequence[Statement]) -> None:
        collation = "utf8mb4_nopad_bin" if _is_mariadb(connection) else "utf8mb4_0900_bin"
        _execute(connection, "SELECT GET_LOCK('deid_log', 10)")  # two init at once
        try:
            for table in tables(self.dialect, collation).sorted_tables:
                _execute(connection, _creation(table))
            if not _execute(connection, "SELECT id FROM deid_log_store"):
                for sql, values in statements:
                    replaced = sql.replace("CREATE VIEW", "CREATE OR REPLACE VIEW")
                    _execute(connection, replaced, values)
        finally:
            with suppress(pymysql.err.MySQLError, OSError):
                _execute(connection, "SELECT RELEASE_LOCK('deid_log')")

    def scrub(self, connection: Any, names: Sequence[str]) -> str:
        for name in names:
            if not any(row[3] == "OK" for row in _execute(connection, f"OPTIMIZE TABLE {name}")):
                return f"the server did not make the table {name} anew"
        return ""

    def failure(self, error: BaseException) -> Failure:
        number = error.args[0] if isinstance(error, pymysql.err.MySQLError) and error.args else None
        if kind := _KIND_OF.get(number) if isinstance(number, int) else None:
            return Failure(kind)
        if isinstance(error, pymysql.err.InterfaceError):
            return Failure(Kind.LOST)
        if isinstance(error, OSError):
            return Failure(Kind.UNREACHABLE)
        return Failure(Kind.OTHER, str(number or type(error).__name__))

    def _reach(self, deadline: Deadline) -> socket.socket:
        """A socket to the first of the hosts that takes it."""
        if self._file is not None:
            made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            made.settimeout(deadline.left() or 1)
            made.connect(str(self._file))
            return made
        failure = OSError()
        for number, host in enumerate(self._hosts):
            seconds = max(0.1, deadline.left() / (len(self._hosts) - number))
            try:
                made = socket.create_connection((host, self._port), timeout=seconds)
            except OSError as error:
                failure = error
                continue
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                dead = int(deadline.seconds * 1000)
                made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, dead)
            return made
        raise failure

    def _prepare(self, connection: Any) -> None:
        _execute(connection, "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        asked = "SELECT @@innodb_flush_log_at_trx_commit, @@max_allowed_packet"
        [[flushes, self._most]] = _execute(connection, asked)
        if flushes not in (1, 3):
            raise LogUnavailable(
                f"the server of {self.where} does not write what it commits to its disk",
                "set innodb_flush_log_at_trx_commit = 1",
            )


_PATHS = ("ssl_ca", "ssl_cert", "ssl_key", "ssl_key_password")
_OPTIONS = (*_PATHS, "ssl_verify_cert", "ssl_verify_identity", "ssl_disabled")

_quoting: Dialect = dialect()
_quoting.identifier_preparer.initial_quote = _quoting.identifier_preparer.final_quote = '"'


def _creation(table: Table) -> str:
    """SQL that makes a table together with its indexes: apart, each would make it anew."""
    sql = str(CreateTable(table, if_not_exists=True).compile(dialect=_quoting))
    made = [str(CreateIndex(index).compile(dialect=_quoting)) for index in _indexes_of(table)]
    keys = [text.removeprefix("CREATE ").replace(f" ON {table.name}", "") for text in made]
    columns, close, options = sql.rpartition("\n)")
    return ", ".join([columns, *keys]) + close + options


def _indexes_of(table: Table) -> list[Index]:
    return sorted(table.indexes, key=lambda index: str(index.name))


def _truth(text: str) -> bool:
    return text.lower() not in ("0", "false", "no", "off", "")


def _is_mariadb(connection: Any) -> bool:
    return "MariaDB" in connection.get_server_info()


def _execute(connection: Any, sql: str, values: Sequence[Any] = ()) -> Rows:
    with connection.cursor() as cursor:
        cursor.execute(sql, values or None)
        return list(cursor.fetchall())


@lru_cache
def _insert(table: str, columns: tuple[str, ...], rows: int) -> str:
    names = ", ".join(f'"{column}"' for column in columns)
    row = f"({', '.join(['%s'] * len(columns))})"
    return f"INSERT INTO {table} ({names}) VALUES {', '.join([row] * rows)}"
