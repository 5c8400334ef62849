"""What is on the disk if the power fails: rebuilt from the recorded writes and fsyncs of a run.

Of what was written and not brought to the disk, nothing may be there, or any part, torn at sectors.
A file's name is there for sure when its folder was brought to the disk. ``-shm`` is never there:
SQLite makes it anew.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.scene import Scene
from tests.needed import program

SECTOR = 512
_CALLS = "openat,write,pwrite64,fsync,fdatasync,ftruncate,unlink,linkat,mkdir,rename"
_LINE = re.compile(r"\d+ +(?P<name>\w+)\((?P<rest>.*)\) += (?P<result>-?\d+)")
_HEX = re.compile(r"(?:\\x[0-9a-f]{2})+")
_AT = re.compile(r"(?P<fd>\d+)<(?P<path>[^>]*)>")


@dataclass(frozen=True, slots=True)
class Step:
    """A call that changed a file or brought one to the disk. Paths are below the site's folder."""

    kind: str
    path: str
    offset: int = 0
    data: bytes = field(default=b"", repr=False)
    name: str = ""
    """The name that ``link`` gives to the file that was open at ``path``."""


def recorded(scene: Scene) -> list[Step]:
    """The steps of an upload, in their order."""
    trace = scene.folder / "trace.txt"
    command = (program("strace"), "-f", "-y", "-xx", "-s", "300000", "-e", "signal=none")
    ran = scene.upload_all(*command, "-e", f"trace={_CALLS}", "-o", str(trace))
    assert ran.code == 0, ran.err
    text = trace.read_text()
    trace.unlink()
    return list(_steps(list(_whole(text.splitlines())), str(scene.folder) + "/"))


def _whole(lines: Sequence[str]) -> Iterator[str]:
    """The calls, each in one line, at the place where it returned."""
    begun: dict[str, str] = {}
    for line in lines:
        thread, rest = line.split(maxsplit=1)
        if rest.endswith("<unfinished ...>"):
            begun[thread] = rest.removesuffix("<unfinished ...>")
        elif rest.startswith("<... "):
            yield f"{thread} {begun.pop(thread)}{rest.split('resumed>', 1)[1]}"
        else:
            yield line


def _steps(lines: Sequence[str], folder: str) -> Iterator[Step]:
    unnamed: dict[str, str] = {}
    for line in lines:
        if not (found := _LINE.match(line)) or found["result"] == "-1":
            continue
        name, rest = found["name"], found["rest"]
        texts = [_bytes(each) for each in re.findall(r'"([^"]*)"', rest)]
        at = _AT.search(rest)
        path = _bytes(at["path"]).decode() if at else ""
        last = rest.rsplit(", ", 1)[-1]
        if name in ("write", "pwrite64"):
            offset = int(last) if name == "pwrite64" else -1
            step = Step("write", path, offset, texts[0])
        elif name in ("fsync", "fdatasync"):
            step = Step("sync", path)
        elif name == "ftruncate":
            step = Step("truncate", path, int(last))
        elif name in ("unlink", "mkdir"):
            step = Step(name, texts[0].decode())
        elif name == "openat":
            opened = re.search(r"= (\d+)<([^>]*)>", line)
            assert opened
            path = _bytes(opened[2]).decode()
            if "O_TMPFILE" in rest:
                unnamed[opened[1]] = path
            step = Step("create" if "O_CREAT" in rest else "open", path)
        elif name == "linkat":
            descriptor = texts[0].decode().rsplit("/", 1)[-1]
            target = _AT.findall(rest)[-1][1]
            named = f"{_bytes(target).decode()}/{texts[1].decode()}"
            step = Step("link", unnamed[descriptor], name=named.removeprefix(folder))
        else:
            step = Step(name, texts[0].decode(), name=texts[-1].decode())
        if step.path.startswith(folder) and not step.path.endswith("-shm"):
            yield Step(step.kind, step.path.removeprefix(folder), step.offset, step.data, step.name)


def _bytes(text: str) -> bytes:
    """What strace wrote as ``\\x2f``, and as it is what it did not."""
    plain = _HEX.sub(
        lambda found: bytes.fromhex(found[0].replace("\\x", "")).decode("latin-1"), text
    )
    return plain.encode("latin-1")


class Disk:
    """The files of the log, as the recorded steps leave them on the disk."""

    def __init__(self, log: Path, begin: dict[str, bytes]) -> None:
        self._log = str(log)
        self._sure = {path: bytearray(content) for path, content in begin.items()}
        self._waiting: dict[str, list[Step]] = {}
        self._names_waiting: list[Step] = []

    def take(self, step: Step) -> None:
        """Follow one step."""
        if step.kind == "sync":
            for each in self._waiting.pop(step.path, []):
                _apply(self._sure, each, 0, len(each.data))
            if step.path == str(Path(self._log).parent):
                for each in self._names_waiting:
                    _apply(self._sure, each, 0, 0)
                self._names_waiting.clear()
        elif step.path.startswith(self._log):
            if step.kind in ("write", "truncate"):
                self._waiting.setdefault(step.path, []).append(step)
            elif step.kind == "unlink":
                self._names_waiting.append(step)

    def without(self) -> dict[str, bytes]:
        """The power fails: nothing is there that was not brought to the disk."""
        return {path: bytes(content) for path, content in self._sure.items()}

    def with_some(self, chance: random.Random) -> dict[str, bytes]:
        """The power fails: any part of what was not brought to the disk is there."""
        there = {path: bytearray(content) for path, content in self._sure.items()}
        for steps in self._waiting.values():
            for step in steps:
                if step.kind == "truncate" and chance.random() < 0.5:
                    _apply(there, step, 0, 0)
                for begin in range(0, len(step.data), SECTOR):
                    if chance.random() < 0.5:
                        _apply(there, step, begin, begin + SECTOR)
        for step in self._names_waiting:
            if chance.random() < 0.5:
                _apply(there, step, 0, 0)
        return {path: bytes(content) for path, content in there.items()}


def _apply(files: dict[str, bytearray], step: Step, begin: int, end: int) -> None:
    if step.kind == "unlink":
        files.pop(step.path, None)
        return
    content = files.setdefault(step.path, bytearray())
    if step.kind == "truncate":
        del content[step.offset :]
        return
    data, offset = step.data[begin:end], step.offset + begin
    content.extend(bytes(max(0, offset - len(content))))
    content[offset : offset + len(data)] = data
