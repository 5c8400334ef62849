from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.networks import network_of_its_own
from tests.orthanc import Orthanc
from tests.whole.site import SERIES, Site

PATIENT = SERIES / "77654033"
"""A CR and three CT series of one patient."""


class NetworkedSite(Site):
    """A site whose commands run in a network of their own."""

    def __init__(self, folder: Path, network: tuple[str, ...]) -> None:
        self.network = network
        super().__init__(folder)

    def start(
        self, *words: str, before: Sequence[str] = (), **variables: str
    ) -> subprocess.Popen[str]:
        return super().start(*words, before=(*self.network, *before), **variables)

    def run(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*words, **variables)
        out, err = process.communicate(timeout=100)
        return subprocess.CompletedProcess(words, process.returncode, out, err)


@pytest.fixture(scope="session")
def network() -> Iterator[tuple[str, ...]]:
    with network_of_its_own() as made:
        yield made


@pytest.fixture
def orthanc(network: tuple[str, ...], tmp_path: Path) -> Iterator[Orthanc]:
    archive = Orthanc(network, tmp_path / "orthanc")
    try:
        yield archive.start()
    finally:
        archive.stop()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "site")


@pytest.fixture
def networked(tmp_path: Path, network: tuple[str, ...]) -> Site:
    return NetworkedSite(tmp_path / "site", network)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


Archive = Callable[..., Any]


@pytest.fixture
def port() -> int:
    return free_port()


@contextmanager
def archive(
    port: int, folder: Path, how: str = "behaves", certificates: Sequence[Path] = ()
) -> Iterator[None]:
    """The stand-in of ``misbehaving.py``, at this port while the block runs."""
    folder.mkdir(exist_ok=True)
    script = Path(__file__).with_name("misbehaving.py")
    process = subprocess.Popen(
        [sys.executable, str(script), str(port), str(folder), how, *certificates],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield
    finally:
        process.kill()
        process.communicate()
