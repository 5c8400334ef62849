"""How much of the campaign runs, and the table at its end.

``--faults`` is ``sample`` (a few of each fault; most only with ``--ci``), ``share`` (for CI) or
``whole``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.faults.scene import Scene, Stage, make_stage
from tests.faults.tally import Problem, Tally, Try, table

Case = TypeVar("Case")


def chosen(config: pytest.Config, cases: Sequence[Case], sample: int, share: int) -> Sequence[Case]:
    """The cases of this run, evenly spread over all of them."""
    wanted = {"sample": sample, "share": share, "whole": len(cases)}[amount(config)]
    count = min(wanted, len(cases))
    return [cases[number * len(cases) // count] for number in range(count)]


def amount(config: pytest.Config) -> str:
    """How much of the campaign runs: ``sample``, ``share`` or ``whole``."""
    return str(config.getoption("--faults", "sample"))


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    return make_stage(tmp_path_factory.mktemp("stage"))


@pytest.fixture
def scene(stage: Stage, tmp_path: Path) -> Scene:
    return stage.site(tmp_path / "site")


@pytest.fixture
def tally(record_property: Any) -> Tally:
    def count(fault: str, injected: int, problems: Iterable[Problem]) -> None:
        found = list(problems)
        kinds = [each.kind for each in found]
        record_property("try", json.dumps([fault, injected, kinds]))
        assert injected, "the fault was not injected"
        assert not found, "\n".join(f"{each.kind}: {each.what}" for each in found)

    return count


def pytest_terminal_summary(terminalreporter: Any) -> None:
    tries = []
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, ()):
            for name, value in getattr(report, "user_properties", ()):
                if name == "try" and report.when == "call":
                    fault, injected, kinds = json.loads(value)
                    tries.append(Try(fault, injected, tuple(kinds)))
    if tries:
        terminalreporter.section("what the faults did")
        terminalreporter.write_line(table(tries))
