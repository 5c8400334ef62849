"""Database servers of the tests' own: on loopback, on free ports, in a folder that goes with them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg

_USER = "nobody"  # servers refuse to run as root


def free_port() -> int:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return int(made.getsockname()[1])


class PostgreSQLServer:
    """A PostgreSQL server, from the wheel unless the folder of other programs is given."""

    def __init__(self, programs: Path | None = None, **settings: str) -> None:
        self.programs = programs or _programs_of_the_wheel()
        self.folder = Path(tempfile.mkdtemp(prefix="deid-hooks-pg-"))
        self.data = self.folder / "data"
        self.log = self.folder / "log"
        self.port = free_port()
        self.settings = settings
        self.process: subprocess.Popen[bytes] | None = None
        if os.geteuid() == 0:
            shutil.chown(self.folder, _USER)

    def initialise(self) -> PostgreSQLServer:
        self.run(
            "initdb", "-D", str(self.data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "-N"
        )
        rules = ["local all all trust", "host all guarded 127.0.0.1/32 scram-sha-256"]
        rules += ["host all all 127.0.0.1/32 trust", "host replication all 127.0.0.1/32 trust"]
        (self.data / "pg_hba.conf").write_text("\n".join(rules) + "\n")
        return self

    def start(self) -> PostgreSQLServer:
        settings = {"shared_buffers": "32MB", "max_connections": "60", **self.settings}
        options = [f"-c{name}={value}" for name, value in settings.items()]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(self.programs / "postgres", "-D", self.data, "-p", str(self.port)),
                    *("-h", "127.0.0.1", "-k", self.folder, *options),
                ],
                stdout=log,
                stderr=log,
                **_as_user(),
            )
        for _ in range(600):
            with contextlib.suppress(psycopg.OperationalError), self.connect():
                return self
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        raise AssertionError(self.log.read_text())

    def run(self, program: str, *arguments: str) -> None:
        command = [str(self.programs / program), *arguments]
        subprocess.run(command, check=True, capture_output=True, **_as_user())

    def url(self, database: str = "postgres", user: str = "postgres", more: str = "") -> str:
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}{more}"

    def connect(self, database: str = "postgres") -> psycopg.Connection[Any]:
        return psycopg.connect(self.url(database), autocommit=True, connect_timeout=2)

    def do(self, *statements: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = []
        with self.connect(database) as connection:
            for statement in statements:
                cursor = connection.execute(statement)  # type: ignore[call-overload]
                rows = cursor.fetchall() if cursor.description else []
        return rows

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the server and all its processes."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        for pid in (self.process.pid, *map(int, children.split())):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """End the server: fast, or as a crash would with SIGKILL."""
        if self.process is not None:
            self.send(number) if number is signal.SIGKILL else self.process.send_signal(number)
            self.process.wait(30)
            self.process = None

    def remove(self) -> None:
        self.stop(signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)


def _programs_of_the_wheel() -> Path:
    from pgserver._commands import POSTGRES_BIN_PATH
    from pgserver.utils import ensure_prefix_permissions

    if os.geteuid() == 0:
        ensure_prefix_permissions(POSTGRES_BIN_PATH)
    return Path(POSTGRES_BIN_PATH)


def _as_user() -> dict[str, Any]:
    return {"user": _USER, "group": "nogroup"} if os.geteuid() == 0 else {}
