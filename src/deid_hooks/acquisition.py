"""One acquisition: filled while it is de-identified, logged, cleared, and reported while sent."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from pydicom.dataset import Dataset

from deid_hooks.deadline import hide_foreign_errors
from deid_hooks.dicom.capture import Snapshot, capture
from deid_hooks.dicom.difference import (
    Changes,
    Policy,
    assemble,
    changes,
    list_patients,
    refuse_indistinguishable,
    refuse_mixed_patients,
)
from deid_hooks.errors import UnableToLog, UnusableDataset, UploadRefused
from deid_hooks.gate import Gate
from deid_hooks.plugins import PostDeid, PostUpload, PreUpload
from deid_hooks.records.keys import key_entry
from deid_hooks.records.model import make_log_id

logger = logging.getLogger("deid_hooks")


class Acquisition:
    """What an uploader fills while it de-identifies. Made by :meth:`DeidHooks.acquisition`.

    ``log_id`` exists from the beginning. Nothing of a dataset is kept but what changed.
    """

    def __init__(self, gate: Gate, project: str, uploader: str) -> None:
        self.log_id = make_log_id()
        self.project = project
        self._uploader = uploader
        self._gate = gate
        self._log = gate.open_log()
        self._gathered: list[Changes] = []
        self._event: PostDeid | None = None
        self._left = False
        self._lock = threading.Lock()

    def __enter__(self) -> Acquisition:
        return self

    def __exit__(self, *error: object) -> None:
        """Drop what was gathered and not logged."""
        with self._lock:
            self._gathered.clear()
            self._event = None
            self._left = True

    @contextmanager
    def deidentifying(self, dataset: Dataset) -> Iterator[None]:
        """Capture ``dataset``, let the block de-identify it in place, take the difference.

        If the block raises, the dataset is half changed: nothing of it is kept, drop it. Raises
        UnusableDataset for what can't be logged.
        """
        with hide_foreign_errors(lambda name: UnusableDataset(f"{name} while reading a dataset")):
            original = capture(dataset)
        yield
        self.add(original, dataset)

    def add(self, original: Dataset | Snapshot, deidentified: Dataset) -> None:
        """Take in one instance, for an engine that returns a new dataset.

        Raises UnusableDataset for what can't be logged, UnableToLog once the entry was made.
        """
        if original is deidentified:
            raise UnusableDataset("the original and the de-identified dataset are one object")
        with hide_foreign_errors(lambda name: UnusableDataset(f"{name} while comparing datasets")):
            settings = self._gate.settings
            large = settings.large_values << 20
            found = changes(original, deidentified, settings.fields, large, settings.not_kept)
        self.add_changes(found)

    def add_changes(self, changes: Changes) -> None:
        """Take in one instance by the ``changes`` that a worker process found.

        Raises UnableToLog once the entry was made.
        """
        with self._lock:
            if self._event or self._left:
                raise UnableToLog(
                    f"an instance was added after the acquisition {self.log_id} was logged or left",
                    "open another acquisition for it",
                )
            self._gathered.append(changes)

    def event(self, *, reuse: bool = False) -> PostDeid:
        """Return the event of this acquisition, for a host that calls its own plugin manager.

        The entry is made once: every attempt to log it logs the same, and nothing can be added any
        more. With ``reuse``, the event is that of an equal entry if the log holds one; ``log_id``
        is its id from then on. Raises UnableToLog if there is nothing to log, if the instances
        disagree on the patient, or if the log can't be searched for an equal entry.
        """
        with (
            self._lock,
            hide_foreign_errors(lambda name: UnableToLog(f"{name} while making the entry")),
        ):
            if self._event is None:
                self._event = self._make_event()
            event = self._gate.reuse(self._event) if reuse else self._event
            self.log_id = event.log_id
            return event

    def post_deid(self, *, reuse: bool = False) -> str:
        """Make the entry durable and call every plugin; raise UnableToLog if either fails.

        With ``reuse``, an equal entry that the log holds already is used, so that a retry leaves
        no second. Returns the id under which the acquisition is logged, as does ``log_id`` from
        then on.
        """
        event = self.event(reuse=reuse)
        self._gate.log(event)
        return event.log_id

    def _make_event(self) -> PostDeid:
        if not self._gathered:
            what = "was left before it was logged" if self._left else "holds no instance"
            raise UnableToLog(f"the acquisition {self.log_id} {what}")
        settings = self._gate.settings
        if settings.mixed_patients == "refuse":
            refuse_mixed_patients(self._gathered)
        refuse_indistinguishable(self._gathered)
        policy: Policy = "identifying" if settings.policy == "identifying" else "all"
        entry = assemble(
            self._gathered, self.log_id, self.project, self._uploader, settings.fields, policy
        )
        if self._log.remote is None:  # else its service makes the digests
            root = self._log.keyring.newest
            entry = key_entry(entry, list_patients(self._gathered), root)
        not_kept = tuple(sorted({name for each in self._gathered for name in each.not_kept}))
        return PostDeid(self.log_id, self.project, self._uploader, entry, not_kept)


class Upload:
    """What an uploader reports to while it sends. Made by :meth:`DeidHooks.uploading`.

    The outcome follows from the instances that are reported. Leaving by an exception is
    ``failed``; leaving without a report stays ``pending``. ``outcome`` is None until the block is
    left.
    """

    def __init__(self, gate: Gate, event: PreUpload) -> None:
        self.log_id = event.log_id
        self.outcome: str | None = None
        self._gate = gate
        self._event = event
        self._expected: Counter[str] | None = None  # None where nothing is logged
        self._sent: Counter[str] = Counter()
        self._cleared = False
        self._all_sent = False
        self._lock = threading.Lock()

    def __enter__(self) -> Upload:
        """Resolve the entry and ask every plugin; raise UploadRefused with every reason."""
        entry = self._gate.clear(self._event)
        if entry is not None:
            self._expected = Counter(entry.deid_uids)
        self._cleared = True
        return self

    def sent(self, sop_instance_uid: str, ok: bool = True) -> None:
        """Report one instance by its de-identified SOP Instance UID. A retry may report again."""
        self._refuse_uncleared()
        with self._lock:
            self._sent[str(sop_instance_uid)] += bool(ok)

    def sent_all(self) -> None:
        """Report that every instance of the acquisition was delivered."""
        self._refuse_uncleared()
        self._all_sent = True

    def missing(self) -> tuple[str, ...]:
        """Return the de-identified SOP Instance UIDs that were not reported as delivered."""
        if self._all_sent:
            return ()
        if self._expected is None:
            return tuple(sorted(uid for uid, times in self._sent.items() if not times))
        return tuple(sorted((self._expected - self._sent).elements()))

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is not None:
            self._conclude("failed")
        elif self._sent or self._all_sent:
            self._conclude(self._derive_outcome())

    def _derive_outcome(self) -> str:
        unknown = set() if self._expected is None else set(self._sent) - set(self._expected)
        if unknown:
            logger.error(
                "%s: %d instances were reported that its entry does not hold",
                self.log_id,
                len(unknown),
            )
        if not self.missing() and not unknown:
            return "uploaded"
        return "partial" if any(self._sent.values()) else "failed"

    def _conclude(self, outcome: str) -> None:
        self.outcome = outcome
        event = self._event
        self._gate.conclude(
            PostUpload(event.log_id, event.destination, event.uploader, outcome, self.missing())
        )

    def _refuse_uncleared(self) -> None:
        if not self._cleared:
            raise UploadRefused(["it was never cleared: send inside `with hooks.uploading(...)`"])
