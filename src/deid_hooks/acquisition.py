"""One acquisition on its way into the log: capture, difference, and the entry made durable."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from pydicom.dataset import Dataset

from deid_hooks.assembly import Policy, assemble, refuse_mixed_patients
from deid_hooks.attributes import Snapshot, capture
from deid_hooks.difference import Changes, changes
from deid_hooks.entry import new_log_id
from deid_hooks.errors import UnableToLog
from deid_hooks.hookspecs import PostDeid
from deid_hooks.secret import SiteSecret


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
        self._lock = threading.Lock()

    def __enter__(self) -> Acquisition:
        return self

    def __exit__(self, *error: object) -> None:
        """What was gathered and not logged is let go."""
        self._gathered.clear()

    @contextmanager
    def deidentifying(self, dataset: Dataset) -> Iterator[None]:
        """Capture ``dataset``, let the block de-identify it in place, take the difference.

        If the block raises, the dataset is half changed: nothing of it is kept, drop it. Raises
        UnusableDataset for what can't be logged.
        """
        original = capture(dataset)
        yield
        self.add(original, dataset)

    def add(
        self, original: Dataset | Snapshot | Changes, deidentified: Dataset | None = None
    ) -> None:
        """Take in one instance: a pair of datasets, or the ``changes`` a worker process made.

        Raises UnusableDataset for what can't be logged.
        """
        if not isinstance(original, Changes):
            if deidentified is None:
                raise TypeError("add takes an original and a de-identified dataset, or changes")
            original = changes(original, deidentified, self._fields)
        with self._lock:
            self._gathered.append(original)

    def event(self) -> PostDeid:
        """The event of this acquisition, for a host that calls its own plugin manager.

        Raises UnableToLog if there is nothing to log or the instances disagree on the patient.
        """
        gathered = list(self._gathered)
        if not gathered:
            raise UnableToLog(f"no instance was added to the acquisition {self.log_id}")
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

    def post_deid(self, *, reuse: bool = False) -> str:
        """Make the entry durable and tell every plugin; UnableToLog if either fails.

        With ``reuse``, an entry of the same content that the log has already stands for this one,
        so that a retry leaves no second. Returns the id under which it is logged, and ``log_id``
        is that id from then on.
        """
        self.log_id = self._log(self.event(), reuse)
        return self.log_id
