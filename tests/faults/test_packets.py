"""Packets between the uploader and the service are dropped, from any byte of their talk on."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.faults.aftermath import everything
from tests.faults.conftest import amount
from tests.faults.scene import Ran, Stage
from tests.faults.servers import Service, site_behind
from tests.faults.tally import LEAKED, Problem, Tally
from tests.needed import program
from tests.networks import network_of_its_own
from tests.whole.canaries import found_in

pytestmark = pytest.mark.ci

TRIES = {"sample": 1, "share": 5, "whole": 40}
RULES = """
table inet faults {{
  chain arriving {{
    type filter hook input priority 0;
    tcp {way} {port} counter quota over {limit} bytes counter drop
  }}
}}
"""
WAYS = {"requests": "dport", "replies": "sport"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    metafunc.parametrize("way", WAYS)
    metafunc.parametrize("number", range(TRIES[amount(metafunc.config)]))


class Network:
    """A network of its own, in which the service listens and the uploader runs."""

    def __init__(self, prefix: tuple[str, ...]) -> None:
        self.prefix = prefix
        self._nft = (*prefix, program("nft"))

    def drop(self, way: str, port: int, limit: int) -> None:
        """Drop packets of one way, after so many bytes of them."""
        rules = RULES.format(way=WAYS[way], port=port, limit=limit)
        subprocess.run([*self._nft, "-f", "-"], input=rules, text=True, check=True)

    def stop_dropping(self) -> tuple[int, int]:
        """How many bytes came since, and how many packets were dropped."""
        told = subprocess.run(
            [*self._nft, "-j", "list", "ruleset"], capture_output=True, text=True, check=True
        )
        rules = [each["rule"] for each in json.loads(told.stdout)["nftables"] if "rule" in each]
        came, dropped = [each["counter"] for each in rules[0]["expr"] if "counter" in each]
        subprocess.run([*self._nft, "flush", "ruleset"], check=True)
        return came["bytes"], dropped["packets"]


class NetworkedService(Service):
    """The service in a network of its own, and a site there that has uploaded the first series."""

    def __init__(self, stage: Stage, folder: Path, network: Network) -> None:
        folder.mkdir()
        super().__init__(folder / "server")
        self.site.stop()
        self._network = network
        command = [str(Path(sys.executable).with_name("deid-hooks-service")), "serve"]
        with (folder / "server" / "service.log").open("ab") as log:
            self.site.process = subprocess.Popen(
                [*network.prefix, *command, "--port", str(self.site.port)],
                env=self.site.environment,
                stderr=log,
            )
        listens = [*network.prefix, "bash", "-c", f": < /dev/tcp/127.0.0.1/{self.site.port}"]
        while subprocess.run(listens, capture_output=True).returncode:
            time.sleep(0.05)
        self.scene = site_behind(self, stage, folder / "site", *network.prefix)

    def upload(self) -> Ran:
        return self.scene.upload_all(*self._network.prefix, DEID_HOOKS_DEADLINE="2")


@pytest.fixture(scope="session")
def traffic(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """The bytes of requests and of replies of an undisturbed upload."""
    folder = tmp_path_factory.mktemp("traffic")
    told = {}
    with network_of_its_own() as prefix:
        network = Network(prefix)
        for way in WAYS:
            service = NetworkedService(stage, folder / way, network)
            network.drop(way, service.site.port, 1 << 30)
            assert service.upload().code == 0
            told[way], dropped = network.stop_dropping()
            assert not dropped
            service.remove()
    return told


def test_packets_that_are_dropped(
    stage: Stage,
    tmp_path: Path,
    traffic: dict[str, int],
    way: str,
    number: int,
    pytestconfig: pytest.Config,
    tally: Tally,
) -> None:
    stages = TRIES[amount(pytestconfig)]
    with network_of_its_own() as prefix:
        network = Network(prefix)
        service = NetworkedService(stage, tmp_path / "sites", network)
        try:
            network.drop(way, service.site.port, traffic[way] * (2 * number + 1) // (2 * stages))
            ran = service.upload()
            _, dropped = network.stop_dropping()
            problems = everything(service.scene, ran, service.upload)
            if found := found_in(service.site.said()):
                problems.append(Problem(LEAKED, f"{len(found)} values in what the service says"))
        finally:
            service.remove()
    tally(f"{way} to the service dropped", int(dropped > 0), problems)
