"""A real archive: Orthanc, in a network in which there is nothing but loopback."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.needed import missing, program

DICOM, DICOMWEB = "dicom://ORTHANC@127.0.0.1:4242", "dicomweb+http://127.0.0.1:8042/dicom-web"

_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
_REST = "http://127.0.0.1:8042"


class Orthanc:
    """An Orthanc that keeps what it is sent below ``folder``. It listens on all addresses of the
    network that the words ``network`` lead to, whatever it is told."""

    def __init__(self, network: tuple[str, ...], folder: Path) -> None:
        self.network, self._server = network, program("Orthanc")
        program("curl")
        if not _PLUGIN.exists():
            missing("the DICOMweb plugin of Orthanc is not installed")
        folder.mkdir()
        settings = {
            "StorageDirectory": str(folder / "store"),
            "IndexDirectory": str(folder / "store"),
            "DicomAet": "ORTHANC",
            "DicomAlwaysAllowFind": True,
            "Plugins": [str(_PLUGIN)],
        }
        self._settings = folder / "orthanc.json"
        self._settings.write_text(json.dumps(settings))

    def start(self) -> Orthanc:
        """Start it, and wait until it takes associations and requests."""
        self.process = subprocess.Popen(
            [*self.network, self._server, str(self._settings)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "TCP_NODELAY": "1"},
        )
        listens = [*self.network, "bash", "-c", "echo > /dev/tcp/127.0.0.1/4242"]
        for _ in range(200):
            try:
                self.ask("/system")
                subprocess.run(listens, check=True, capture_output=True)
            except subprocess.CalledProcessError:
                time.sleep(0.1)
            else:
                return self
        pytest.fail("Orthanc did not start")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)

    def fetch(self, path: str) -> bytes:
        """What is at a path of its REST API."""
        command = [*self.network, "curl", "-sf", _REST + path]
        return subprocess.run(command, capture_output=True, check=True).stdout

    def ask(self, path: str) -> Any:
        """The JSON at a path of its REST API."""
        return json.loads(self.fetch(path))

    def delete(self, path: str) -> None:
        """Delete what is at a path of its REST API."""
        command = [*self.network, "curl", "-sf", "-X", "DELETE", _REST + path]
        subprocess.run(command, check=True)

    def instances(self) -> set[str]:
        """The SOP Instance UIDs of what it holds."""
        found = self.ask("/instances?expand")
        return {each["MainDicomTags"]["SOPInstanceUID"] for each in found}
