"""The default store: one SQLite file, that administrators can read with the ``sqlite3`` shell."""

from deid_hooks.sqlite.store import SQLiteBackend

__all__ = ["SQLiteBackend"]
