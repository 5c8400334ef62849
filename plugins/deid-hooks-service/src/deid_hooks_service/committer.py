"""Group commit: requests that come at once share a transaction, and none fails because of another.

A job is one request's records. The committer's thread takes the jobs that wait, writes them in one
transaction and answers each of them.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from deid_hooks.deadline import Deadline
from deid_hooks.errors import (
    AppendUnknown,
    DeidHooksError,
    Forgotten,
    IdConflict,
    LogError,
    LogUnavailable,
    NotAllowed,
)
from deid_hooks.log import Log
from deid_hooks.records.keys import change_root, list_identities
from deid_hooks.records.model import Entry, Record, UploadEvent
from deid_hooks_service.forms import make_busy

_MOST_RECORDS = 1_000
"""In one transaction."""
_LONGEST_QUEUE = 20_000
_MOST_UNCERTAIN = 10_000


@dataclass(eq=False, slots=True)
class Job:
    """Records of one request, to be written all or none; ``answer`` is what came of it.

    With ``reuse``, the first is an entry, and the log may have one with the same content already:
    then the other records get the id of that one. With ``checks``, entries are refused of patients
    who are blocked, and with labels of others.
    """

    records: Sequence[Record]
    reuse: bool
    checks: bool
    deadline: Deadline
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[list[str]] = field(init=False)
    answer: list[str] | BaseException | None = None
    taken: threading.Lock = field(default_factory=threading.Lock)
    """Whoever acquires it: the committer begins, or the request gives up before."""

    def __post_init__(self) -> None:
        self.done = self.loop.create_future()

    @property
    def entries(self) -> list[Entry]:
        """The entries among the records."""
        return [record for record in self.records if isinstance(record, Entry)]

    @property
    def entry(self) -> Entry | None:
        """The entry that it begins with, if any."""
        first = self.records[0] if self.records else None
        return first if isinstance(first, Entry) else None


_TAKEN = (
    "the label (the de-identified PatientID) is another patient's in this project",
    "give each patient a label of its own; an administrator's token may join two PatientIDs",
)


class Committer:
    """One thread that writes to the log, whatever waits at the time in one transaction."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._waiting: list[Job] = []
        self._changed = threading.Condition()
        self._stopping = False
        self._uncertain: dict[str, Entry] = {}
        """Entries that may be in the log or come into it yet, by the digest of their content."""
        self._thread = threading.Thread(target=self._run, name="committer", daemon=True)
        self._thread.start()

    async def write(
        self,
        records: Sequence[Record],
        deadline: Deadline,
        *,
        reuse: bool = False,
        checks: bool = False,
    ) -> list[str]:
        """Write the records, durably; return the ids of their entries.

        With ``reuse`` the first is an entry, and one with the same content is used in its place.
        Raises what ``LogBackend.append`` raises, NotAllowed for a blocked patient or a label of
        another one (``reuse`` and ``checks`` only), and Problem 503 when too many wait.
        """
        job = Job(records, reuse, checks, deadline, asyncio.get_running_loop())
        with self._changed:
            if self._stopping:
                raise make_busy("the service is being stopped")
            if len(self._waiting) >= _LONGEST_QUEUE:
                raise make_busy("too many requests wait for the log")
            self._waiting.append(job)
            self._changed.notify()
        try:
            async with asyncio.timeout(deadline.left()):
                return await asyncio.shield(job.done)
        except TimeoutError:
            job.done.add_done_callback(_retrieve)
            cause = f"the log gave no answer within {deadline.seconds:g} seconds"
            if job.taken.acquire(blocking=False):
                raise LogUnavailable(cause, "look at the disk or the server of the log") from None
            raise AppendUnknown(f"{cause}, and whether it was written is unknown") from None

    def stop(self, seconds: float) -> None:
        """Finish what was accepted, for at most so many seconds, and end."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(seconds)

    @property
    def waiting(self) -> int:
        """How many requests wait for a transaction."""
        return len(self._waiting)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    if self._stopping:
                        return
                    self._changed.wait()
                group = self._take_group()
            jobs = [job for job in group if job.taken.acquire(blocking=False)]
            if jobs:
                self._commit(jobs)
            _wake(jobs)

    def _take_group(self) -> list[Job]:
        """Take the oldest jobs out of the queue, as many as one transaction should hold."""
        size = count = 0
        for job in self._waiting:
            size += len(job.records)
            if count and size > _MOST_RECORDS:
                break
            count += 1
        group, self._waiting = self._waiting[:count], self._waiting[count:]
        return group

    def _commit(self, jobs: list[Job]) -> None:
        """Write jobs in one transaction and set the answer of each."""
        try:
            self._prepare(jobs)
            jobs = [job for job in jobs if job.answer is None]
            if not jobs:
                return
            self._log.append([record for job in jobs for record in job.records])
            self._read_back(jobs)
        except (IdConflict, Forgotten) as error:
            self._commit_each(jobs, error)
        except LogUnavailable as error:
            if len(jobs) > 1 and self._takes_others(jobs):
                self._commit_each(jobs, error)
            else:
                _fail(jobs, error)
        except DeidHooksError as error:
            if isinstance(error, AppendUnknown):
                self._remember_uncertain(jobs)
            _fail(jobs, error)
        except Exception as error:  # noqa: BLE001 - its text may hold values; its kind does not
            _fail(jobs, AppendUnknown(f"writing failed with {type(error).__name__}"))
        else:
            for job in jobs:
                ids = (record.log_id for record in job.records if isinstance(record, Entry))
                job.answer = list(dict.fromkeys(ids))
                if self._uncertain and job.entry is not None:
                    self._uncertain.pop(job.entry.digest, None)

    def _commit_each(self, jobs: list[Job], error: DeidHooksError) -> None:
        """Write each job in a transaction of its own, after one that failed and wrote nothing."""
        if len(jobs) == 1:
            _fail(jobs, error)
            return
        for job in jobs:
            if not job.deadline.passed:  # else its request has ended with AppendUnknown
                self._commit([job])

    def _takes_others(self, jobs: list[Job]) -> bool:
        """Return whether the log takes a write, so that it was one of these that it can't take."""
        if all(job.deadline.passed for job in jobs):
            return False
        try:
            self._log.backend.check(Deadline(self._log.seconds))
        except Exception:  # noqa: BLE001 - whatever it is, it concerns them all
            return False
        return True

    def _prepare(self, jobs: list[Job]) -> None:
        """Answer jobs that may not be written; put the entry to use into the others."""
        checked = [job for job in jobs if job.entries and (job.reuse or job.checks)]
        if not checked:
            return
        blocked = self._find_blocked(checked)
        labels: dict[tuple[str, str], set[tuple[str, str]]] = {}
        first: dict[str, Entry] = {}
        for job in checked:
            if any(not blocked.isdisjoint(self._list_blockable(each)) for each in job.entries):
                job.answer = NotAllowed("uploads of this patient are blocked")
                continue
            if job.checks:
                job.records = [self._keep_key(record) for record in job.records]
                if any(self._is_label_of_another(each, labels) for each in job.entries):
                    job.answer = NotAllowed(*_TAKEN)
                    continue
            if not job.reuse:
                continue
            entry = job.entry
            assert entry is not None
            # Once more under the same id, where an earlier attempt may yet come into the log.
            known = first.get(entry.digest) or self._find_uncertain(entry.digest)
            if known is None:
                same = self._log.find_equal(entry)
                try:
                    known = self._resolve(same.log_id) if same else entry
                except LogError as error:  # that entry was altered in the store, say
                    job.answer = error
                    continue
            first[entry.digest] = known
            job.records = [known, *(_with_id(each, known.log_id) for each in job.records[1:])]

    def _find_uncertain(self, digest: str) -> Entry | None:
        """Return the entry of this content that may come into the log yet, unless it was erased."""
        known = self._uncertain.get(digest)
        if known is not None and self._log.tombstone(known.log_id) is not None:
            del self._uncertain[digest]
            return None
        return known

    def _resolve(self, log_id: str) -> Entry:
        found = self._log.resolve(log_id)
        assert isinstance(found, Entry)
        return found

    def _find_blocked(self, jobs: list[Job]) -> set[tuple[str, str]]:
        """Return the pairs (patient, project) of which nothing may leave.

        Raises LogUnavailable if the blocks are not all that there ever were.
        """
        entries = [entry for job in jobs for entry in job.entries]
        patients = {patient for entry in entries for patient, _ in self._list_blockable(entry)}
        return {(block.patient, block.project) for block in self._log.find_blocks(patients)}

    def _list_blockable(self, entry: Entry) -> set[tuple[str, str]]:
        """Return the pairs (patient, project) of which a block stops this entry."""
        patients = self._log.keyring.list_patients(entry)
        return {(patient, project) for patient in patients for project in ("", entry.project)}

    def _keep_key(self, record: Record) -> Record:
        """Return a record as the log has it under an older key, if it was sent before a rotation.

        Sent again, it must be the same.
        """
        keyring = self._log.keyring
        if isinstance(record, Entry) and len(keyring.roots) > 1:
            for there in self._log.entries([record.log_id]):
                root = keyring.find(there.key)
                return change_root(record, root) if root else record
        return record

    def _is_label_of_another(
        self, entry: Entry, labels: dict[tuple[str, str], set[tuple[str, str]]]
    ) -> bool:
        """Return whether another patient has this label, in the log or among ``labels``.

        Those are what the other entries of the transaction have, to which this one's are added.
        """
        identities = set(list_identities(entry))
        known = True
        for label in filter(None, entry.deid.get("PatientID", ())):
            known = known and (entry.project, label) in labels
            if labels.setdefault((entry.project, label), identities).isdisjoint(identities):
                return True
        return not known and self._log.is_label_of_another(entry)

    def _read_back(self, jobs: list[Job]) -> None:
        """Find every entry in the store as it was written, or raise LogUnavailable.

        For clients that upload next. Those that append batches resolve before they upload.
        """
        written = {job.entry.log_id: job.entry for job in jobs if job.reuse and job.entry}
        if not written:
            return
        found = {entry.log_id: entry for entry in self._log.entries(written)}
        for log_id, entry in written.items():
            there = found.get(log_id)
            if there is None or entry != replace(
                there, created=entry.created, uploader=entry.uploader
            ):
                raise LogUnavailable(
                    f"the entry {log_id} can't be read back as it was written",
                    "look at the store of the log; restore it from a backup",
                )

    def _remember_uncertain(self, jobs: list[Job]) -> None:
        if len(self._uncertain) > _MOST_UNCERTAIN:
            self._uncertain.clear()
        self._uncertain |= {job.entry.digest: job.entry for job in jobs if job.reuse and job.entry}


def _with_id(record: Record, log_id: str) -> Record:
    return replace(record, log_id=log_id) if isinstance(record, UploadEvent) else record


def _fail(jobs: list[Job], error: BaseException) -> None:
    """Set the answer of the jobs that have none yet."""
    for job in jobs:
        job.answer = job.answer or error


def _wake(jobs: list[Job]) -> None:
    """Give the answers to whoever waits: one call into each event loop, however many they are."""
    for loop in {job.loop for job in jobs}:
        with suppress(RuntimeError):  # the loop has ended, and nobody waits
            loop.call_soon_threadsafe(_settle, [job for job in jobs if job.loop is loop])


def _settle(jobs: list[Job]) -> None:
    for job in jobs:
        if job.done.done() or job.answer is None:
            continue
        if isinstance(job.answer, BaseException):
            job.done.set_exception(job.answer)
        else:
            job.done.set_result(job.answer)


def _retrieve(done: asyncio.Future[list[str]]) -> None:
    """Take the exception that nobody waits for any more, or asyncio prints it."""
    if not done.cancelled():
        done.exception()
