"""System calls of a command: which it makes on the files of a site, and failing one.

strace counts calls by thread. A file with a name is found by it; one without (O_TMPFILE) by the
number of that call in its thread.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.faults.scene import Ran, Scene
from tests.needed import program

NAMES = (
    *("openat", "write", "pwrite64", "fsync", "fdatasync", "mmap"),
    *("rename", "renameat2", "link", "linkat", "ftruncate", "unlink", "unlinkat", "mkdir"),
)
FAULTS = ("EIO", "ENOSPC", "EACCES", "SIGKILL")
PLACES = ("home", "delivered", "back")
_LINE = re.compile(r"(?P<thread>\d+) +(?P<name>\w+)\((?P<rest>.*)")
_BY_CHANCE = re.compile(r"#|/\.\w+\.[0-9a-f]{16}$")
"""A path that is another one each time: of a file that has no name yet, or a draft's."""


Command = Callable[..., Ran]
"""Runs a command of a scene, with these words put before it."""


@dataclass(frozen=True, order=True)
class Call:
    """The n-th call of this name on that path, below the site's folder; any path if it is empty."""

    name: str
    path: str
    n: int


def strace(scene: Scene, *more: str) -> Sequence[str]:
    names = ",".join(NAMES)
    command = (program("strace"), "-f", "-y", "-s", "16")
    return (*command, "-e", f"trace={names}", "-o", str(_trace(scene)), *more)


def calls_of(scene: Scene, command: Command) -> list[Call]:
    """Every call of ``NAMES`` on the files of a site in ``PLACES``, from a dry run."""
    of_the_site = re.compile(rf'[<"]{re.escape(str(scene.folder))}/(\w[^<>"]*)[>"]')
    ran = command(*strace(scene))
    assert ran.code == 0, ran.err
    by_name: Counter[tuple[str, str]] = Counter()
    of_path: Counter[tuple[str, str, str]] = Counter()
    most: Counter[tuple[str, str]] = Counter()
    unnamed = set()
    for line in _trace(scene).read_text(errors="replace").splitlines():
        if not (found := _LINE.match(line)):
            continue
        thread, name, rest = found.group("thread", "name", "rest")
        by_name[thread, name] += 1
        paths = [path for path in of_the_site.findall(rest) if path.split("/")[0] in PLACES]
        lasting = [path for path in paths if not _BY_CHANCE.search(path)]
        if lasting:
            path = lasting[0]
            of_path[thread, name, path] += 1
            most[name, path] = max(most[name, path], of_path[thread, name, path])
        elif paths and name in ("write", "fsync"):
            unnamed.add(Call(name, "", by_name[thread, name]))
    named = {Call(*key, n) for key, count in most.items() for n in range(1, count + 1)}
    return sorted(named | unnamed)


def run_with(scene: Scene, command: Command, call: Call, fault: str) -> tuple[Ran, int]:
    """A run in which that call fails, or in which the process is killed there.

    Also gives how often it was injected: more than once if several threads make that call.
    """
    what = "signal=KILL" if fault == "SIGKILL" else f"error={fault}"
    where = ("-P", str(scene.folder / call.path)) if call.path else ()
    inject = f"inject={call.name}:{what}:when={call.n}"
    ran = command(*strace(scene, *where, "-e", inject))
    said = _trace(scene).read_text(errors="replace")
    _trace(scene).unlink()
    killed = "+++ killed by SIGKILL +++" in said
    return ran, int(killed) if fault == "SIGKILL" else said.count("(INJECTED)")


def _trace(scene: Scene) -> Path:
    return scene.folder / "trace.txt"
