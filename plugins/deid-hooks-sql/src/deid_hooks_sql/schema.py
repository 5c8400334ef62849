"""Making the tables of the log on a database server, and recognising them.

Numbers that give the order come from ``deid_log_store``, whose one row every writer locks until it
has committed: so the order of the numbers is that of the commits, and no reader's cursor passes a
record that becomes visible later.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping

from deid_hooks.backends import LogUnavailable
from deid_hooks.backends.tables.columns import (
    TABLES,
    ColumnType,
    Table,
    find_fault,
    view_statements,
)
from deid_hooks.backends.tables.migrations import STEPS, VERSION, record_step, refuse_newer
from deid_hooks_sql.database import Failure, Kind, make_unavailable
from deid_hooks_sql.links import Link


def create(link: Link) -> None:
    """Make the tables where there are none; leave a log that is there as it is."""
    if not _is_made(link):
        with link.database.changing(link.connection):
            _make_tables(link)
    identify(link)


def identify(link: Link) -> str:
    """Return the random id of the log. Raise LogUnavailable if it is half made, or newer."""
    rows = link.rows(f"SELECT id, version, {link.database.may_read} FROM deid_log_store")
    if not rows:
        raise make_unavailable(Failure(Kind.NO_TABLES), link.database.where)
    [(store, link.version, may_read)] = rows
    link.may_read = bool(may_read)
    refuse_newer(link.version, link.database.where)
    return str(store)


def refuse_changed(link: Link) -> None:
    """Raise LogUnavailable if the tables have other columns than this program writes."""
    if fault := find_fault(find_columns(link), server=True):
        raise LogUnavailable(f"in {link.database.where} {fault}", "report this")


def find_columns(link: Link) -> dict[str, set[str]]:
    """Return the names of the columns of each table that is there, all in lower case."""
    found: dict[str, set[str]] = {}
    for table, column in link.rows(link.database.select_columns):
        found.setdefault(str(table).lower(), set()).add(str(column).lower())
    return found


def list_types(table: Table) -> dict[str, ColumnType]:
    """Return what each column of a table holds, the keys first."""
    kinds = {column.name: column.type for column in table.columns}
    return {name: kinds.get(name, ColumnType.NUMBER) for name in table.server_names}


def define_columns(
    table: Table, names: Mapping[ColumnType, str], fold: Callable[[str], str] = str
) -> Iterator[str]:
    """Yield the lines of CREATE TABLE that define the columns and the primary key."""
    keys = table.server_names[: len(table.server_names) - len(table.columns)]
    for name, kind in list_types(table).items():
        yield f'"{fold(name)}" {names[kind]}{" NOT NULL" if name in keys else ""}'
    if keys:
        yield f"PRIMARY KEY ({quote_names(keys)})"


def list_indexes(
    table: Table, fold: Callable[[str], str] = str
) -> Iterator[tuple[str, bool, list[str]]]:
    """Yield name, whether it is unique, and columns of each index of a table."""
    for columns in (*table.indexes, *([(table.unique,)] if table.unique else [])):
        # Without the entry, with which the primary key begins: that is in every index of InnoDB.
        names = [fold(name) for name in columns if name != "entry"]
        label = "_".join(["ix", table.name.removeprefix("deid_"), *names])
        yield label, columns == (table.unique,), names


def quote_names(names: Iterable[str]) -> str:
    """Return a list of columns as SQL has it."""
    return ", ".join(f'"{name}"' for name in names)


def _is_made(link: Link) -> bool:
    # The row of the store makes a log of the tables: what is half made is made again.
    return "deid_log_store" in find_columns(link) and bool(
        link.rows("SELECT id FROM deid_log_store")
    )


def _make_tables(link: Link) -> None:
    for table in TABLES.values():
        for statement in link.database.create_table(table):
            link.rows(statement)
    if link.rows("SELECT id FROM deid_log_store"):  # another was faster
        return
    for statement in view_statements("CREATE OR REPLACE VIEW"):
        link.rows(statement)
    for name in STEPS:
        record_step(link.rows, "%s", name)
    begin = "INSERT INTO deid_log_store (id, version, last) VALUES (%s, %s, 0)"
    link.rows(begin, secrets.token_hex(16), VERSION)
