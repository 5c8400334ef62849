"""How long commands of ``deid-hooks`` take as whole processes, warm and compiled, in turn.

python -m benchmarks.startup [ROUNDS]
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from dicognito.anonymizer import Anonymizer

from benchmarks.ct import dataset
from deid_hooks import DeidHooks


def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        log_id = _log(Path(name))
        command = [sys.executable, "-m", "deid_hooks.cli"]
        script = Path(sys.executable).with_name("deid-hooks")
        command = [str(script)] if script.exists() else command
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "deid-hooks --help": [*command, "--help"],
            "deid-hooks check": [*command, "check"],
            "deid-hooks show": [*command, "show", log_id],
            "deid-hooks search": [*command, "search", "Tester007"],
        }
        taken: dict[str, list[float]] = {label: [] for label in commands}
        for number in range(rounds + 1):
            for label, words in commands.items():
                begun = time.perf_counter()
                subprocess.run(words, check=True, capture_output=True)
                if number:  # the first round compiles and warms up
                    taken[label].append(time.perf_counter() - begun)
    print(f"{'command':<18} {'ms':>6}")
    for label, seconds in taken.items():
        print(f"{label:<18} {median(seconds) * 1e3:>6.0f}")


def _log(folder: Path) -> str:
    """A log of a hundred series of ten images; the id of one."""
    url = f"sqlite:///{folder / 'log.db'}"
    os.environ |= {"DEID_HOOKS_SECRET": "ab" * 32, "DEID_HOOKS_URL": url}
    engine = Anonymizer(seed="s").anonymize
    with DeidHooks.load("benchmark") as hooks:
        hooks.init()
        for number in range(100):
            with hooks.acquisition("BENCHMARK") as acquisition:
                for instance in range(10):
                    ct = dataset(number, number, instance, b"\0\0")
                    with acquisition.deidentifying(ct):
                        engine(ct)
                log_id = acquisition.post_deid()
    return log_id


if __name__ == "__main__":
    asked = [int(word) for word in sys.argv[1:]]
    main(*(asked or (15,)))
