"""File systems of the tests: small ones, and ones that turn read-only."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.needed import missing


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[None]:
    """A file system of that size at a folder. Needs root, and the right to mount."""
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={kilobytes}k,mode=0700"
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        missing("the right to mount is not given here")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], capture_output=True)


def remount(folder: Path, options: str) -> None:
    """Change the options of a file system that is in use; it may refuse."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], capture_output=True)


def kilobytes_used(folder: Path) -> int:
    """What is taken of the file system at a folder."""
    told = subprocess.run(
        ["df", "--output=used", "-k", str(folder)], capture_output=True, text=True, check=True
    )
    return int(told.stdout.split()[-1])
