"""The kit notices every backend that breaks a rule, by the test that is about that rule."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.backends.conformance.broken import MUST_FAIL

pytestmark = pytest.mark.ci

SUITE = "tests/backends/conformance/suite_of_broken.py"
SOUND = "test_a_new_store_holds_nothing"
"""A test that every broken backend passes: it is not the kit that is broken."""


@pytest.fixture(scope="module")
def outcomes() -> dict[str, str]:
    """Of each test that must fail, and of the one that must pass: what came of it."""
    wanted = [
        f"{SUITE}::Test{kind.__name__}::{test}"
        for kind, tests in MUST_FAIL.items()
        for test in (*tests, SOUND)
    ]
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-n0",
            "-p",
            "no:cacheprovider",
            "-rA",
            "--tb=no",
            *wanted,
        ],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
    )
    lines = [line.split(" ", 1) for line in run.stdout.splitlines()]
    return {
        line[1].partition(" - ")[0].strip(): line[0]
        for line in lines
        if line[0] in ("PASSED", "FAILED", "ERROR")
    }


@pytest.mark.parametrize(
    ("kind", "test"), [(kind.__name__, test) for kind, tests in MUST_FAIL.items() for test in tests]
)
def test_the_kit_notices_what_is_broken(outcomes: dict[str, str], kind: str, test: str) -> None:
    assert outcomes.get(f"{SUITE}::Test{kind}::{test}") == "FAILED"
    assert outcomes.get(f"{SUITE}::Test{kind}::{SOUND}") == "PASSED"
