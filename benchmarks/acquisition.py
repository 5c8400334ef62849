"""Time what logging a whole acquisition takes, after it is de-identified.

python -m benchmarks.acquisition [ACQUISITIONS ROUNDS] [URL]

An acquisition of 20 instances: its label, the entry, resolved, cleared, uploaded, with 1 and with 8
threads. Beside it, in turn, ``commits``: three appends of one upload event, which is what the store
takes for three durable writes. To compare two versions run each in turn, several times.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

from dicognito.anonymizer import Anonymizer

from benchmarks.ct import dataset
from deid_hooks import DeidHooks, capture, changes
from deid_hooks.dicom.difference import Changes
from deid_hooks.records.model import UploadEvent, make_log_id, read_clock


def main() -> None:
    """Time both, and print a row for each number of threads."""
    count, rounds = (int(word) for word in sys.argv[1:3]) if sys.argv[2:] else (100, 7)
    os.environ["DEID_HOOKS_SECRET"] = "ab" * 32
    engine = Anonymizer(seed="s").anonymize
    gathered = [find_changes(number, engine) for number in range(20)]
    print("| threads | commits us | acquisition us | ratio |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        url = sys.argv[3] if sys.argv[3:] else f"sqlite:///{Path(folder, 'log.db')}"
        with DeidHooks.load("benchmark", url=url) as hooks:
            hooks.init()
            log_all(hooks, gathered, count, 1)
            for threads in (1, 8):
                commits, wholes = [], []
                for _ in range(rounds):
                    commits.append(commit_all(hooks, count, threads))
                    wholes.append(log_all(hooks, gathered, count, threads))
                bare, whole = median(commits), median(wholes)
                print(f"| {threads} | {bare:.0f} | {whole:.0f} | {whole / bare:.3f} |", flush=True)


def find_changes(number: int, engine: object) -> Changes:
    """Return what an engine changes in one instance of a series."""
    original = dataset(1, 1, number, b"\0\0")
    before = capture(original)
    engine(original)  # type: ignore[operator]
    return changes(before, original)


def log_all(hooks: DeidHooks, gathered: list[Changes], count: int, threads: int) -> float:
    """Log acquisitions; return how many microseconds one takes, of all threads together."""

    def log(number: int) -> None:
        hooks.subject("TRIAL7", f"PATIENT {number}")
        with hooks.acquisition("TRIAL7") as acquisition:
            for each in gathered:
                acquisition.add_changes(each)
            acquisition.post_deid()
        with hooks.uploading(acquisition.log_id, destination="folder:/archive") as upload:
            upload.sent_all()

    return time_each(log, count, threads)


def commit_all(hooks: DeidHooks, count: int, threads: int) -> float:
    """Append three events one by one for each acquisition; return the microseconds of one."""
    log = hooks.gate.open_log()

    def commit(number: int) -> None:
        log_id = make_log_id()
        for event in ("cleared", "uploaded", "withdrawn"):
            log.append([UploadEvent(log_id, read_clock(), event, "folder:/archive", "benchmark")])

    return time_each(commit, count, threads)


def time_each(job: object, count: int, threads: int) -> float:
    """Run a job so many times in so many threads; return the microseconds of one."""
    begun = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(job, range(count)))  # type: ignore[arg-type]
    return (time.perf_counter() - begun) / count * 1e6


if __name__ == "__main__":
    main()
