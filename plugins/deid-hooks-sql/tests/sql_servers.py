"""Database servers of the tests: on loopback, on free ports, in folders that go with them."""

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
from typing import Any, ClassVar

import psycopg
import pymysql

_USER = "nobody"  # servers refuse to run as root


def free_port() -> int:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return int(made.getsockname()[1])


class Server:
    """A process of a server, its folder, and how to stop it."""

    room: ClassVar[Path | None] = None
    """Where the folders of servers are; the memory of the machine, if None and if it has some."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="deid-hooks-", dir=self.room or _memory()))
        self.log = self.folder / "log"
        self.port = free_port()
        self.process: subprocess.Popen[Any] | None = None
        if os.geteuid() == 0:
            shutil.chown(self.folder, _USER)

    def launch(self, command: list[str]) -> None:
        """Start the server and wait until it answers."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, **_as_user())
        for _ in range(600):
            if self.answers():
                return
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        raise AssertionError(self.log.read_text())

    def answers(self) -> bool:
        raise NotImplementedError

    def run(self, program: str | Path, *arguments: str) -> None:
        command = [str(program), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, **_as_user())
        assert done.returncode == 0, done.stdout + done.stderr

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the server and all its processes."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        for pid in (self.process.pid, *map(int, children.split())):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
                while number is signal.SIGSTOP and not _is_stopped(pid):
                    time.sleep(0.001)

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """End the server: fast, or as a crash would with SIGKILL."""
        if self.process is not None:
            self.send(number) if number is signal.SIGKILL else self.process.send_signal(number)
            self.process.wait(30)
            self.process = None

    def remove(self) -> None:
        self.stop(signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)


class PostgreSQLServer(Server):
    """A PostgreSQL server, from the wheel unless the folder of other programs is given."""

    def __init__(self, programs: Path | None = None, **settings: str) -> None:
        super().__init__()
        self.programs = programs or _programs_of_the_wheel()
        self.data = self.folder / "data"
        # A server that is killed leaves nothing outside its folder.
        memory = {"shared_buffers": "32MB", "dynamic_shared_memory_type": "mmap"}
        self.settings = {**memory, "max_connections": "60", **settings}

    def initialise(self) -> PostgreSQLServer:
        options = ("-U", "postgres", "-A", "trust", "-E", "UTF8", "-N")
        self.run(self.programs / "initdb", "-D", str(self.data), *options)
        rules = ["local all all trust", "host all guarded 127.0.0.1/32 scram-sha-256"]
        rules += ["host all all 127.0.0.1/32 trust", "host replication all 127.0.0.1/32 trust"]
        (self.data / "pg_hba.conf").write_text("\n".join(rules) + "\n")
        return self

    def start(self) -> PostgreSQLServer:
        options = [f"-c{name}={value}" for name, value in self.settings.items()]
        place = ["-D", str(self.data), "-p", str(self.port), "-h", "127.0.0.1"]
        self.launch([str(self.programs / "postgres"), *place, "-k", str(self.folder), *options])
        return self

    def answers(self) -> bool:
        with contextlib.suppress(psycopg.OperationalError), self.connect():
            return True
        return False

    def url(self, database: str = "postgres", user: str = "postgres", more: str = "") -> str:
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}{more}"

    def connect(self, database: str = "postgres") -> psycopg.Connection[Any]:
        return psycopg.connect(self.url(database), autocommit=True, connect_timeout=2)

    def do(self, *statements: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """What the last of these statements gives."""
        rows: list[tuple[Any, ...]] = []
        with self.connect(database) as connection:
            for statement in statements:
                cursor = connection.execute(statement)
                rows = cursor.fetchall() if cursor.description else []
        return rows


class MariaDBServer(Server):
    """A MariaDB server, of the programs that are installed."""

    def start(self) -> MariaDBServer:
        data = self.folder / "data"
        # A server that starts removes all temporary tables there, those of others too.
        temporary = f"--tmpdir={self._temporary()}"
        install = shutil.which("mariadb-install-db") or "mariadb-install-db"
        options = (
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            "--skip-name-resolve",
        )
        # Several start at once, and the kernel has only so many places for asynchronous requests.
        modest = ("--innodb-use-native-aio=0", "--innodb-log-file-size=16M", temporary)
        self.run(install, "--no-defaults", f"--datadir={data}", *options, *modest)
        server = shutil.which("mariadbd") or "/usr/sbin/mariadbd"
        self.launch(
            [
                *(server, "--no-defaults", f"--datadir={data}", f"--port={self.port}"),
                *("--bind-address=127.0.0.1", f"--socket={self.folder}/socket"),
                *("--skip-name-resolve", "--innodb-buffer-pool-size=64M"),
                *("--innodb-flush-log-at-trx-commit=1", f"--pid-file={self.folder}/pid", *modest),
            ]
        )
        return self

    def _temporary(self) -> Path:
        made = self.folder / "tmp"
        made.mkdir(exist_ok=True)
        if os.geteuid() == 0:
            shutil.chown(made, _USER)
        return made

    def answers(self) -> bool:
        with contextlib.suppress(pymysql.err.MySQLError):
            self.do("SELECT 1")
            return True
        return False

    def url(self, database: str, user: str = "root") -> str:
        return f"mariadb://{user}@127.0.0.1:{self.port}/{database}"

    def do(self, *statements: str, database: str | None = None) -> list[tuple[Any, ...]]:
        """What the last of these statements gives."""
        place = {"host": "127.0.0.1", "port": self.port, "connect_timeout": 2}
        made = pymysql.connect(user="root", database=database, autocommit=True, **place)
        with made, made.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return list(cursor.fetchall())

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        super().stop(number)


def _is_stopped(pid: int) -> bool:
    """Whether each thread of a process has stopped: the signal takes a while to reach them."""
    states = (task / "stat" for task in Path(f"/proc/{pid}/task").iterdir())
    return all(state.read_text().rpartition(")")[2].split()[0] in "TZ" for state in states)


def _memory() -> Path | None:
    # A disk would make the tests wait, and tell nothing more: no test cuts the power.
    memory = Path("/dev/shm")
    return memory if memory.is_dir() and shutil.disk_usage(memory).free > 1 << 30 else None


def _programs_of_the_wheel() -> Path:
    from pgserver._commands import POSTGRES_BIN_PATH
    from pgserver.utils import ensure_prefix_permissions

    if os.geteuid() == 0:
        ensure_prefix_permissions(POSTGRES_BIN_PATH)
    return Path(POSTGRES_BIN_PATH)


def _as_user() -> dict[str, Any]:
    return {"user": _USER, "group": "nogroup"} if os.geteuid() == 0 else {}
