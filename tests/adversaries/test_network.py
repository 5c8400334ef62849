"""Who is on the network may answer in the place of the service, and connect to it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.adversaries.programs import weaken
from tests.commands import run_command
from tests.whole.site import PROGRAM, Site

CAUSE = "closed\x1b]0;owned\x07\nThe log can be written: sqlite:////srv/log.db"


class Rogue(BaseHTTPRequestHandler):
    """Answers like the service, with commands for the terminal and a line that is not its own."""

    def do_GET(self) -> None:
        body = json.dumps({"kind": "LogUnavailable", "cause": CAUSE, "remedy": ""}).encode()
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def rogue() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Rogue)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"deidlog+http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def check(site: Site, url: str, program: Path = PROGRAM) -> str:
    environment = {**site.environment, "DEID_HOOKS_TOKEN": "x" * 40, "DEID_HOOKS_URL": url}
    return run_command([program, "check"], env=environment, cwd=site.folder).stderr


def test_a_rogue_service_commands_no_terminal(rogue: str, tmp_path: Path) -> None:
    said = check(Site(tmp_path, begun=False), rogue)
    assert "closed" in said
    assert not {"\x1b", "\x07"} & set(said)
    assert not any(line.startswith("The log can be written") for line in said.splitlines())


def test_twin_without_the_streams_a_rogue_service_commands_the_terminal(
    rogue: str, tmp_path: Path
) -> None:
    patch = (
        "import deid_hooks.cli.output as output\n"
        "output._Plain.write = lambda self, text: self._stream.write(text)\n"
    )
    assert "\x1b" in check(Site(tmp_path, begun=False), rogue, weaken(tmp_path, patch))
