"""The de-id log in PostgreSQL, MySQL or MariaDB: the tables of the default store, on a server."""

from deid_hooks_sql.store import MySQLBackend, PostgreSQLBackend, SQLBackend

__all__ = ["MySQLBackend", "PostgreSQLBackend", "SQLBackend"]
