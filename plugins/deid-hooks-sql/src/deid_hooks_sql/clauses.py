"""The default store's translation of a query, as sets of entries and in a server's own words.

Those that an entry must be in are found one by one, each by its index, and then put together:
servers don't use several indexes for alternatives in one condition. What an entry with ``odd``
values matches only the reference can tell, so it is always a candidate.
"""

from __future__ import annotations

import re
from typing import Any

from deid_hooks.backends.sqlite.clauses import Clause
from deid_hooks.records.model import make_readable
from deid_hooks_sql.database import Database

_COLUMN = re.compile(r"\[(\w+)\]")
_PLACES = "seq IN ("


def selection(clause: Clause, database: Database) -> tuple[str, list[Any]]:
    """SQL that gives the places of all entries worth a look, and its values."""
    sql = f"{_set(clause)} UNION SELECT seq FROM deid_log WHERE odd = 1"
    return f"SELECT seq FROM ({_worded(sql, database)}) found", _values(clause)


def condition(clause: Clause, database: Database) -> tuple[str, list[Any]]:
    """The same as a condition on rows of ``deid_log``, for a scan."""
    return _worded(clause.sql, database), _values(clause)


def _set(clause: Clause) -> str:
    """A SELECT of the places that a clause means."""
    if clause.operator == "OR" and clause.indexed:
        return " UNION ".join(map(_set, clause.parts))
    if clause.operator == "AND":
        places = " AND ".join(map(_member, clause.parts))
        return f"SELECT seq FROM deid_log WHERE {places}"
    if clause.sql.startswith(_PLACES):
        return (
            clause.sql.removeprefix(_PLACES).removesuffix(")").replace("entry", "entry AS seq", 1)
        )
    return f"SELECT seq FROM deid_log WHERE {clause.sql}"


def _member(clause: Clause) -> str:
    # A derived table, not a bare UNION, which MySQL would run anew for every row.
    return f"seq IN (SELECT seq FROM ({_set(clause)}) s)" if clause.indexed else clause.sql


def _worded(sql: str, database: Database) -> str:
    found = _COLUMN.sub(r"\1", sql).replace("instr(", f"{database.position}(")
    return found.replace("?", "%s")


def _values(clause: Clause) -> list[Any]:
    # No column holds a text that SQLite would hold as bytes; an odd entry is looked at anyway.
    texts = (v if isinstance(v, str) else v.decode("utf-8", "surrogatepass") for v in clause.values)
    return [make_readable(text) for text in texts]
