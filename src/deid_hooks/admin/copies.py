"""What is out there: the copies of an entry's images at each destination, by its upload events."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from deid_hooks.records.model import UploadEvent


@dataclass(frozen=True, slots=True)
class Copy:
    """What is known of one acquisition at one destination.

    ``outcome`` is ``pending``, ``uploaded``, ``partial`` or ``failed``; ``at`` when that was
    noted; ``withdrawn`` when it was deleted there, as somebody noted, or ``""``.
    """

    log_id: str
    destination: str
    outcome: str
    at: str
    withdrawn: str = ""


def group_copies(events: Iterable[UploadEvent]) -> dict[str, list[Copy]]:
    """The copies of each log id. What was sent again after it was withdrawn is there again."""
    known: dict[tuple[str, str], Copy] = {}
    for event in events:
        key = event.log_id, event.destination
        if event.event != "withdrawn":
            outcome = "pending" if event.event == "cleared" else event.event
            known[key] = Copy(*key, outcome, event.at)
        elif key in known:
            known[key] = replace(known[key], withdrawn=event.at)
        else:
            known[key] = Copy(*key, "", "", event.at)
    found: dict[str, list[Copy]] = {}
    for copy in known.values():
        found.setdefault(copy.log_id, []).append(copy)
    return found
