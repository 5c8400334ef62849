"""A site of its own, and the command line as its people run it: processes, nothing else."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pydicom
from pydicom import dcmread

from tests.commands import run_command

DATA = Path(pydicom.__file__).parent / "data"
SERIES = DATA / "test_files" / "dicomdirtests"
PROGRAM = Path(sys.executable).with_name("deid-hooks")
LOG = "home/.local/share/deid-hooks/log.db"
UNABLE = "Unable to log de-identified data"


class Site:
    """A home of its own, a folder to deliver to, and the command line."""

    def __init__(self, folder: Path, secret: str = "ab" * 32, begun: bool = True) -> None:
        self.folder, self.delivered = folder, folder / "delivered"
        for name in ("home", "tmp"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self.environment = {
            "HOME": str(folder / "home"),
            "TMPDIR": str(folder / "tmp"),
            "PATH": os.environ["PATH"],
            "DEID_HOOKS_SECRET": secret,
            "DEID_HOOKS_DEADLINE": "5",
        }
        if begun:
            self.run("init")

    def start(
        self, *words: str, before: Sequence[str] = (), **variables: str
    ) -> subprocess.Popen[str]:
        """Start a command by Python itself, or by a program ``before`` that starts it."""
        return subprocess.Popen(
            [*before, str(PROGRAM), *words],
            env={**self.environment, **variables},
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        environment = {**self.environment, **variables}
        return run_command([PROGRAM, *words], env=environment, cwd=self.folder)

    def upload(self, source: Path, *more: str) -> subprocess.CompletedProcess[str]:
        return self.run("upload", str(source), "folder:delivered", "--project", "TRIAL7", *more)

    def plug_in(self, source: str, group: str = "deid_hooks", name: str = "plugged") -> None:
        """Install a distribution whose one plugin is a module of this source."""
        folder = self.folder / "plugins" / name
        info = folder / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        target = f"module_of_{name}" + ("" if group == "deid_hooks" else ":plugin")
        (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {target}\n")
        (folder / f"module_of_{name}.py").write_text(source)
        before = self.environment.get("PYTHONPATH")
        self.environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(folder), before)))

    def unplug(self) -> None:
        """Take every plugin away again."""
        del self.environment["PYTHONPATH"]

    def files(self) -> dict[str, bytes]:
        found = self.delivered.rglob("*") if self.delivered.exists() else ()
        return {str(p.relative_to(self.delivered)): p.read_bytes() for p in found if p.is_file()}

    def sql(self, statement: str, log: str = LOG) -> list[tuple[Any, ...]]:
        """What plain sqlite3 finds in a log of this site."""
        connection = sqlite3.connect(self.folder / log)
        try:
            return connection.execute(statement).fetchall()
        finally:
            connection.close()

    def change(self, statement: str) -> None:
        """Let plain sqlite3 change the log."""
        connection = sqlite3.connect(self.folder / LOG)
        connection.execute(statement)
        connection.commit()
        connection.close()

    def logged(self, log: str = LOG) -> set[str]:
        """De-identified SOP Instance UIDs in the log, by plain sqlite3."""
        return {
            uid for (uid,) in self.sql("SELECT deid_SOPInstanceUID FROM deid_log_instance", log)
        }

    def unlogged(self) -> list[str]:
        logged = self.logged()
        paths = self.files()
        return [p for p in paths if dcmread(self.delivered / p).SOPInstanceUID not in logged]


def rows(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]
