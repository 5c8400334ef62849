"""Prints the SQL script of the roles for PostgreSQL: ``python -m deid_hooks_sql.roles``."""

from __future__ import annotations

from importlib.resources import files

from deid_hooks.backends import LATER_FIELDS
from deid_hooks_sql.schema import DIGESTED


def make_script() -> str:
    """Return the script for the columns that this version writes."""
    template = (files("deid_hooks_sql") / "roles.sql").read_text(encoding="utf-8")
    cells = ", ".join(f'log."{column.lower()}"' for column in DIGESTED)
    later = "".join(
        f" || CASE WHEN log.{column} IS NULL THEN ''"
        f" ELSE deid_log_piece('{column}') || deid_log_piece(log.{column}) END"
        for column in LATER_FIELDS
    )
    return template.format(cells=cells, later=later)


if __name__ == "__main__":
    print(make_script(), end="")
