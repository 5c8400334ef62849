"""MySQL 8 and MariaDB 10.6 and later, through PyMySQL."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pymysql

from deid_hooks.backends import Deadline, LogUnavailable
from deid_hooks.backends.tables.columns import KEYWORD_LIMIT, SHORT_LIMIT, Column, ColumnType, Table
from deid_hooks_sql.database import (
    Database,
    Failed,
    Failure,
    Kind,
    Rows,
    Statement,
    is_local,
)
from deid_hooks_sql.schema import define_columns, list_indexes, quote_names

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

_TYPES = {
    ColumnType.TEXT: "LONGTEXT",
    ColumnType.SHORT: f"VARCHAR({SHORT_LIMIT})",
    ColumnType.KEYWORD: f"VARCHAR({KEYWORD_LIMIT})",
    ColumnType.NUMBER: "BIGINT",
    ColumnType.FLAG: "SMALLINT",
    ColumnType.BYTES: "LONGBLOB",
}
_MODES = "ANSI_QUOTES,STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION"
_CHARACTERS_AT_ONCE = 500_000  # the least that a server takes in a packet is 1 MiB


class MySQL(Database):
    """A server as ``mysql://user:password@host:port/database`` names it.

    Beyond this machine it is reached over verified TLS, unless the URL says ``insecure=true``.
    """

    begin_reading = "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY"
    begin_writing = "START TRANSACTION READ WRITE"
    any_of = "IN %s"
    may_read = "1"
    position = "instr"
    select_columns = (
        "SELECT table_name, column_name FROM information_schema.columns"
        " WHERE table_schema = DATABASE() AND left(table_name, 5) = 'deid_'"
    )

    def __init__(self, url: str) -> None:
        """Raise LogUnavailable for a URL that names no database, or has an unknown option."""
        try:
            found = urlsplit(url)
            self._port = found.port or 3306
            self._database = unquote(found.path.removeprefix("/"))
            if not self._database:
                raise ValueError
        except ValueError:
            raise LogUnavailable(
                "the URL of the log is not one of a MySQL database",
                "write mysql://USER:PASSWORD@HOST/DATABASE, with %40 for an @ in a password",
            ) from None
        self._user, self._password = unquote(found.username or ""), unquote(found.password or "")
        self._hosts = (found.hostname or "localhost").split(",")
        self._query = dict(parse_qsl(found.query, keep_blank_values=True))
        for name in self._query:
            if name not in _OPTIONS:
                raise LogUnavailable(
                    "the URL of the log has an unknown option",
                    f"known are {', '.join(_OPTIONS)}",
                )
        self._file = self._query.get("unix_socket")
        self._is_local = self._file is not None or all(map(is_local, self._hosts))
        self._most = 1 << 30
        self._table_options = ""
        self.where = f"the log {self._database} on {found.hostname or 'this machine'}"

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
            ssl=self._make_context(),
        )
        reached, connection.host = self._reach(deadline)
        watch(reached.fileno())
        connection.connect(sock=reached)
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _make_context(self) -> ssl.SSLContext | None:
        """Return how the server is verified; None where it need not be, and TLS is only tried."""
        if self._query.get("insecure") == "true":
            return None
        if self._is_local and "ssl_ca" not in self._query:
            return None
        try:
            context = ssl.create_default_context(cafile=self._query.get("ssl_ca"))
            if "ssl_cert" in self._query:
                context.load_cert_chain(
                    self._query["ssl_cert"],
                    self._query.get("ssl_key"),
                    self._query.get("ssl_key_password"),
                )
        except OSError:  # of ssl, too
            raise Failed(Failure(Kind.ENCRYPTION)) from None
        return context

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

    @contextmanager
    def changing(self, connection: Any) -> Iterator[None]:
        name = "CONCAT('deid_log_', MD5(DATABASE()))"  # one name for all databases of a server
        seconds = _execute(connection, "SELECT @@lock_wait_timeout")[0][0]
        if _execute(connection, f"SELECT GET_LOCK({name}, {seconds})") != [(1,)]:
            raise LogUnavailable(f"somebody else changes the tables of {self.where}", "try again")
        try:
            connection.autocommit(False)  # a commit of each row would wait for the disk
            yield
            connection.commit()
        finally:
            with suppress(pymysql.err.MySQLError, OSError):
                connection.rollback()
                connection.autocommit(True)
                _execute(connection, f"SELECT RELEASE_LOCK({name})")

    def create_table(self, table: Table) -> list[str]:
        # With its indexes at once: apart, each would make the table anew.
        kinds = {True: "UNIQUE KEY", False: "KEY"}
        keys = [
            f'{kinds[unique]} "{name}" ({quote_names(columns)})'
            for name, unique, columns in list_indexes(table)
        ]
        lines = ", ".join([*define_columns(table, _TYPES), *keys])
        return [f"CREATE TABLE IF NOT EXISTS {table.name} ({lines}) {self._table_options}"]

    def add_column(self, table: str, column: Column) -> list[str]:
        return [f'ALTER TABLE {table} ADD COLUMN "{column.name}" {_TYPES[column.type]}']

    def scrub(self, connection: Any, names: Sequence[str]) -> str:
        for name in names:
            if not any(row[3] == "OK" for row in _execute(connection, f"OPTIMIZE TABLE {name}")):
                return f"the server did not make the table {name} anew"
        return ""

    def failure(self, error: BaseException) -> Failure:
        if isinstance(getattr(error, "original_exception", error), ssl.SSLError):
            return Failure(Kind.ENCRYPTION)
        number = error.args[0] if isinstance(error, pymysql.err.MySQLError) and error.args else None
        if kind := _KIND_OF.get(number) if isinstance(number, int) else None:
            return Failure(kind)
        if isinstance(error, pymysql.err.InterfaceError):
            return Failure(Kind.LOST)
        if isinstance(error, OSError):
            return Failure(Kind.UNREACHABLE)
        return Failure(Kind.OTHER, str(number or type(error).__name__))

    def _reach(self, deadline: Deadline) -> tuple[socket.socket, str]:
        """Return a socket to the first of the hosts that takes it, and which one that is."""
        if self._file is not None:
            made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            made.settimeout(deadline.left() or 1)
            made.connect(self._file)
            return made, "localhost"
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
            return made, host
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
        # Texts compare by code points, and with the spaces at their end.
        collation = "utf8mb4_nopad_bin" if _is_mariadb(connection) else "utf8mb4_0900_bin"
        self._table_options = (
            f"ENGINE=InnoDB CHARACTER SET utf8mb4 COLLATE {collation} ROW_FORMAT=DYNAMIC"
        )


_OPTIONS = ("ssl_ca", "ssl_cert", "ssl_key", "ssl_key_password", "unix_socket", "insecure")


def _is_mariadb(connection: Any) -> bool:
    return "MariaDB" in connection.get_server_info()


def _execute(connection: Any, sql: str, values: Sequence[Any] = ()) -> Rows:
    with connection.cursor() as cursor:
        cursor.execute(sql, values or None)
        return list(cursor.fetchall())


@lru_cache
def _insert(table: str, columns: tuple[str, ...], rows: int) -> str:
    names = quote_names(columns)
    row = f"({', '.join(['%s'] * len(columns))})"
    return f"INSERT INTO {table} ({names}) VALUES {', '.join([row] * rows)}"
