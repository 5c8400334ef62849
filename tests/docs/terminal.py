"""Runs the console blocks of a page as a reader would: one shell, a terminal of 100 columns."""

from __future__ import annotations

import doctest
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.commands import folder_of_programs

_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    language: str
    text: str


class Step(NamedTuple):
    """A command of a console block and the output that the page promises."""

    command: str
    promised: str


def blocks(page: Path) -> list[Block]:
    return [Block(*found) for found in _FENCE.findall(page.read_text(encoding="utf-8"))]


def steps(block: Block) -> Iterator[Step]:
    """``$ command`` lines, continued where they end with a backslash, with what follows each."""
    text = block.text.replace("\\\n", " ")
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, promised = part.partition("\n")
        yield Step(command, promised)


def file_of(block: Block) -> str | None:
    """The name of the file that a block is, told by its first line: ``# NAME``."""
    named = re.match(r"# ([\w.-]+\.(?:py|toml|txt|yml))\n", block.text)
    return named[1] if named else None


def run(command: str, folder: Path) -> str:
    """What the command writes to a terminal, errors after results."""
    terminal, program = pty.openpty()
    fcntl.ioctl(program, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    bin_folder = Path(sys.executable).parent
    environment = {
        "HOME": str(folder / "home"),
        "PATH": f"{folder_of_programs()}:{bin_folder}:{os.environ['PATH']}",
        "LANG": "C.UTF-8",
        "TERM": "dumb",
    }
    process = subprocess.Popen(
        ["bash", "-c", command],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=program,
        stderr=subprocess.PIPE,
    )
    os.close(program)
    said = b""
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # the program has closed its end
            break
        if not part:
            break
        said += part
    os.close(terminal)
    assert process.stderr is not None
    errors = process.stderr.read()
    process.wait(60)
    return (said.replace(b"\r\n", b"\n") + errors).decode()


def is_as_promised(promised: str, said: str) -> bool:
    """Whether output is what the page shows; ``...`` stands for anything."""
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    return doctest.OutputChecker().check_output(promised, said, flags)
