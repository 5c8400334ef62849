"""Logs behind servers, which the tests kill and stop: a service, PostgreSQL, MariaDB."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import running
from posting import Posting
from sql_servers import MariaDBServer, PostgreSQLServer

from tests.faults.scene import SECRET, Query, Scene, Stage, sqlite_log
from tests.needed import program

_numbers = itertools.count(1)


class Server(Protocol):
    """A log behind a server."""

    environment: dict[str, str]

    @property
    def query(self) -> Query:
        """Asks its log, without deid_hooks."""

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the server and its processes."""

    def restart(self) -> None:
        """Start it again after a kill."""

    def load(self) -> AbstractContextManager[list[str]]:
        """Others that write to it while the block runs; gives the log ids they were answered."""

    def said(self) -> str:
        """What stands in its own log and, of the service, in its metrics."""

    def remove(self) -> None: ...


def site_behind(server: Server, stage: Stage, folder: Path, *prefix: str) -> Scene:
    """A site whose log is there, in which the first series was uploaded."""
    scene = Scene(stage, folder)
    scene.environment |= server.environment
    scene.query = server.query
    if not server.environment["DEID_HOOKS_URL"].startswith("deidlog"):
        scene.run("init")
    scene.upload_first(*prefix)
    return scene


class Service:
    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        secret = folder / "secret"
        secret.touch(0o600)
        secret.write_text(SECRET)  # digests are keyed with it on both sides
        self.site = running.Site(folder, deadline=2)
        self.environment = {
            "DEID_HOOKS_URL": f"deidlog+{self.site.url}",
            "DEID_HOOKS_TOKEN": self.site.token("upload"),
        }
        self.query = sqlite_log(self.site.log)
        self.site.start()

    def send(self, number: signal.Signals) -> None:
        assert self.site.process is not None
        self.site.process.send_signal(number)

    def restart(self) -> None:
        assert self.site.process is not None
        self.site.process.wait(30)
        self.site.start()

    @contextmanager
    def load(self) -> Iterator[list[str]]:
        posting = Posting(self.site, threads=2)
        try:
            yield posting.ids
        finally:
            posting.end()

    def said(self) -> str:
        with self.site.client(self.site.token("admin")) as client:
            return self.site.said() + client.get("/metrics").text

    def remove(self) -> None:
        self.site.stop(signal.SIGKILL)


class Database:
    """A server of a database, with a database of its own for each log."""

    def __init__(self, server: Any, url: str, name: str) -> None:
        self.server, self.name = server, name
        server.do(f"CREATE DATABASE {name}")
        self.environment = {"DEID_HOOKS_URL": url}

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = self.server.do(statement, database=self.name)
        return rows

    def send(self, number: signal.Signals) -> None:
        self.server.send(number)

    def restart(self) -> None:
        self.server.process.wait(30)
        self.server.start()

    def load(self) -> AbstractContextManager[list[str]]:
        return nullcontext([])

    def said(self) -> str:
        said: str = self.server.log.read_text(errors="replace")
        return said

    def remove(self) -> None:
        self.server.remove()


def server_of(kind: str, folder: Path) -> Server:
    """A server of this kind that runs, with an empty log."""
    name = f"log_{next(_numbers)}"
    if kind == "service":
        return Service(folder)
    if kind == "PostgreSQL":
        postgresql = PostgreSQLServer().initialise().start()
        return Database(postgresql, postgresql.url(name), name)
    program("mariadbd")
    mariadb = MariaDBServer().start()
    return Database(mariadb, mariadb.url(name), name)
