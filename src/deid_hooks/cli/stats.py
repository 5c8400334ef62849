"""The log in one screen: ``stats``."""

from __future__ import annotations

from collections import Counter
from typing import Any

import typer

from deid_hooks.cli.context import hooks_of
from deid_hooks.cli.output import Format, FormatOption, chosen, write_rows

_STATES = ["uploaded", "partial", "failed", "pending", "withdrawn"]


def stats(context: typer.Context, form: FormatOption = None) -> None:
    """Show the log in numbers: entries, patients, looks, and what is at each destination.

    \b
    deid-hooks stats
    """
    from deid_hooks.administrator.statistics import statistics

    with hooks_of(context) as hooks:
        found = statistics(hooks.recorder)
    numbers: list[dict[str, Any]] = [
        *({"what": name, "count": count} for name, count in found.counts.items()),
        {"what": "first entry", "count": found.first[:10]},
        {"what": "last entry", "count": found.last[:10]},
    ]
    destinations: dict[str, Counter[str]] = {}
    for destination, event, count in found.copies:
        state = "pending" if event == "cleared" else event
        destinations.setdefault(destination, Counter())[state] += count
    if chosen(form) is not Format.TABLE:
        for destination, states in destinations.items():
            numbers += [
                {"what": f"{state} at {destination}", "count": count}
                for state, count in states.items()
            ]
        write_rows(numbers, ["what", "count"], form, "what")
        return
    for row in numbers:
        print(f"{row['what']:<12} {row['count']}")
    if destinations:
        print()
        rows = [{"destination": name, **states} for name, states in sorted(destinations.items())]
        used = [state for state in _STATES if any(state in row for row in rows)]
        write_rows(rows, ["destination", *used], form, "destination")
