"""Time what verifying a log takes, and what of it is reading the store.

python -m benchmarks.verify [ENTRIES]

Each entry has one instance and one upload event. ``read`` is reading every record with its seal,
``verify`` checks them too. Both are printed a record, with what ten million records would take.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.filled import KEYRING, fill
from deid_hooks.backends import Deadline
from deid_hooks.log import Log, make_backend
from deid_hooks.records.chain import Verification


def main() -> None:
    """Fill a log, read it and verify it five times, and print the medians."""
    entries = int(sys.argv[1]) if sys.argv[1:] else 20_000
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder, "log.db"), entries)
        log = Log(make_backend(f"sqlite:///{folder}/log.db"), KEYRING, 60)
        reads, wholes = [], []
        for _ in range(5):
            began = time.perf_counter()
            records = sum(1 for _ in log.backend.chain(Deadline(60)))
            reads.append((time.perf_counter() - began) / records)
            began = time.perf_counter()
            assert list(log.verify(Verification(log.sealer))) == []
            wholes.append((time.perf_counter() - began) / records)
        log.close()
    read, whole = median(reads), median(wholes)
    print("| records | read us | verify us | of read | 10 million, minutes |")
    print("|---|---|---|---|---|")
    print(
        f"| {records:,} | {read * 1e6:.0f} | {whole * 1e6:.0f} | {whole / read:.2f}"
        f" | {whole * 1e7 / 60:.0f} |"
    )


if __name__ == "__main__":
    main()
