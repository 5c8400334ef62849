"""Networks of their own for tests: for servers that listen everywhere, or to drop packets in."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.needed import missing, program

_numbers = itertools.count(1)


@contextmanager
def network_of_its_own() -> Iterator[tuple[str, ...]]:
    """A network namespace with nothing but loopback; gives the words to put before a command."""
    ip, name = program("ip"), f"deid-hooks-{os.getpid()}-{next(_numbers)}"
    if subprocess.run([ip, "netns", "add", name], capture_output=True).returncode:
        missing("the right to make networks is not given here")
    subprocess.run([ip, "-n", name, "link", "set", "lo", "up"], check=True)
    try:
        yield (ip, "netns", "exec", name)
    finally:
        subprocess.run([ip, "netns", "delete", name], check=True)
