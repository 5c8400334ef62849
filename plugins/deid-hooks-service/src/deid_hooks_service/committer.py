"""Group commit: requests that come at once share a transaction, and none spoils another's."""

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
from deid_hooks.records.model import Entry, Record, UploadEvent
from deid_hooks_service.problems import busy

_MOST_RECORDS = 1_000
"""In one transaction."""
_LONGEST_QUEUE = 20_000
_MOST_DOUBTFUL = 10_000


@dataclass(eq=False, slots=True)
class Job:
    """Records of one request, to be written all or none.

    With ``standing``, the first is an entry for which one of the same content may stand: then it
    is the id of that one that the others get. ``log_ids`` is the answer.
    """

    records: Sequence[Record]
    standing: bool
    deadline: Deadline
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[list[str]] = field(init=False)
    taken: threading.Lock = field(default_factory=threading.Lock)
    """Whoever acquires it: the committer begins, or the request gives up before."""

    def __post_init__(self) -> None:
        self.done = self.loop.create_future()

    def log_ids(self) -> list[str]:
        return list(dict.fromkeys(r.log_id for r in self.records if isinstance(r, Entry)))


class Committer:
    """One thread that writes to the log, whatever waits at the time in one transaction."""

    def __init__(self, recorder: Log) -> None:
        self._recorder = recorder
        self._waiting: list[Job] = []
        self._something = threading.Condition()
        self._stopping = False
        self._doubtful: dict[str, Entry] = {}
        """Entries that may be in the log or come into it yet, by the digest of their content."""
        self._thread = threading.Thread(target=self._run, name="committer", daemon=True)
        self._thread.start()

    async def write(
        self, records: Sequence[Record], deadline: Deadline, standing: bool = False
    ) -> list[str]:
        """Write the records, durably; return the ids of their entries.

        Raises what ``LogBackend.append`` raises, NotAllowed for a blocked patient (``standing``
        only), and Problem 503 when too many wait.
        """
        job = Job(records, standing, deadline, asyncio.get_running_loop())
        with self._something:
            if self._stopping:
                raise busy("the service is being stopped")
            if len(self._waiting) >= _LONGEST_QUEUE:
                raise busy("too many requests wait for the log")
            self._waiting.append(job)
            self._something.notify()
        try:
            async with asyncio.timeout(deadline.left()):
                return await asyncio.shield(job.done)
        except TimeoutError:
            job.done.add_done_callback(_retrieved)
            cause = f"the log gave no answer within {deadline.seconds:g} seconds"
            if job.taken.acquire(blocking=False):
                raise LogUnavailable(cause, "look at the disk or the server of the log") from None
            raise AppendUnknown(f"{cause}, and whether it was written is unknown") from None

    def stop(self, seconds: float) -> None:
        """Finish what was accepted, for as long as this, and end."""
        with self._something:
            self._stopping = True
            self._something.notify()
        self._thread.join(seconds)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def _run(self) -> None:
        while True:
            with self._something:
                while not self._waiting:
                    if self._stopping:
                        return
                    self._something.wait()
                group = self._next()
            jobs = [job for job in group if job.taken.acquire(blocking=False)]
            answers: list[tuple[Job, list[str] | BaseException]] = []
            if jobs:
                self._commit(jobs, answers)
            _tell(answers)

    def _next(self) -> list[Job]:
        """What goes into the next transaction: the oldest, as many as are not too much."""
        size = count = 0
        for job in self._waiting:
            size += len(job.records)
            if count and size > _MOST_RECORDS:
                break
            count += 1
        group, self._waiting = self._waiting[:count], self._waiting[count:]
        return group

    def _commit(
        self, jobs: list[Job], answers: list[tuple[Job, list[str] | BaseException]]
    ) -> None:
        try:
            jobs = self._prepared(jobs, answers)
            if not jobs:
                return
            self._recorder.append([record for job in jobs for record in job.records])
            self._read_back(jobs)
        except (IdConflict, Forgotten) as error:
            self._one_by_one(jobs, answers, error)
        except LogUnavailable as error:
            if len(jobs) > 1 and self._takes_others(jobs):
                self._one_by_one(jobs, answers, error)
            else:
                answers += [(job, error) for job in jobs]
        except DeidHooksError as error:
            if isinstance(error, AppendUnknown):
                self._doubt(jobs)
            answers += [(job, error) for job in jobs]
        except Exception as error:  # noqa: BLE001 - its text may hold values; its kind does not
            answers += [
                (job, AppendUnknown(f"writing failed with {type(error).__name__}")) for job in jobs
            ]
        else:
            answers += [(job, job.log_ids()) for job in jobs]
            for job in jobs if self._doubtful else ():
                self._doubtful.pop(_digest(job), None)

    def _one_by_one(
        self,
        jobs: list[Job],
        answers: list[tuple[Job, list[str] | BaseException]],
        error: DeidHooksError,
    ) -> None:
        """One of them spoils the transaction: nothing of it was written, each goes alone."""
        if len(jobs) == 1:
            answers.append((jobs[0], error))
            return
        for job in jobs:
            if not job.deadline.passed:  # else its request was told that nobody knows
                self._commit([job], answers)

    def _takes_others(self, jobs: list[Job]) -> bool:
        """Whether the log takes a write, so that it was one of these that it can't take."""
        if all(job.deadline.passed for job in jobs):
            return False
        try:
            self._recorder.backend.check(Deadline(self._recorder.seconds))
        except Exception:  # noqa: BLE001 - whatever it is, it concerns them all
            return False
        return True

    def _prepared(
        self, jobs: list[Job], answers: list[tuple[Job, list[str] | BaseException]]
    ) -> list[Job]:
        """The jobs that may be written, each with the entry that stands for its content, if any."""
        asking = [job for job in jobs if job.standing]
        if not asking:
            return jobs
        refused = self._blocked(asking)
        answers += [
            (job, NotAllowed("uploads of this patient are blocked"))
            for job in asking
            if id(job) in refused
        ]
        first: dict[str, Entry] = {}
        for job in asking:
            if id(job) in refused:
                continue
            entry, *others = job.records
            assert isinstance(entry, Entry)
            # Once more under the same id, where an earlier attempt may yet come into the log.
            known = first.get(entry.digest) or self._in_doubt(entry.digest)
            if known is None:
                log_id = self._recorder.find_equal(entry)
                try:
                    known = entry if log_id is None else self._found(log_id)
                except LogError as error:  # that entry was altered in the store, say
                    refused.add(id(job))
                    answers.append((job, error))
                    continue
            first[entry.digest] = known
            job.records = [known, *(_of(record, known.log_id) for record in others)]
        return [job for job in jobs if id(job) not in refused]

    def _in_doubt(self, digest: str) -> Entry | None:
        """The entry of this content that may come into the log yet: not if it was forgotten."""
        known = self._doubtful.get(digest)
        if known is not None and self._recorder.tombstone(known.log_id) is not None:
            del self._doubtful[digest]
            return None
        return known

    def _found(self, log_id: str) -> Entry:
        found = self._recorder.resolve(log_id)
        assert isinstance(found, Entry)
        return found

    def _blocked(self, jobs: list[Job]) -> set[int]:
        """The jobs whose patient must not leave, told from one look at the blocks."""
        entries = {id(job): job.records[0] for job in jobs}
        patients = {p for e in entries.values() if isinstance(e, Entry) for p in e.patients}
        latest: dict[tuple[str, str], bool] = {}
        if patients:
            deadline = Deadline(self._recorder.seconds)
            for block in self._recorder.backend.blocks(patients, deadline):
                latest[block.patient, block.project] = not block.lifted
        return {
            job
            for job, entry in entries.items()
            if isinstance(entry, Entry)
            and any(
                latest.get((patient, project))
                for patient in entry.patients
                for project in ("", entry.project)
            )
        }

    def _read_back(self, jobs: list[Job]) -> None:
        """Find every entry in the store as it was written, or raise LogUnavailable.

        For those who upload next. Who appends by batches resolves before it uploads.
        """
        written = {
            r.log_id: r for job in jobs if job.standing for r in job.records if isinstance(r, Entry)
        }
        if not written:
            return
        found = {entry.log_id: entry for entry in self._recorder.entries(written)}
        for log_id, entry in written.items():
            there = found.get(log_id)
            if there is None or entry != replace(
                there, created=entry.created, uploader=entry.uploader
            ):
                raise LogUnavailable(
                    f"the entry {log_id} can't be read back as it was written",
                    "look at the store of the log; restore it from a backup",
                )

    def _doubt(self, jobs: list[Job]) -> None:
        if len(self._doubtful) > _MOST_DOUBTFUL:
            self._doubtful.clear()
        for job in jobs:
            entry = job.records[0] if job.standing else None
            if isinstance(entry, Entry):
                self._doubtful[entry.digest] = entry


def _of(record: Record, log_id: str) -> Record:
    return replace(record, log_id=log_id) if isinstance(record, UploadEvent) else record


def _digest(job: Job) -> str:
    entry = job.records[0] if job.records else None
    return entry.digest if isinstance(entry, Entry) else ""


def _tell(answers: list[tuple[Job, list[str] | BaseException]]) -> None:
    """Wake whoever waits: one call into each event loop, however many they are."""
    loops = {id(job.loop): job.loop for job, _ in answers}
    for key, loop in loops.items():
        mine = [(job, answer) for job, answer in answers if id(job.loop) == key]
        with suppress(RuntimeError):  # the loop has ended, and nobody waits
            loop.call_soon_threadsafe(_settle, mine)


def _settle(answers: list[tuple[Job, list[str] | BaseException]]) -> None:
    for job, answer in answers:
        if job.done.done():
            continue
        if isinstance(answer, BaseException):
            job.done.set_exception(answer)
        else:
            job.done.set_result(answer)


def _retrieved(done: asyncio.Future[list[str]]) -> None:
    """Nobody waits for it any more; its exception is not told on standard error."""
    if not done.cancelled():
        done.exception()
