"""Series after series de-identified, in this process or in several."""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from deid_hooks import DeidHooksError, Pseudonyms
from deid_hooks.uploader.prepare import (
    Preparer,
    Refused,
    Staged,
    begin,
    prepare_in_worker,
)

_CHUNK = 16
"""Files that a worker process takes at a time."""


@dataclass(frozen=True, slots=True)
class Work:
    """How files are de-identified, and into which folder, with how many processes."""

    engine: str
    pseudonyms: Pseudonyms
    fields: Sequence[str]
    staging: Path
    jobs: int


def prepared(
    work: Work, series: Iterable[Sequence[Path]]
) -> Generator[list[Staged | Refused], None, None]:
    """Each series with its files de-identified, or refused, in its order.

    Close it before the staging folder is removed: its processes write there until then.
    Raises SettingsError for an engine that isn't there, DeidHooksError if a process dies.
    """
    preparing = (work.engine, work.pseudonyms, work.fields, work.staging)
    if work.jobs == 1:
        preparer = Preparer(*preparing)
        for paths in series:
            yield [preparer.prepare(path) for path in paths]
        return
    with ProcessPoolExecutor(
        work.jobs,
        mp_context=get_context("spawn"),  # a forked child would inherit the log's connection
        initializer=begin,
        initargs=preparing,
    ) as pool:
        try:
            yield from _in_order(pool, series, ahead=2 * work.jobs)
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
        with _deaf_to_interrupts():
            waiting.append(
                [pool.submit(prepare_in_worker, list(chunk)) for chunk in _batched(paths, _CHUNK)]
            )
        while sum(map(len, waiting)) > ahead:
            yield _gathered(waiting.popleft())
    while waiting:
        yield _gathered(waiting.popleft())


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Processes that begin within never hear of Ctrl-C: they end with the uploader, in silence.

    A terminal interrupts them too, even while they import, and Python prints a traceback in each.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _gathered(futures: Iterable[Future[list[Staged | Refused]]]) -> list[Staged | Refused]:
    return [each for future in futures for each in future.result()]


def _batched(paths: Sequence[Path], size: int) -> Iterator[Sequence[Path]]:
    return (paths[start : start + size] for start in range(0, len(paths), size))
