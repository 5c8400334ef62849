"""One upload of one acquisition: cleared to leave, and what became of it."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable
from types import TracebackType

from deid_hooks.backends.contract import Sealed
from deid_hooks.errors import UploadRefused
from deid_hooks.records.model import Entry

log = logging.getLogger("deid_hooks")


class Upload:
    """What an uploader reports to while it sends. Made by :meth:`DeidHooks.uploading`.

    Reported instances make the outcome; leaving by an exception is ``failed``, leaving without a
    word stays ``pending``. ``outcome`` is None until the block is left.
    """

    def __init__(
        self,
        log_id: str,
        clear: Callable[[], Entry | Sealed | None],
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
