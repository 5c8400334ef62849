"""The default store: one SQLite file, that administrators can read with the ``sqlite3`` shell."""

from deid_hooks.backends.sqlite.backend import SQLiteBackend

__all__ = ["SQLiteBackend"]
