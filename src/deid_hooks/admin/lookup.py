"""Which entries hold a de-identified UID: the log, with what was found last kept at hand."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Hashable, Iterable, Iterator

from deid_hooks.errors import UnusableDataset
from deid_hooks.log import Log
from deid_hooks.query.conditions import Equal, Query, Term
from deid_hooks.query.names import fold
from deid_hooks.records.keys import compute_content_digest
from deid_hooks.records.model import Entry, Instance, make_readable

_UIDS_AT_ONCE = 400
_KEPT = 16
_ANY_OTHER_UID = "FrameOfReferenceUID"  # stands for every UID that is not an instance's


class Directory:
    """Finds entries by the de-identified UIDs that they hold."""

    def __init__(self, recorder: Log) -> None:
        self._recorder = recorder
        self._kept: deque[dict[str, tuple[Entry, ...]]] = deque(maxlen=_KEPT)

    def of_instance(self, uid: str) -> tuple[Entry, ...]:
        """The entries that hold an instance with this de-identified SOP Instance UID.

        Files of a series mostly come together: so the whole entry is kept for those that follow.
        Raises UnusableDataset if an entry is not what was written.
        """
        for family in self._kept:
            if uid in family:
                return family[uid]
        first = list(self.with_instances([uid]))
        if not first:
            return ()
        uids = {instance.deid_uid for entry in first for instance in entry.instances}
        family = {}
        for entry in self.with_instances(uids):  # another entry may hold some of them, too
            for deid_uid in uids.intersection(entry.deid_uids):
                family[deid_uid] = (*family.get(deid_uid, ()), entry)
        self._kept.append(family)
        return family.get(uid, ())

    def with_instances(self, uids: Iterable[str]) -> Iterator[Entry]:
        """The entries that hold one of these de-identified SOP Instance UIDs, once each."""
        return self._with("SOPInstanceUID", uids)

    def with_study(self, uid: str) -> Iterator[Entry]:
        """The entries whose de-identified images belong to this study."""
        return self._with("StudyInstanceUID", [uid])

    def with_other_uids(self, uids: Iterable[str]) -> Iterator[Entry]:
        """The entries in which one of these de-identified UIDs stands for another."""
        return self._with(_ANY_OTHER_UID, uids)

    def _with(self, keyword: str, uids: Iterable[str]) -> Iterator[Entry]:
        wanted = sorted({make_readable(uid) for uid in uids})
        seen: set[str] = set()
        for start in range(0, len(wanted), _UIDS_AT_ONCE):
            some = tuple(map(Equal, wanted[start : start + _UIDS_AT_ONCE]))
            query = Query((Term("deid", keyword, some),))
            for entry in self._recorder.entries(self._recorder.search(query)):
                if entry.log_id not in seen:
                    seen.add(entry.log_id)
                    yield self._unaltered(entry)

    def _unaltered(self, entry: Entry) -> Entry:
        if compute_content_digest(entry, self._recorder.secret) != entry.digest:
            raise UnusableDataset(
                f"the entry {entry.log_id} is not what was written: it was altered in the store,"
                " or written with another site secret"
            )
        return entry


def identify_person(entry: Entry) -> Hashable | None:
    """What tells the persons of two entries apart; None where nothing in the entry does.

    PatientID and issuer, by their digest; without a PatientID the name and the date of birth.
    """
    if entry.patients:
        return entry.patients
    name = fold(entry.fields.get("PatientName", ("",))[0])
    birth_date = entry.fields.get("PatientBirthDate", ("",))[0]
    return (name, birth_date) if name or birth_date else None


def merge_originals(entry: Entry, instance: Instance | None) -> dict[str, object]:
    """Path to element of what was logged of one instance, or of all instances alike."""
    own = json.loads(instance.originals) if instance else {}
    return {**json.loads(entry.originals), **own}
