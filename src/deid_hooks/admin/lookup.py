"""Find the entries that hold a de-identified UID; what was found last is kept at hand."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Hashable, Iterable, Iterator

from deid_hooks.batches import split_batches
from deid_hooks.dicom.names import fold
from deid_hooks.errors import UnusableDataset
from deid_hooks.log import Log
from deid_hooks.query.conditions import Equal, Query, Term
from deid_hooks.records.keys import compute_content_digest
from deid_hooks.records.model import Entry, Instance, make_readable

_UIDS_AT_ONCE = 400
_KEPT = 16
_ANY_OTHER_UID = "FrameOfReferenceUID"  # stands for every UID that is not an instance's


class Directory:
    """Finds entries by the de-identified UIDs that they hold."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._kept: deque[dict[str, tuple[Entry, ...]]] = deque(maxlen=_KEPT)

    def find_instance(self, uid: str) -> tuple[Entry, ...]:
        """Return the entries that hold an instance with this de-identified SOP Instance UID.

        Files of a series mostly come together, so the whole entry is kept for the next ones.
        Raises UnusableDataset if an entry is not what was written.
        """
        for family in self._kept:
            if uid in family:
                return family[uid]
        first = list(self.find_instances([uid]))
        if not first:
            return ()
        uids = {instance.deid_uid for entry in first for instance in entry.instances}
        family = {}
        for entry in self.find_instances(uids):  # another entry may hold some of them, too
            for deid_uid in uids.intersection(entry.deid_uids):
                family[deid_uid] = (*family.get(deid_uid, ()), entry)
        self._kept.append(family)
        return family.get(uid, ())

    def find_instances(self, uids: Iterable[str]) -> Iterator[Entry]:
        """Yield the entries that hold one of these de-identified SOP Instance UIDs, once each."""
        return self._find("SOPInstanceUID", uids)

    def find_study(self, uid: str) -> Iterator[Entry]:
        """Yield the entries whose de-identified images belong to this study."""
        return self._find("StudyInstanceUID", [uid])

    def find_other_uids(self, uids: Iterable[str]) -> Iterator[Entry]:
        """Yield the entries in which one of these de-identified UIDs stands for another."""
        return self._find(_ANY_OTHER_UID, uids)

    def _find(self, keyword: str, uids: Iterable[str]) -> Iterator[Entry]:
        seen: set[str] = set()
        for some in split_batches(sorted({make_readable(uid) for uid in uids}), _UIDS_AT_ONCE):
            query = Query((Term("deid", keyword, tuple(map(Equal, some))),))
            for entry in self._log.entries(self._log.search(query)):
                if entry.log_id not in seen:
                    seen.add(entry.log_id)
                    if compute_content_digest(entry, self._log.secret) != entry.digest:
                        raise UnusableDataset(
                            f"the entry {entry.log_id} is not what was written: it was altered in"
                            " the store, or written with another site secret"
                        )
                    yield entry


def identify_person(entry: Entry) -> Hashable | None:
    """Return what tells the persons of two entries apart; None where nothing in the entry does.

    PatientID and issuer, by their digest; without a PatientID the name and the date of birth.
    """
    if entry.patients:
        return entry.patients
    name = fold(entry.fields.get("PatientName", ("",))[0])
    birth_date = entry.fields.get("PatientBirthDate", ("",))[0]
    return (name, birth_date) if name or birth_date else None


def merge_originals(entry: Entry, instance: Instance | None) -> dict[str, object]:
    """Return the originals of one instance, or of all instances alike, by the path of each."""
    own = json.loads(instance.originals) if instance else {}
    return {**json.loads(entry.originals), **own}
