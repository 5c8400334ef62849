"""What the log costs: read, engine and write with and without it, in turn.

python -m benchmarks.engine [FILES ROUNDS]
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

from dicognito.anonymizer import Anonymizer
from pydicom import Dataset, dcmread, dcmwrite

from benchmarks.ct import write_series
from deid_hooks import Changes, DeidHooks, Pseudonyms, capture, changes
from deid_hooks.engines.basic import engine as basic

Engine = Callable[[Dataset], object]
Series = list[list[Path]]

_A_SERIES = 20
_SERIES_A_TURN = 10
"""With two processes: enough that neither waits for work."""


@cache
def engine(name: str) -> Engine:
    if name == "dicognito":
        return Anonymizer(seed="s").anonymize
    return basic("", Pseudonyms("BENCHMARK", b"k" * 32))


def without(name: str, target: Path, paths: Sequence[Path]) -> None:
    for path in paths:
        dataset = dcmread(path)
        engine(name)(dataset)
        dcmwrite(target / path.name, dataset)


def with_changes(name: str, target: Path, paths: Sequence[Path]) -> list[Changes]:
    """What a worker process does."""
    found = []
    for path in paths:
        dataset = dcmread(path)
        original = capture(dataset)
        engine(name)(dataset)
        found.append(changes(original, dataset))
        dcmwrite(target / path.name, dataset)
    return found


def log(hooks: DeidHooks, gathered: Sequence[Changes]) -> None:
    with hooks.acquisition("BENCHMARK") as acquisition:
        for each in gathered:
            acquisition.add_changes(each)
        acquisition.post_deid()
    with hooks.uploading(acquisition.log_id, "folder:benchmark") as upload:
        upload.sent_all()


def with_log(hooks: DeidHooks, name: str, target: Path, paths: Sequence[Path]) -> None:
    """What an uploader of one process does."""
    with hooks.acquisition("BENCHMARK") as acquisition:
        for path in paths:
            dataset = dcmread(path)
            with acquisition.deidentifying(dataset):
                engine(name)(dataset)
            dcmwrite(target / path.name, dataset)
        acquisition.post_deid()
    with hooks.uploading(acquisition.log_id, "folder:benchmark") as upload:
        upload.sent_all()


def in_one(hooks: DeidHooks, name: str, target: Path, series: Series) -> Iterator[list[float]]:
    """Seconds an instance without and with the log, series by series."""
    for number, paths in enumerate(series):
        jobs = [
            partial(without, name, target, paths),
            partial(with_log, hooks, name, target, paths),
        ]
        yield [taken / len(paths) for taken in in_turn(jobs, number)]


def in_two(
    hooks: DeidHooks, name: str, targets: ProcessPoolExecutor, folder: Path, series: Series
) -> Iterator[list[float]]:
    """The same, some series at a time, when two processes work and this one logs."""

    def plain(some: Series) -> None:
        list(targets.map(partial(without_in_worker, name, folder), some))

    def logged(some: Series) -> None:
        for gathered in targets.map(partial(with_changes_in_worker, name, folder), some):
            log(hooks, gathered)

    for number, start in enumerate(range(0, len(series), _SERIES_A_TURN)):
        some = series[start : start + _SERIES_A_TURN]
        instances = sum(map(len, some))
        jobs = [partial(plain, some), partial(logged, some)]
        yield [taken / instances for taken in in_turn(jobs, number)]


def without_in_worker(name: str, folder: Path, paths: Sequence[Path]) -> None:
    without(name, own(folder), paths)


def with_changes_in_worker(name: str, folder: Path, paths: Sequence[Path]) -> list[Changes]:
    return with_changes(name, own(folder), paths)


def steps(hooks: DeidHooks, name: str, target: Path, paths: Sequence[Path]) -> dict[str, float]:
    """Seconds an instance of each step of ours, between everything else that is done."""
    taken = dict.fromkeys(("capture", "changes", "entry", "append", "clear", "outcome"), 0.0)

    def timed(step: str, job: Callable[[], Any]) -> Any:
        begun = time.perf_counter()
        answer = job()
        taken[step] += (time.perf_counter() - begun) / len(paths)
        return answer

    with hooks.acquisition("BENCHMARK") as acquisition:
        for path in paths:
            dataset = dcmread(path)
            original = timed("capture", partial(capture, dataset))
            engine(name)(dataset)
            timed("changes", partial(acquisition.add, original, dataset))
            dcmwrite(target / path.name, dataset)
        timed("entry", acquisition.event)
        timed("append", acquisition.post_deid)
    upload = hooks.uploading(acquisition.log_id, "folder:benchmark")
    timed("clear", upload.__enter__)
    upload.sent_all()
    timed("outcome", partial(upload.__exit__, None, None, None))
    return taken


def own(folder: Path) -> Path:
    """No two processes write the same file."""
    target = folder / str(os.getpid())
    target.mkdir(exist_ok=True)
    return target


def in_turn(jobs: Sequence[Callable[[], object]], number: int) -> list[float]:
    """Seconds of each job; every other time the last goes first."""
    taken = [0.0] * len(jobs)
    for place in range(len(jobs)) if number % 2 else reversed(range(len(jobs))):
        begun = time.perf_counter()
        jobs[place]()
        taken[place] = time.perf_counter() - begun
    return taken


def main(files: int, rounds: int) -> None:
    os.environ["DEID_HOOKS_SECRET"] = "ab" * 32
    with tempfile.TemporaryDirectory() as name, ProcessPoolExecutor(2, get_context("spawn")) as two:
        folder = Path(name)
        write_series(folder / "ct", files, files // _A_SERIES)
        target = folder / "out"
        target.mkdir()
        series = [sorted(each.iterdir()) for each in sorted((folder / "ct").iterdir())]
        store = folder / "log.db"
        with DeidHooks.load("benchmark", url=f"sqlite:///{store}") as hooks:
            hooks.init()
            head = f"{'without ms':>10} {'with ms':>8} {'ours us':>8} {'share %':>8}"
            print(f"{'engine':<10} {'processes':>9} {head}")
            for engine_name in ("dicognito", "basic"):
                for processes, job in (
                    (1, partial(in_one, hooks, engine_name, target, series)),
                    (2, partial(in_two, hooks, engine_name, two, target, series)),
                ):
                    for _ in job():  # once to warm up
                        pass
                    pairs = [pair for _ in range(rounds) for pair in job()]
                    plain, logged = (median(side) for side in zip(*pairs, strict=True))
                    ours = median(b - a for a, b in pairs)
                    share = median((b - a) / a for a, b in pairs)
                    print(
                        f"{engine_name:<10} {processes:>9} {plain * 1e3:>10.2f}"
                        f" {logged * 1e3:>8.2f} {ours * 1e6:>8.0f} {share * 100:>8.1f}"
                    )
            print("\nwhere ours goes, us an instance")
            for engine_name in ("dicognito", "basic"):
                found = [steps(hooks, engine_name, target, paths) for paths in series]
                each = {step: median(taken[step] for taken in found) * 1e6 for step in found[0]}
                print(engine_name, *(f"{step} {us:.0f}" for step, us in each.items()), sep="  ")
        logged_instances = files * ((rounds + 1) * 4 + 2)
        print(f"\nbytes an instance in the store: {store.stat().st_size / logged_instances:.0f}")


if __name__ == "__main__":
    asked = [int(word) for word in sys.argv[1:]]
    main(*(asked or (1000, 5)))
