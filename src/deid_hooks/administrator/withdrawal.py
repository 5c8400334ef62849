"""Consent is withdrawn: nothing more leaves, and what was deleted elsewhere is noted."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from deid_hooks.administrator.copies import Copy, copies_of
from deid_hooks.administrator.looking import PAGE, user
from deid_hooks.entry import Block, UploadEvent, now
from deid_hooks.errors import TermError
from deid_hooks.patient import patient_digest
from deid_hooks.recorder import Recorder
from deid_hooks.secret import SiteSecret


@dataclass(frozen=True, slots=True)
class Noted:
    """What ``note_withdrawn`` found: copies noted now, noted before, and where others are."""

    now: int
    before: int
    elsewhere: tuple[str, ...]


def patient_of_entries(recorder: Recorder, log_ids: Iterable[str]) -> str:
    """The keyed digest of the one patient whom all these entries are about.

    Raises TermError if there are several, or if no entry has a PatientID.
    """
    found: set[str] = set()
    for entry in recorder.entries(log_ids):
        found.update(entry.patients)
        if len(found) > 1:
            raise TermError(
                "these entries are about more than one patient: add terms, such as"
                " IssuerOfPatientID=..., or block one after the other"
            )
    if not found:
        raise TermError(
            "the images that were found have no PatientID, and a block goes by PatientID and issuer"
        )
    return found.pop()


def patients_named(lines: Iterable[str], secret: SiteSecret) -> Iterator[str]:
    """Keyed digests of patients that are named by PatientID, a tab, and its issuer if it has one.

    They need not be in the log.
    """
    for line in lines:
        number, _, issuer = line.partition("\t")
        yield patient_digest(number.strip(), issuer.strip(), secret)


def block(
    recorder: Recorder, patients: Iterable[str], project: str, reason: str, lift: bool = False
) -> int:
    """From now on nothing of these patients leaves, on no machine that shares the log; or again.

    Returns how many patients. Durable when it returns.
    """
    blocks = [
        Block(uuid.uuid4().hex, now(), patient, project, user(), reason, lift)
        for patient in dict.fromkeys(patients)
    ]
    recorder.append(blocks)
    return len(blocks)


def note_withdrawn(
    recorder: Recorder, destination: str, log_ids: Iterable[str], at: str, uploader: str
) -> Noted:
    """Note that the copies of these entries at a destination were deleted there, at that time."""
    noted = before = 0
    elsewhere: dict[str, None] = {}
    ids = iter(log_ids)
    while page := list(islice(ids, PAGE)):
        copies = [copy for those in copies_of(recorder.uploads(page)).values() for copy in those]
        here = [copy for copy in copies if copy.destination == destination]
        elsewhere.update((copy.destination, None) for copy in copies if copy not in here)
        before += sum(bool(copy.withdrawn) for copy in here)
        noted += _append(recorder, [copy for copy in here if not copy.withdrawn], at, uploader)
    return Noted(noted, before, tuple(elsewhere))


def _append(recorder: Recorder, copies: Sequence[Copy], at: str, uploader: str) -> int:
    if copies:
        recorder.append(
            [UploadEvent(c.log_id, at, "withdrawn", c.destination, uploader) for c in copies]
        )
    return len(copies)
