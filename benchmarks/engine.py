"""What the log costs: read, engine and write with and without it, series by series in turn.

python -m benchmarks.engine [FILES ROUNDS]
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median

from dicognito.anonymizer import Anonymizer
from pydicom import Dataset, dcmread, dcmwrite

from benchmarks.ct import write_series
from deid_hooks import DeidHooks, Pseudonyms
from deid_hooks.uploader.basic import engine as basic

Engine = Callable[[Dataset], object]


def without(paths: Sequence[Path], engine: Engine, target: Path) -> None:
    for path in paths:
        dataset = dcmread(path)
        engine(dataset)
        dcmwrite(target / path.name, dataset)


def with_log(hooks: DeidHooks, paths: Sequence[Path], engine: Engine, target: Path) -> None:
    with hooks.acquisition("BENCHMARK") as acquisition:
        for path in paths:
            dataset = dcmread(path)
            with acquisition.deidentifying(dataset):
                engine(dataset)
            dcmwrite(target / path.name, dataset)
        acquisition.post_deid()
    with hooks.uploading(acquisition.log_id, "folder:benchmark") as upload:
        upload.sent_all()


def seconds(job: Callable[[], None]) -> float:
    begun = time.perf_counter()
    job()
    return time.perf_counter() - begun


def main(files: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["DEID_HOOKS_SECRET"] = "ab" * 32
        write_series(folder / "ct", files, files // 20)
        target = folder / "out"
        target.mkdir()
        series = [sorted(each.iterdir()) for each in sorted((folder / "ct").iterdir())]
        log = folder / "log.db"
        with DeidHooks.load("benchmark", url=f"sqlite:///{log}") as hooks:
            hooks.init()
            engines: dict[str, Engine] = {
                "dicognito": Anonymizer(seed="s").anonymize,
                "basic": basic("", Pseudonyms("BENCHMARK", b"k" * 32)),
            }
            print(f"{'engine':<10} {'without ms':>10} {'with ms':>8} {'ours us':>8} {'share %':>8}")
            for label, engine in engines.items():
                plain, logged = [], []
                for _ in range(rounds):
                    for paths in series:
                        plain.append(seconds(partial(without, paths, engine, target)) / len(paths))
                        logged.append(
                            seconds(partial(with_log, hooks, paths, engine, target)) / len(paths)
                        )
                ours = median(b - a for a, b in zip(plain, logged, strict=True))
                base = median(plain)
                print(
                    f"{label:<10} {base * 1e3:>10.2f} {median(logged) * 1e3:>8.2f}"
                    f" {ours * 1e6:>8.0f} {ours / base * 100:>8.1f}"
                )
        print(f"bytes an instance: {log.stat().st_size / (files * rounds * 2):.0f}")


if __name__ == "__main__":
    asked = [int(word) for word in sys.argv[1:]]
    main(*(asked or (1000, 5)))
