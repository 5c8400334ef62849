"""Behind the service the log keeps the whole contract.

With an administrator's token that keeps the trail itself, or the service would add records for
what the kit reads.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.commands import Command

from deid_hooks.testing import BackendConformance
from deid_hooks_service.tokens import Tokens


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL under which the service makes a log of any name."""
    folder = tmp_path_factory.mktemp("stores")
    token = Tokens(folder / "tokens.json").add("kit", "admin", keeps_trail=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = Path(__file__).with_name("stores.py")
    process = Command([program, folder, str(port)], env=os.environ)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEID_HOOKS_TOKEN", token)
        while True:
            assert process.poll() is None, "the service did not start"
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.05)
        yield f"deidlog+http://127.0.0.1:{port}"
    process.send_signal(signal.SIGTERM)
    process.wait()


@pytest.mark.ci
class TestBehindTheService(BackendConformance):
    @pytest.fixture
    def url(self, stores: str) -> str:
        return f"{stores}/{os.urandom(8).hex()}"
