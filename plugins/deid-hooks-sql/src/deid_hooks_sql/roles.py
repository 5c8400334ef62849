"""Prints the SQL script of the roles for PostgreSQL: ``python -m deid_hooks_sql.roles``."""

from __future__ import annotations

from importlib.resources import files


def script() -> str:
    """The script."""
    return (files("deid_hooks_sql") / "roles.sql").read_text(encoding="utf-8")


if __name__ == "__main__":
    print(script(), end="")
