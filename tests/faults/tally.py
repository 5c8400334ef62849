"""What the campaign counts: of each fault, how often it was injected and what went wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

UNLOGGED, CUT_SHORT, LOST, LEAKED = "released unlogged", "cut short", "lost", "leaked"
WRONG_MESSAGE = "wrong message"
KINDS = (UNLOGGED, CUT_SHORT, LOST, LEAKED, WRONG_MESSAGE)
COLUMNS = ("fault", "tries", "injected", *KINDS)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that must not be: its kind, one of ``KINDS``, and what it is."""

    kind: str
    what: str


@dataclass(frozen=True, slots=True)
class Try:
    """A run with a fault: its row in the table, whether the fault came, and what was wrong then."""

    fault: str
    injected: int
    problems: tuple[str, ...] = ()
    """The kind of each problem."""


Tally = Callable[[str, int, Iterable[Problem]], None]
"""Counts a try and fails the test if the fault wasn't injected, or anything was wrong."""


def table(tries: Iterable[Try]) -> str:
    """The campaign's table, in Markdown: a row a fault, in alphabetical order."""
    by_fault: dict[str, list[Try]] = {}
    for each in tries:
        by_fault.setdefault(each.fault, []).append(each)
    lines = [_row(COLUMNS), _row(["---"] + ["---:"] * (len(COLUMNS) - 1))]
    for fault, some in sorted(by_fault.items()):
        problems = [kind for each in some for kind in each.problems]
        counts = (len(some), sum(each.injected for each in some), *map(problems.count, KINDS))
        lines.append(_row([fault, *map(str, counts)]))
    return "\n".join(lines)


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
