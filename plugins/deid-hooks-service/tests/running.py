"""For the tests: a site with a log, tokens, and the real service in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from tests.commands import BIN, Command, run_command

from deid_hooks.log import Log, make_backend
from deid_hooks.records.keys import read_keyring
from deid_hooks_http import HTTPBackend
from deid_hooks_service.tokens import Tokens

__all__ = ["BIN", "Command", "Site", "free_port", "lines", "packfile"]


def free_port() -> int:
    """A port on loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Site:
    """A folder with settings, a log in SQLite and tokens; ``start`` runs the service on it."""

    def __init__(self, folder: Path, deadline: float = 10.0) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "log.db"
        self.tokens = Tokens(folder / "service-tokens.json")
        (folder / "deid-hooks.toml").write_text(
            f'url = "sqlite:///{self.log}"\nsecret_file = "{folder}/secret"\n'
            f"deadline = {deadline}\n"
        )
        self.environment = {**os.environ, "DEID_HOOKS_CONFIG": str(folder / "deid-hooks.toml")}
        self.process: Command | subprocess.Popen[bytes] | None = None
        made = self.run("deid-hooks", "init", DEID_HOOKS_DEADLINE="60")
        assert made.returncode == 0, made.stderr

    def run(self, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
        """A command of ours, with the settings of the site."""
        words = [str(BIN / command[0]), *command[1:]]
        return run_command(words, env={**self.environment, **more}, cwd=Path.cwd())

    def start(self, *options: str, program: Path = BIN / "deid-hooks-service") -> Site:
        """Run the service, or another program in its place, and return once it listens."""
        with (self.folder / "service.log").open("ab") as log:
            words = ["serve", "--port", str(self.port), *options]
            self.process = Command([program, *words], env=self.environment, stderr=log)
        while True:
            assert self.process.poll() is None, self.said()
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return self
            except OSError:
                time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End the service; its exit code."""
        if self.process is None:
            return 0
        self.process.send_signal(how)
        self.process.send_signal(signal.SIGCONT)
        process, self.process = self.process, None
        return process.wait(30)

    def said(self) -> str:
        """What the service has written to its log."""
        return (self.folder / "service.log").read_text()

    def token(self, role: str, *projects: str, **more: Any) -> str:
        """A new token of this role."""
        name = f"{role}-{len(self.tokens.all())}"
        return self.tokens.add(name, role, projects=projects, **more)

    def client(self, token: str) -> httpx.Client:
        """A client of the service's interface."""
        return httpx.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {token}"}, timeout=30
        )

    def backend(self) -> HTTPBackend:
        """The log through the service, with the token of the environment."""
        return HTTPBackend(f"deidlog+{self.url}")

    @property
    def recorder(self) -> Log:
        """The log itself, past the service."""
        keyring = read_keyring(self.folder / "secret")
        assert keyring is not None
        return Log(make_backend(f"sqlite:///{self.log}"), keyring)


def lines(answer: httpx.Response) -> Iterator[dict[str, Any]]:
    """The lines of a long answer, which must be whole."""
    assert answer.status_code == 200, answer.text
    *rows, last = [json.loads(line) for line in answer.text.splitlines()]
    assert last == {"end": True}
    yield from rows


def packfile(**fields: str) -> dict[str, Any]:
    """What the Flywheel CLI posts of one."""
    return {"indexed_fields": fields, "deidentified_tags": {}}
