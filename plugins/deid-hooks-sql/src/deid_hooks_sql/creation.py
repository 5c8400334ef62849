"""Making a log in a database, and recognising one."""

from __future__ import annotations

import secrets

from deid_hooks_sql.failures import Failure, Kind, unavailable
from deid_hooks_sql.links import Link
from deid_hooks_sql.schema import VERSION, refuse_other, views


def create(link: Link) -> None:
    """Make the tables where there are none; leave a log that is there as it is."""
    statements = [(sql, ()) for sql in views()]
    begun = (secrets.token_hex(16), VERSION)
    insert = "INSERT INTO deid_log_store (id, version, last) VALUES (%s, %s, 0)"
    link.database.make(link.connection, [*statements, (insert, begun)])
    store_of(link)


def store_of(link: Link) -> str:
    """The random id of the log. Raises LogUnavailable if it is half made, or a newer one."""
    rows = link.rows(f"SELECT id, version, {link.database.may_read} FROM deid_log_store")
    if not rows:
        raise unavailable(Failure(Kind.NO_TABLES), link.database.where)
    [(store, version, may_read)] = rows
    link.may_read = bool(may_read)
    refuse_other(version, link.database.where)
    return str(store)
