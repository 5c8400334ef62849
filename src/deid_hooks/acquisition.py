"""One acquisition: filled while it is de-identified, logged, cleared, and reported while sent."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType

from pydicom.dataset import Dataset

from deid_hooks.backends.contract import Receipt
from deid_hooks.dicom.assemble import Policy, assemble, refuse_mixed_patients
from deid_hooks.dicom.capture import Snapshot, capture
from deid_hooks.dicom.difference import Changes, changes
from deid_hooks.errors import DeidHooksError, UnableToLog, UnusableDataset, UploadRefused
from deid_hooks.hookspecs import PostDeid
from deid_hooks.records.keys import SiteSecret
from deid_hooks.records.model import Entry, make_log_id


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
        self.log_id = make_log_id()
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


log = logging.getLogger("deid_hooks")


class Upload:
    """What an uploader reports to while it sends. Made by :meth:`DeidHooks.uploading`.

    Reported instances make the outcome; leaving by an exception is ``failed``, leaving without a
    word stays ``pending``. ``outcome`` is None until the block is left.
    """

    def __init__(
        self,
        log_id: str,
        clear: Callable[[], Entry | Receipt | None],
        conclude: Callable[[str, tuple[str, ...]], None],
    ) -> None:
        self.log_id = log_id
        self.outcome: str | None = None
        self._clear = clear
        self._conclude = conclude
        self._expected: Counter[str] | None = None  # None where nothing is logged
        self._sent: Counter[str] = Counter()
        self._cleared = False
        self._all = False
        self._lock = threading.Lock()

    def __enter__(self) -> Upload:
        """Resolve the entry and ask every plugin; UploadRefused with every reason."""
        entry = self._clear()
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
        self._all = True

    def missing(self) -> tuple[str, ...]:
        """De-identified SOP Instance UIDs of the entry that were not reported as delivered."""
        if self._all:
            return ()
        if self._expected is None:
            return tuple(sorted(uid for uid, times in self._sent.items() if not times))
        return tuple(sorted((self._expected - self._sent).elements()))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self._finish("failed")
        elif self._sent or self._all:
            self._finish(self._told())

    def _told(self) -> str:
        unknown = set() if self._expected is None else set(self._sent) - set(self._expected)
        if unknown:
            log.error(
                "%s: %d instances were reported that its entry does not hold",
                self.log_id,
                len(unknown),
            )
        if not self.missing() and not unknown:
            return "uploaded"
        return "partial" if any(self._sent.values()) else "failed"

    def _finish(self, outcome: str) -> None:
        self.outcome = outcome
        self._conclude(outcome, self.missing())

    def _refuse_uncleared(self) -> None:
        if not self._cleared:
            raise UploadRefused(["it was never cleared: send inside `with hooks.uploading(...)`"])
