"""Forgetting: whom it is about, what is still out there, and the erasure itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice

from deid_hooks.administrator.copies import copies_of
from deid_hooks.administrator.identity import person_of
from deid_hooks.administrator.looking import PAGE, Looker, user
from deid_hooks.administrator.selection import Selection
from deid_hooks.entry import Entry, Erasure, now
from deid_hooks.errors import TermError
from deid_hooks.matching import Between, Query

_SECONDS = 6 * 3600.0
"""A large log is rewritten whole, which takes as long as its disk takes."""


@dataclass(slots=True)
class Plan:
    """What would be forgotten. ``copies`` counts by destination what is not noted as withdrawn."""

    log_ids: list[str] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    copies: Counter[str] = field(default_factory=Counter)


def plan(looker: Looker, selection: Selection) -> Plan:
    """Look for what is to be forgotten; every id that is found is in the trail before.

    Raises TermError if terms find entries of two patients, unless they are only about when and
    for which project the entries were written: that is retention.
    """
    made = Plan()
    one_person = selection.query is not None and not is_retention(selection.query)
    persons: set[Hashable] = set()
    found = looker.recorded(
        selection.search(looker.recorder), selection.asked, lambda log_id: [log_id]
    )
    while page := list(islice(found, PAGE)):
        for those in copies_of(looker.recorder.uploads(page)).values():
            made.copies.update(copy.destination for copy in those if not copy.withdrawn)
        if selection.query is None:
            _sort_named(made, looker, page)
            continue
        if one_person:
            persons.update(map(_person, looker.recorder.entries(page)))
            if len(persons) > 1:
                raise TermError(
                    "these terms find entries of more than one patient, or of patients who can't"
                    " be told apart; add terms, or name the log ids"
                )
        made.log_ids += page
    return made


def is_retention(query: Query) -> bool:
    """Whether the terms say only until when entries were written, and perhaps for which project."""
    if any(term.side != "entry" or term.name not in ("created", "project") for term in query.terms):
        return False
    conditions = [c for term in query.terms if term.name == "created" for c in term.conditions]
    return bool(conditions) and all(
        isinstance(condition, Between) and condition.high is not None for condition in conditions
    )


def forget(looker: Looker, log_ids: Sequence[str], reason: str) -> None:
    """Erase, and leave tombstones.

    Raises LogUnavailable if nothing was erased, LogError if it isn't finished.
    """
    looker.recorder.erase(log_ids, Erasure(now(), user(), reason), _SECONDS)


def _sort_named(made: Plan, looker: Looker, log_ids: Iterable[str]) -> None:
    ids = list(log_ids)
    there = {entry.log_id for entry in looker.recorder.entries(ids)}
    for log_id in ids:
        if log_id in there:
            made.log_ids.append(log_id)
        elif looker.recorder.tombstone(log_id):
            made.forgotten.append(log_id)
        else:
            made.unknown.append(log_id)


def _person(entry: Entry) -> Hashable:
    if len(entry.patients) > 1:
        return entry.log_id  # of several: whoever wants it erased names it
    return person_of(entry) or ("study", entry.fields.get("StudyInstanceUID"), entry.patients)
