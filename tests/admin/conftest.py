"""An administrator's desk: a home, a log with some deliveries in it, and the command line."""

from __future__ import annotations

import io
import json
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
import pytest

from deid_hooks import DeidHooks
from deid_hooks.cli import main

SERIES = Path(pydicom.__file__).parent / "data" / "test_files" / "dicomdirtests"


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def ids(self) -> list[str]:
        return self.out.split()


class Desk:
    """Runs ``deid-hooks`` in this process, as its user does in a shell of its own."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self._patch = folder, monkeypatch
        self.log = folder / "log.db"
        self.url = f"sqlite:///{self.log}"
        monkeypatch.setenv("HOME", str(folder))
        monkeypatch.setenv("DEID_HOOKS_URL", self.url)
        monkeypatch.setenv("DEID_HOOKS_SECRET", "ab" * 32)
        monkeypatch.chdir(folder)
        self("init")

    def __call__(self, *words: str | Path, stdin: str = "") -> Answer:
        out, err = io.StringIO(), io.StringIO()
        self._patch.setattr(sys, "argv", ["deid-hooks", *map(str, words)])
        self._patch.setattr(sys, "stdin", io.StringIO(stdin))
        code = 0
        with redirect_stdout(out), redirect_stderr(err):
            try:
                main()
            except SystemExit as exit_:
                code = int(exit_.code or 0)
        return Answer(code, out.getvalue(), err.getvalue())

    def upload(self, source: Path, *more: str, to: str = "delivered") -> Answer:
        return self("upload", source, f"folder:{to}", "--project", "TRIAL7", *more)

    def hooks(self) -> DeidHooks:
        return DeidHooks.load("test/1")

    def sql(self, statement: str, values: Sequence[str] = ()) -> list[tuple[Any, ...]]:
        with sqlite3.connect(self.log) as connection:
            return connection.execute(statement, values).fetchall()

    def trail(self) -> list[tuple[str, str, str]]:
        return self.sql("SELECT action, asked, reason FROM deid_log_access ORDER BY seq")


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    yield Desk(tmp_path, monkeypatch)


@pytest.fixture
def delivered(desk: Desk) -> Desk:
    """A desk whose log holds the four series of one patient."""
    assert desk.upload(SERIES / "77654033").code == 0
    return desk
