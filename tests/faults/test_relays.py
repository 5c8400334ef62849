"""What stands between the uploader and the service of the log misbehaves, once or often."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.faults.aftermath import everything
from tests.faults.conftest import amount, chosen
from tests.faults.relays import MISDEEDS, Relay
from tests.faults.scene import Stage
from tests.faults.servers import Service, site_behind
from tests.faults.tally import LEAKED, Problem, Tally
from tests.whole.canaries import found_in

pytestmark = pytest.mark.ci

TRIES = 6
REQUESTS = 24
"""At least so many of them are made in an upload that is not disturbed."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    tries = range(TRIES if amount(metafunc.config) == "whole" else 1)
    cases = [(misdeed, number) for misdeed in MISDEEDS for number in tries]
    metafunc.parametrize(("misdeed", "number"), chosen(metafunc.config, cases, 2, len(cases)))


def test_a_relay_that_misbehaves(
    stage: Stage, tmp_path: Path, misdeed: str, number: int, tally: Tally
) -> None:
    chance = random.Random(number * 100 + MISDEEDS.index(misdeed))
    often = number % 2 == 0
    numbers = chance.sample(range(1, REQUESTS), 6 if often else 1)
    server = Service(tmp_path / "server")
    relay = Relay(server.site.port, misdeed, numbers)
    try:
        scene = site_behind(server, stage, tmp_path / "site")
        direct = scene.environment["DEID_HOOKS_URL"]
        scene.environment["DEID_HOOKS_URL"] = f"deidlog+http://127.0.0.1:{relay.port}"
        ran = scene.upload_all(DEID_HOOKS_DEADLINE="2")
        relay.behave()
        scene.environment["DEID_HOOKS_URL"] = direct
        problems = everything(scene, ran)
        if found := found_in(server.said()):
            problems.append(Problem(LEAKED, f"{len(found)} values in what the service says"))
    finally:
        relay.close()
        server.remove()
    tally(f"what stands before the service {misdeed}", relay.injected, problems)
