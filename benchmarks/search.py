"""How fast the administrator gets answers: searches, a report, files brought home.

python -m benchmarks.search [ENTRIES [LOG]]     a log of so many entries; LOG is made if missing
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from statistics import median

from pydicom import dcmread, dcmwrite

from benchmarks.ct import write_series
from benchmarks.filled import KEYRING, fill, patient
from deid_hooks import DeidHooks
from deid_hooks.access import AccessRecorder
from deid_hooks.admin.reidentify import Reidentifier
from deid_hooks.admin.search import report
from deid_hooks.log import Log
from deid_hooks.query.parser import parse_terms

_SEARCHES = 300
_COMMANDS = 10
_FILES, _SERIES = 400, 20


def main() -> None:
    entries = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory() as folder:
        log = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(folder, "log.db")
        if not log.exists():
            started = time.perf_counter()
            fill(log, entries)
            print(f"{entries} entries made in {time.perf_counter() - started:.0f} s")
        os.environ["DEID_HOOKS_SECRET"] = KEYRING.text()
        os.environ["DEID_HOOKS_URL"] = f"sqlite:///{log.resolve()}"
        with DeidHooks.load("benchmark") as hooks:
            _search(hooks.gate.open_log(), entries)
            _report(hooks.gate.open_log(), max(1, entries // 20))
        _command("search", f"AccessionNumber=A{entries // 2:09}")
        _command("search", patient(3)[1].replace("^", " "))
        _command("report", f"PatientID={patient(max(1, entries // 20))[0]}")
        os.environ["DEID_HOOKS_URL"] = f"sqlite:///{folder}/small.db"
        _reidentify(Path(folder))


def _search(recorder: Log, entries: int) -> None:
    chance = random.Random(7)
    patients = max(1, entries // 20)

    def day() -> str:
        return f"{chance.randrange(1995, 2026)}{chance.randrange(1, 13):02}"

    kinds: dict[str, Callable[[], str]] = {
        "exact, 1 answer (AccessionNumber)": lambda: (
            f"AccessionNumber=A{chance.randrange(entries):09}"
        ),
        "exact, 1 answer (SOPInstanceUID)": lambda: (
            f"SOPInstanceUID=1.2.840.99.{chance.randrange(entries)}.3"
        ),
        "exact, 20 answers (PatientID)": lambda: (
            f"PatientID={patient(chance.randrange(patients))[0]}"
        ),
        "prefix, first 50 (PatientID)": lambda: (
            f"PatientID={patient(chance.randrange(patients))[0][:-2]}*"
        ),
        "name, both words": lambda: patient(chance.randrange(patients))[1].replace("^", " "),
        "name, PatientName=Doe^J*": lambda: (
            f"PatientName={patient(chance.randrange(patients))[1][:-2]}*"
        ),
        "dates, a week, first 50": lambda: (lambda d: f"StudyDate={d}01-{d}07")(day()),
    }
    for name, term in kinds.items():
        times, busy, found = [], [], 0
        for _ in range(_SEARCHES):
            query = parse_terms([term()])
            started, worked = time.perf_counter(), time.process_time()
            found += sum(1 for _ in islice(recorder.search(query), 50))
            times.append((time.perf_counter() - started) * 1000)
            busy.append((time.process_time() - worked) * 1000)
        print(
            f"{name:34} p50 {_part(times, 0.5)}  p99 {_part(times, 0.99)} ms, of processor time"
            f" {_part(busy, 0.5)} and {_part(busy, 0.99)}; {found / _SEARCHES:.0f} answers"
        )


def _part(times: list[float], share: float) -> str:
    return f"{sorted(times)[int(len(times) * share)]:6.2f}"


def _report(recorder: Log, number: int) -> None:
    query = parse_terms([f"PatientID={patient(number)[0]}"])
    times, lines = [], 0
    for _ in range(5):
        started = time.perf_counter()
        lines = sum(1 for _ in report(recorder, recorder.search(query)))
        times.append((time.perf_counter() - started) * 1000)
    print(f"report of a subject, {lines} acquisitions: {median(times):.0f} ms")


def _command(*words: str) -> None:
    program = str(Path(sys.executable).with_name("deid-hooks"))
    times = []
    for _ in range(_COMMANDS):
        started = time.perf_counter()
        subprocess.run([program, *words], check=True, capture_output=True)
        times.append((time.perf_counter() - started) * 1000)
    print(
        f"deid-hooks {words[0]} {words[1].partition('=')[0]}, whole command: {median(times):.0f} ms"
    )


def _reidentify(folder: Path) -> None:
    write_series(folder / "images", _FILES, _SERIES)
    program = str(Path(sys.executable).with_name("deid-hooks"))
    quiet = {"check": True, "capture_output": True}
    subprocess.run([program, "init"], **quiet)  # type: ignore[call-overload]
    upload = [program, "upload", str(folder / "images"), f"folder:{folder}/out"]
    subprocess.run(upload, **quiet)  # type: ignore[call-overload]
    rates: dict[str, list[float]] = {"read and write": [], "reidentify": []}
    for turn in range(3):
        started = time.perf_counter()
        count = sum(1 for _ in _copied(folder / "out", folder / f"copy{turn}"))
        rates["read and write"].append(count / (time.perf_counter() - started))
        with DeidHooks.load("benchmark") as hooks:
            access = AccessRecorder(hooks.gate.open_log(), "reidentify", "")
            started = time.perf_counter()
            back = Reidentifier(access, folder / f"back{turn}", derived=False)
            count = sum(1 for each in back.run([folder / "out"]) if each.status == "restored")
            rates["reidentify"].append(count / (time.perf_counter() - started))
    for name, values in rates.items():
        print(f"{name}: {median(values):.0f} files/s")


def _copied(source: Path, target: Path) -> Iterator[Path]:
    """What reidentify does without the log: read, write durably."""
    target.mkdir()
    for path in sorted(source.rglob("*.dcm")):
        copy = target / path.name
        with copy.open("wb") as file:
            dcmwrite(file, dcmread(path))
            os.fsync(file.fileno())
        yield copy


if __name__ == "__main__":
    main()
