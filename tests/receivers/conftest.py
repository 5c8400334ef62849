from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.needed import missing, program
from tests.whole.site import SERIES, Site

PATIENT = SERIES / "77654033"
"""A CR and three CT series of one patient."""

_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


class NetworkedSite(Site):
    """A site whose commands run in a network of their own."""

    def __init__(self, folder: Path, network: str) -> None:
        self.network = network
        super().__init__(folder)

    def start(
        self, *words: str, before: Sequence[str] = (), **variables: str
    ) -> subprocess.Popen[str]:
        inside = ("ip", "netns", "exec", self.network, *before)
        return super().start(*words, before=inside, **variables)


@dataclass
class Orthanc:
    """A real archive, confined to a network in which there is nothing but loopback."""

    network: str

    def ask(self, path: str) -> Any:
        command = ["curl", "-sf", f"http://127.0.0.1:8042{path}"]
        said = subprocess.run(
            ["ip", "netns", "exec", self.network, *command], capture_output=True, check=True
        )
        return json.loads(said.stdout)

    def instances(self) -> set[str]:
        found = self.ask("/instances?expand")
        return {each["MainDicomTags"]["SOPInstanceUID"] for each in found}


@pytest.fixture(scope="session")
def network() -> Iterator[str]:
    """A network namespace: Orthanc listens on all addresses, whatever it is told."""
    program("ip")
    name = f"deid-hooks-{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode:
        missing("network namespaces can't be made here")
    subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
    yield name
    subprocess.run(["ip", "netns", "delete", name], check=False)


@pytest.fixture
def orthanc(network: str, tmp_path: Path) -> Iterator[Orthanc]:
    server = program("Orthanc")
    program("curl")
    if not _PLUGIN.exists():
        missing("the DICOMweb plugin of Orthanc is not installed")
    store = tmp_path / "orthanc"
    settings = {
        "StorageDirectory": str(store),
        "IndexDirectory": str(store),
        "DicomAet": "ORTHANC",
        "DicomAlwaysAllowFind": True,
        "Plugins": [str(_PLUGIN)],
    }
    (tmp_path / "orthanc.json").write_text(json.dumps(settings))
    process = subprocess.Popen(
        ["ip", "netns", "exec", network, server, str(tmp_path / "orthanc.json")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TCP_NODELAY": "1"},
    )
    archive = Orthanc(network)
    try:
        for _ in range(200):
            listens = ["bash", "-c", "echo > /dev/tcp/127.0.0.1/4242"]
            try:
                archive.ask("/system")
                subprocess.run(
                    ["ip", "netns", "exec", network, *listens], check=True, capture_output=True
                )
                break
            except subprocess.CalledProcessError:
                time.sleep(0.1)
        else:
            pytest.fail("Orthanc did not start")
        yield archive
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "site")


@pytest.fixture
def networked(tmp_path: Path, network: str) -> Site:
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
