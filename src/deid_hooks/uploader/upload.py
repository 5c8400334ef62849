"""The whole job: de-identify, log, resolve, send, one series after the other.

Built on nothing but the public interface of ``deid_hooks``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from deid_hooks import (
    DeidHooks,
    DeidHooksError,
    LogError,
    LogUnavailable,
    UnableToLog,
    UploadRefused,
)
from deid_hooks.uploader.destinations import Destination, DestinationError
from deid_hooks.uploader.prepare import (
    Preparer,
    Refused,
    Staged,
    begin,
    prepare_in_worker,
)
from deid_hooks.uploader.scan import Scan
from deid_hooks.uploader.staging import staging_folder

_CHUNK = 16
"""Files that a worker process takes at a time."""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one input file.

    ``status`` is ``uploaded``, ``already there``, ``refused``, ``failed`` or ``no DICOM``;
    ``reason`` says why, without values.
    """

    path: Path
    status: str
    log_id: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Order:
    """What to do: which engine, for which project, with how many processes.

    ``again`` sends what the log knows as uploaded, too.
    """

    engine: str = "basic"
    project: str = ""
    jobs: int = 1
    again: bool = False


def upload(
    hooks: DeidHooks, scanned: Scan, destination: Destination, order: Order
) -> Iterator[Result]:
    """Deliver what was scanned; yields a result for every input file, as it is known.

    Raises LogUnavailable as soon as the log is out of reach: nothing further is sent. Call
    ``hooks.check()`` and ``destination.check()`` before.
    """
    for left in scanned.left_out:
        yield Result(left.path, left.kind, reason=left.reason)
    with staging_folder() as staging:
        series = (each.paths for each in scanned.series)
        for prepared in _prepared(hooks, series, staging, order):
            yield from _deliver(hooks, prepared, destination, order)


def _deliver(
    hooks: DeidHooks,
    prepared: Sequence[Staged | Refused],
    destination: Destination,
    order: Order,
) -> Iterator[Result]:
    staged = [each for each in prepared if isinstance(each, Staged)]
    for each in prepared:
        if isinstance(each, Refused):
            yield Result(each.path, "refused", reason=each.reason)
    try:
        if staged:
            yield from _log_and_send(hooks, staged, destination, order)
    except (UnableToLog, UploadRefused, LogError) as error:
        # A LogError comes from asking what was uploaded before: the log was lost after post_deid.
        lost = isinstance(error, LogError)
        refusal = UploadRefused([str(error).rstrip(".")]) if lost else error
        _stop_if_log_is_gone(hooks, refusal)
        yield from (Result(each.path, "refused", reason=str(refusal)) for each in staged)
    finally:
        for each in staged:
            each.staged.unlink(missing_ok=True)


def _log_and_send(
    hooks: DeidHooks, staged: Sequence[Staged], destination: Destination, order: Order
) -> list[Result]:
    with hooks.acquisition(order.project) as acquisition:
        for each in staged:
            acquisition.add(each.changes)
        log_id = acquisition.post_deid(reuse=True)
    if not order.again and hooks.outcome(log_id, destination.name) == "uploaded":
        return [Result(each.path, "already there", log_id) for each in staged]
    results = []
    with hooks.uploading(log_id, destination.name) as upload:
        for each in staged:
            result = _send(each, log_id, destination)
            results.append(result)
        try:
            destination.finish()
        except DestinationError as error:
            results = [Result(r.path, "failed", log_id, str(error)) for r in results]
        for each, result in zip(staged, results, strict=True):
            upload.sent(each.changes.deid_uid, ok=result.status != "failed")
    return results


def _send(each: Staged, log_id: str, destination: Destination) -> Result:
    try:
        delivered = destination.send(
            each.staged, each.study_uid, each.series_uid, each.changes.deid_uid
        )
    except DestinationError as error:
        return Result(each.path, "failed", log_id, str(error))
    return Result(each.path, "uploaded" if delivered == "sent" else delivered, log_id)


def _stop_if_log_is_gone(hooks: DeidHooks, error: DeidHooksError) -> None:
    """A refusal concerns one acquisition; a log that can't be reached, all that follow."""
    try:
        hooks.check()
    except DeidHooksError:
        raise LogUnavailable(str(error)) from None


def _prepared(
    hooks: DeidHooks, series: Iterable[Sequence[Path]], staging: Path, order: Order
) -> Iterator[list[Staged | Refused]]:
    pseudonyms = hooks.pseudonyms(order.project)
    fields = hooks.settings.fields
    if order.jobs == 1:
        preparer = Preparer(order.engine, pseudonyms, fields, staging)
        for paths in series:
            yield [preparer.prepare(path) for path in paths]
        return
    with ProcessPoolExecutor(
        order.jobs,
        mp_context=get_context("spawn"),  # a forked child would inherit the log's connection
        initializer=begin,
        initargs=(order.engine, pseudonyms, fields, staging),
    ) as pool:
        try:
            yield from _in_order(pool, series, ahead=2 * order.jobs)
        except BrokenProcessPool:
            raise DeidHooksError(
                "A worker process died; what was not sent yet is not sent. Run the upload again."
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _in_order(
    pool: ProcessPoolExecutor, series: Iterable[Sequence[Path]], ahead: int
) -> Iterator[list[Staged | Refused]]:
    """Series after series, while workers are at most some chunks ahead: staging takes room."""
    waiting: deque[list[Future[list[Staged | Refused]]]] = deque()
    for paths in series:
        waiting.append(
            [pool.submit(prepare_in_worker, list(chunk)) for chunk in _batched(paths, _CHUNK)]
        )
        while sum(map(len, waiting)) > ahead:
            yield _gathered(waiting.popleft())
    while waiting:
        yield _gathered(waiting.popleft())


def _gathered(futures: Iterable[Future[list[Staged | Refused]]]) -> list[Staged | Refused]:
    return [each for future in futures for each in future.result()]


def _batched(paths: Sequence[Path], size: int) -> Iterator[Sequence[Path]]:
    return (paths[start : start + size] for start in range(0, len(paths), size))
