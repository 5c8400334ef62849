"""The programs that are attacked: as they are installed, and with one defence taken away."""

from __future__ import annotations

import os
import pty
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.commands import Command

_PROGRAM = """#!{python}
import {module}
{patch}
if __name__ == "__main__":
    {module}.main()
"""


def weaken(folder: Path, patch: str, module: str = "deid_hooks.cli") -> Path:
    """Write a program that is ours but for what these lines change, and return its path."""
    path = folder / "weakened"
    path.write_text(_PROGRAM.format(python=sys.executable, module=module, patch=patch))
    path.chmod(0o700)
    return path


def run_on_terminal(words: Sequence[str | Path], env: Mapping[str, str], cwd: Path) -> str:
    """Run a command whose output and messages go to a terminal; return what arrives there."""
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "wb", closefd=True) as terminal:
        command = Command(words, env=env, cwd=cwd, stdout=terminal, stderr=terminal)
    shown = b""
    try:
        while block := os.read(ours, 65536):
            shown += block
    except OSError:  # EIO: the other side is closed
        pass
    os.close(ours)
    command.wait(60)
    return shown.decode("utf-8", "surrogateescape")
