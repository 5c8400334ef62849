"""Outcomes: what became of an entry's images at each destination, by its upload events."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from deid_hooks.records.model import UploadEvent


@dataclass(frozen=True, slots=True)
class Copy:
    """What is known of one acquisition at one destination.

    ``outcome`` is ``pending``, ``uploaded``, ``partial`` or ``failed``; ``at`` and ``uploader`` are
    those of the event that said so; ``withdrawn`` when it was deleted there, as somebody noted, or
    ``""``.
    """

    log_id: str
    destination: str
    outcome: str
    at: str
    withdrawn: str = ""
    uploader: str = ""

    @property
    def state(self) -> str:
        """The outcome, or ``withdrawn`` for what was deleted there and not sent again since."""
        return "withdrawn" if self.withdrawn else self.outcome


def find_copies(events: Iterable[UploadEvent]) -> list[Copy]:
    """Return the copy of each entry at each destination, in the order of their latest events.

    ``events`` are in the order of the log. What was sent again after it was withdrawn is there
    again.
    """
    found: dict[tuple[str, str], Copy] = {}
    for event in events:
        key = event.log_id, event.destination
        before = found.pop(key, Copy(*key, "", ""))
        if event.event == "withdrawn":
            found[key] = replace(before, withdrawn=event.at)
        else:
            outcome = "pending" if event.event == "cleared" else event.event
            found[key] = Copy(*key, outcome, event.at, uploader=event.uploader)
    return list(found.values())


def group_copies(events: Iterable[UploadEvent]) -> dict[str, list[Copy]]:
    """Return the copies of each entry, by log id."""
    found: dict[str, list[Copy]] = {}
    for copy in find_copies(events):
        found.setdefault(copy.log_id, []).append(copy)
    return found
