"""Coverage-guided fuzzing of a target.

``python -m tests.faults.guided NAME SEEDS SECONDS RANDOM``, where RANDOM is what its random numbers
begin with, 0 for others each time.
"""

from __future__ import annotations

import sys

import atheris

if __name__ == "__main__":
    name, seeds, seconds, random = sys.argv[1:]
    with atheris.instrument_imports(include=["deid_hooks"]):
        from tests.faults.targets import TARGETS
    options = [f"-max_total_time={seconds}", f"-seed={random}", "-max_len=65536"]
    options += [f"-artifact_prefix={seeds}/"]
    atheris.Setup([sys.argv[0], *options, seeds], TARGETS[name])
    atheris.Fuzz()
