"""What an attack is: it must fail, and must succeed without the one defence that stops it."""

from __future__ import annotations

import io
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import chdir, closing, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

import pytest
import typer

from deid_hooks.cli import main
from deid_hooks.deadline import Deadline
from deid_hooks.log import make_backend
from deid_hooks.records.chain import Leaf, Sealer, make_leaf, parse_seal
from deid_hooks.records.keys import parse_keyring
from deid_hooks.records.model import Erased, Record
from tests.adversaries.served import Served
from tests.commands import run_command
from tests.whole.site import LOG, PROGRAM, Site

SECRET = "ab" * 32
ROOT = parse_keyring(SECRET, "a test").newest
HEAD = "home/.config/deid-hooks/secret.head"


class Place(Site):
    """A site whose commands run as they are installed, or else ``here``, in this process.

    ``said`` is what they all printed.
    """

    def __init__(self, folder: Path, here: bool) -> None:
        super().__init__(folder, SECRET, begun=False)
        self.here, self.said = here, ""

    def run(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return self._run([str(PROGRAM), *words], main, {**self.environment, **variables})

    def program(self, source: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a program that somebody wrote with our packages."""
        path = self.folder / "program.py"
        path.write_text(source)
        code = compile(source, path, "exec")
        return self._run([str(path), *words], lambda: exec(code, {}), self.environment)

    def lets_out(self, source: Path) -> bool:
        """Return whether an upload of these images sends any."""
        self.run("upload", str(source), "folder:elsewhere", "--project", "TRIAL7")
        return any((self.folder / "elsewhere").rglob("*.dcm"))

    def replace_log(self, other: str) -> None:
        """Put another file in the place of the log."""
        for left in (self.folder / LOG).parent.glob("log.db*"):
            left.unlink()
        shutil.copyfile(self.folder / other, self.folder / LOG)

    def lose_head(self) -> None:
        """Become a site that never kept a head."""
        (self.folder / HEAD).unlink()

    def _run(
        self, argv: list[str], function: Callable[[], object], environment: dict[str, str]
    ) -> subprocess.CompletedProcess[str]:
        run = _run_here if self.here else _run_installed
        done = run(argv, function, environment, self.folder)
        self.said += done.stdout + done.stderr
        return done


def _run_installed(
    argv: list[str], function: object, environment: dict[str, str], folder: Path
) -> subprocess.CompletedProcess[str]:
    return run_command(argv, env=environment, cwd=folder)


# What is installed, and the tree of commands: finding both takes two thirds of a command's time.
_find_installed = cache(entry_points)
_make_commands = cache(typer.main.get_command)


def _run_here(
    argv: list[str], function: Callable[[], object], environment: dict[str, str], folder: Path
) -> subprocess.CompletedProcess[str]:
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        patch.dict(os.environ, environment, clear=True),
        patch.object(sys, "argv", argv),
        patch("deid_hooks.plugins.entry_points", _find_installed),
        patch("typer.main.get_command", _make_commands),
        chdir(folder),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            function()
        except SystemExit as end:
            code = int(end.code or 0)
        except Exception as error:  # that somebody's program ends with
            print(f"{type(error).__name__}: {error}", file=err)
            code = 1
    return subprocess.CompletedProcess(argv, code, out.getvalue(), err.getvalue())


CarryOut = TypeVar("CarryOut", Callable[[Place], bool], Callable[[Served], bool])


@dataclass(frozen=True)
class Attack:
    """What somebody does to a site or a service.

    ``carry_out`` returns whether they got what they wanted.
    ``defence`` is the dotted name of the function that stops it, and ``off`` what takes its place
    where it is switched off. ``says`` is in what the commands print when the attack fails.
    """

    carry_out: Callable[[Any], bool]
    defence: str
    off: Any
    says: str

    def fails(self, site: Place | Served) -> None:
        """Carry it out, and see it fail for the reason that is named."""
        assert not self.carry_out(site), site.said
        assert self.says in site.said, site.said

    def succeeds_without(self, site: Place | Served, monkeypatch: pytest.MonkeyPatch) -> None:
        """Switch that one defence off, carry it out, and see it succeed with nothing noticed."""
        monkeypatch.setattr(self.defence, self.off)
        assert self.carry_out(site), site.said
        assert not self.says or self.says not in site.said


def attack(attacks: list[Any], defence: str, off: Any, says: str) -> Callable[[CarryOut], CarryOut]:
    """Return what adds a function to the attacks of an actor, as :class:`Attack` has them."""

    def add(carry_out: CarryOut) -> CarryOut:
        made = Attack(carry_out, defence, off, says)
        attacks.append(pytest.param(made, id=carry_out.__name__))
        return carry_out

    return add


def dropping(function: Callable[..., Any], *words: str) -> Callable[..., Any]:
    """Return ``function`` of :class:`Verification`, without the faults that have these words."""

    def drop(*arguments: Any) -> Any:
        for fault in function(*arguments):
            text = getattr(fault, "what", fault)
            if not any(word in text for word in words):
                yield fault

    return drop


def read_chain(site: Place) -> list[tuple[Record, str]]:
    """Return all records of the log of a site with their seals."""
    backend = make_backend(f"sqlite:///{site.folder / LOG}")
    try:
        return list(backend.chain(Deadline()))
    finally:
        backend.close()


def seal_anew(site: Place, first: int, key: bytes) -> None:
    """Make new leaves, links and tags for all records from one on, with a key of one's own."""
    rows, leaves = read_chain(site), []
    for record, text in rows[first:]:
        seal = parse_seal(text)
        assert seal is not None
        known = Leaf(seal.kind, seal.id, seal.leaf, seal.salt)
        leaves.append(known if isinstance(record, Erased) else make_leaf(record, seal.salt))
    seals = Sealer({ROOT.name: key}).seal(rows[first - 1][1], leaves)
    with closing(sqlite3.connect(site.folder / LOG)) as store, store:
        places = store.execute("SELECT seq FROM deid_log_chain ORDER BY seq").fetchall()[first:]
        changes = [(seal, seq) for seal, (seq,) in zip(seals, places, strict=True)]
        store.executemany("UPDATE deid_log_chain SET seal = ? WHERE seq = ?", changes)
