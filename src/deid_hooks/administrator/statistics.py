"""The log in numbers: nothing in them says who anybody is."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from deid_hooks.entry import AccessRow, Block, Entry, Tombstone, UploadEvent
from deid_hooks.recorder import Recorder


@dataclass(slots=True)
class Statistics:
    """``counts`` by name, ``copies`` by destination and latest event, first and last entry."""

    counts: dict[str, int] = field(default_factory=dict)
    copies: list[tuple[str, str, int]] = field(default_factory=list)
    first: str = ""
    last: str = ""


def statistics(recorder: Recorder) -> Statistics:
    """Count. A store that can count does; of any other everything is read."""
    ask = getattr(recorder.backend, "statistics", None)
    if ask is not None:
        return Statistics(*ask())
    return _counted(recorder)


def _counted(recorder: Recorder) -> Statistics:
    made = Statistics()
    numbers: Counter[str] = Counter(
        dict.fromkeys(("entries", "instances", "patients", "projects"), 0)
    )
    erased = {r.log_id for r in recorder.records() if isinstance(r, Tombstone)}
    patients, projects = set(), set()
    latest: dict[tuple[str, str], str] = {}
    blocks: dict[tuple[str, str], bool] = {}
    for record in recorder.records():
        if isinstance(record, Entry) and record.log_id not in erased:
            numbers["entries"] += 1
            numbers["instances"] += len(record.instances)
            patients.add(record.patients)
            projects.add(record.project)
            made.first, made.last = made.first or record.created, record.created
        elif isinstance(record, UploadEvent):
            latest[record.log_id, record.destination] = record.event
        elif isinstance(record, Block):
            blocks[record.patient, record.project] = not record.lifted
        elif isinstance(record, AccessRow):
            numbers["looks"] += 1
    numbers["patients"], numbers["projects"] = len(patients - {()}), len(projects)
    numbers["forgotten"], numbers["blocked"] = len(erased), sum(blocks.values())
    made.counts = {**numbers, "looks": numbers["looks"]}
    copies = Counter((destination, event) for (_, destination), event in latest.items())
    made.copies = sorted((*key, count) for key, count in copies.items())
    return made
