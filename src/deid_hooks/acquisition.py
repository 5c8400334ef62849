"""One acquisition on its way into the log: capture, difference, and the entry made durable."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from pydicom.dataset import Dataset

from deid_hooks.dicom.assemble import Policy, assemble, refuse_mixed_patients
from deid_hooks.dicom.capture import Snapshot, capture
from deid_hooks.dicom.difference import Changes, changes
from deid_hooks.errors import DeidHooksError, UnableToLog, UnusableDataset
from deid_hooks.hookspecs import PostDeid
from deid_hooks.records.keys import SiteSecret
from deid_hooks.records.model import new_log_id


class Acquisition:
    """What an uploader fills while it de-identifies. Made by :meth:`DeidHooks.acquisition`.

    ``log_id`` exists from the beginning. Nothing of a dataset is kept but what changed.
    """

    def __init__(
        self,
        project: str,
        uploader: str,
        secret: SiteSecret,
        fields: Sequence[str],
        policy: Policy,
        refuse_mixed: bool,
        log: Callable[[PostDeid, bool], str],
    ) -> None:
        self.log_id = new_log_id()
        self.project = project
        self._uploader = uploader
        self._secret = secret
        self._fields = fields
        self._policy: Policy = policy
        self._refuse_mixed = refuse_mixed
        self._log = log
        self._gathered: list[Changes] = []
        self._event: PostDeid | None = None
        self._left = False
        self._lock = threading.Lock()

    def __enter__(self) -> Acquisition:
        return self

    def __exit__(self, *error: object) -> None:
        """What was gathered and not logged is let go."""
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
        with _only_our_errors(UnusableDataset, "reading a dataset"):
            original = capture(dataset)
        yield
        self.add(original, dataset)

    def add(
        self, original: Dataset | Snapshot | Changes, deidentified: Dataset | None = None
    ) -> None:
        """Take in one instance: a pair of datasets, or the ``changes`` a worker process made.

        Raises UnusableDataset for what can't be logged, UnableToLog once the entry was made.
        """
        if not isinstance(original, Changes):
            if deidentified is None:
                raise TypeError("add takes an original and a de-identified dataset, or changes")
            if original is deidentified:
                raise UnusableDataset("the original and the de-identified dataset are one object")
            with _only_our_errors(UnusableDataset, "comparing two datasets"):
                original = changes(original, deidentified, self._fields)
        with self._lock:
            if self._event or self._left:
                raise UnableToLog(
                    f"an instance came after the acquisition {self.log_id} was logged or left",
                    "open another acquisition for it",
                )
            self._gathered.append(original)

    def event(self) -> PostDeid:
        """The event of this acquisition, for a host that calls its own plugin manager.

        Raises UnableToLog if there is nothing to log or the instances disagree on the patient.
        Made once: a second attempt to log it must say the same, and nothing can be added any more.
        """
        with self._lock, _only_our_errors(UnableToLog, "making the entry"):
            if self._event is None:
                self._event = self._make_event(self._gathered)
            return self._event

    def post_deid(self, *, reuse: bool = False) -> str:
        """Make the entry durable and tell every plugin; UnableToLog if either fails.

        With ``reuse``, an entry of the same content that the log has already stands for this one,
        so that a retry leaves no second. Returns the id under which it is logged, and ``log_id``
        is that id from then on.
        """
        self.log_id = self._log(self.event(), reuse)
        return self.log_id

    def _make_event(self, gathered: Sequence[Changes]) -> PostDeid:
        if not gathered:
            what = "was left before it was logged" if self._left else "holds no instance"
            raise UnableToLog(f"the acquisition {self.log_id} {what}")
        if self._refuse_mixed:
            refuse_mixed_patients(gathered)
        entry = assemble(
            gathered,
            self.log_id,
            self.project,
            self._uploader,
            self._secret,
            self._fields,
            self._policy,
        )
        not_kept = tuple(sorted({name for each in gathered for name in each.not_kept}))
        return PostDeid(self.log_id, self.project, self._uploader, entry, not_kept)


@contextmanager
def _only_our_errors(kind: type[DeidHooksError], doing: str) -> Iterator[None]:
    """pydicom's errors quote values: of what isn't ours only the kind is told."""
    try:
        yield
    except DeidHooksError:
        raise
    except Exception as error:  # noqa: BLE001 - see above
        raise kind(f"{type(error).__name__} while {doing}") from None
