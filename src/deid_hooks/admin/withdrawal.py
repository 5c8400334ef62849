"""Withdrawn consent: block a patient, note what was deleted elsewhere, and erase entries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from deid_hooks.access import PAGE, AccessRecorder, identify_user
from deid_hooks.admin.search import Selection, identify_person
from deid_hooks.backends.contract import group_copies
from deid_hooks.batches import split_batches
from deid_hooks.errors import TermError
from deid_hooks.log import Log
from deid_hooks.query.conditions import Between, Query
from deid_hooks.records.keys import is_patient, list_identities, normalise_identity
from deid_hooks.records.model import Entry, Erasure, UploadEvent, read_clock


@dataclass(frozen=True, slots=True)
class Noted:
    """What ``note_withdrawn`` found: copies noted now, noted before, and where others are."""

    now: int
    before: int
    elsewhere: tuple[str, ...]


def find_patient(log: Log, log_ids: Iterable[str]) -> tuple[str, str]:
    """Return PatientID and issuer of the one patient whom all these entries are about.

    Raises TermError if there are several, or if no entry has a PatientID that can be read.
    """
    found: set[tuple[str, str]] = set()
    for entry in log.entries(log_ids):
        identities = list_identities(entry)
        found.update(identities)
        if len(found) > 1 or len(entry.patients) > 1:
            raise TermError(
                "these entries are about more than one patient: add terms, such as"
                " IssuerOfPatientID=..., or block one after the other"
            )
        if log.remote is None and not is_patient(entry, identities, log.keyring):
            raise TermError(
                f"the PatientID of the entry {entry.log_id} has characters that no text shows, so"
                " that it can't be told whom to block"
            )
    if not found:
        raise TermError(
            "the images that were found have no PatientID, and a block goes by PatientID and issuer"
        )
    return found.pop()


def read_patients(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield patients named by PatientID, a tab, and its issuer if any. They need not be logged."""
    for line in lines:
        number, _, issuer = line.partition("\t")
        yield normalise_identity(number.strip(), issuer.strip())


def block(
    log: Log,
    patients: Iterable[tuple[str, str]],
    project: str,
    reason: str,
    lift: bool = False,
) -> int:
    """Block patients, by (PatientID, issuer), on every machine that shares the log; or lift that.

    Returns how many patients. It is durable then. A block counts under every key, so that it stops
    what was logged before, and by programs that have not seen a rotation.
    """
    several = list(dict.fromkeys(patients))
    log.block(several, project, identify_user(), reason, lift)
    return len(several)


def note_withdrawn(
    log: Log, destination: str, log_ids: Iterable[str], at: str, uploader: str
) -> Noted:
    """Note that the copies of these entries at a destination were deleted there, at that time."""
    noted = before = 0
    elsewhere: dict[str, None] = {}
    for page in split_batches(log_ids, PAGE):
        copies = [copy for those in group_copies(log.uploads(page)).values() for copy in those]
        here = [copy for copy in copies if copy.destination == destination]
        elsewhere.update((copy.destination, None) for copy in copies if copy not in here)
        before += sum(bool(copy.withdrawn) for copy in here)
        events = [
            UploadEvent(copy.log_id, at, "withdrawn", destination, uploader)
            for copy in here
            if not copy.withdrawn
        ]
        if events:
            log.append(events)
        noted += len(events)
    return Noted(noted, before, tuple(elsewhere))


_SECONDS = 6 * 3600.0
"""A large log is rewritten whole, which takes as long as its disk takes."""


@dataclass(slots=True)
class Plan:
    """What would be forgotten. ``copies`` counts by destination what is not noted as withdrawn."""

    log_ids: list[str] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    copies: Counter[str] = field(default_factory=Counter)


def plan(access: AccessRecorder, selection: Selection) -> Plan:
    """Find what is to be forgotten; every id that is found is in the trail before.

    Raises TermError if terms find entries of two patients, unless they are only about when and
    for which project the entries were written: that is retention.
    """
    made = Plan()
    one_person = selection.query is not None and not is_retention(selection.query)
    persons: set[Hashable] = set()
    found = access.record_ids(selection.search(access.log), selection.asked)
    for page in split_batches(found, PAGE):
        for those in group_copies(access.log.uploads(page)).values():
            made.copies.update(copy.destination for copy in those if not copy.withdrawn)
        if selection.query is None:
            _sort_named(made, access.log, page)
            continue
        those_of_page = set(map(_identify, access.log.entries(page)))  # which checks the entries
        persons |= those_of_page if one_person else set()
        if len(persons) > 1:
            raise TermError(
                "these terms find entries of more than one patient, or of patients who can't"
                " be told apart; add terms, or name the log ids"
            )
        made.log_ids += page
    return made


def is_retention(query: Query) -> bool:
    """Return whether the terms are about the time (with an end) and project of entries only."""
    if any(term.side != "entry" or term.name not in ("created", "project") for term in query.terms):
        return False
    conditions = [c for term in query.terms if term.name == "created" for c in term.conditions]
    return bool(conditions) and all(
        isinstance(condition, Between) and condition.high is not None for condition in conditions
    )


def forget(access: AccessRecorder, log_ids: Sequence[str], reason: str) -> None:
    """Erase, and leave tombstones.

    Raises LogUnavailable if nothing was erased, LogError if it isn't finished.
    """
    access.log.erase(log_ids, Erasure(read_clock(), identify_user(), reason), _SECONDS)


def _sort_named(made: Plan, log: Log, log_ids: Sequence[str]) -> None:
    there = {entry.log_id for entry in log.entries(log_ids)}
    for log_id in log_ids:
        if log_id in there:
            made.log_ids.append(log_id)
        elif log.tombstone(log_id):
            made.forgotten.append(log_id)
        else:
            made.unknown.append(log_id)


def _identify(entry: Entry) -> Hashable:
    if len(entry.patients) > 1:
        return entry.log_id  # of several: whoever wants it erased names it
    return identify_person(entry) or ("study", entry.fields.get("StudyInstanceUID"), entry.patients)
