"""What is on the disk if the power fails: rebuilt from the recorded writes and fsyncs of a run.

Of what was written and not brought to the disk, nothing may be there, or any part, torn at sectors.
``-shm`` is never there: SQLite makes it anew.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tests.faults.scene import Scene
from tests.needed import program

SECTOR = 512
_CALLS = "openat,write,pwrite64,fsync,fdatasync,ftruncate,unlink,link,linkat,mkdir,rename"
_LINE = re.compile(r"\d+ +(?P<name>\w+)\((?P<rest>.*)\) += (?P<result>-?\d+)")
_HEX = re.compile(r"(?:\\x[0-9a-f]{2})+")
_AT = re.compile(r"(?P<fd>\d+)<(?P<path>[^>]*)>")


@dataclass(frozen=True, slots=True)
class Step:
    """A call that changed a file or brought one to the disk. Paths are below the site's folder."""

    kind: str
    path: str
    """Empty for the site's folder itself."""
    offset: int = 0
    """Negative for what is written after the last."""
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
            made = "O_CREAT" in rest or "O_TMPFILE" in rest
            step = Step("create" if made else "open", path)
        elif name == "linkat":
            descriptor = texts[0].decode().rsplit("/", 1)[-1]
            target = _AT.findall(rest)[-1][1]
            named = f"{_bytes(target).decode()}/{texts[1].decode()}"
            step = Step("link", unnamed[descriptor], name=named)
        else:
            step = Step(name, texts[0].decode(), name=texts[-1].decode())
        if f"{step.path}/".startswith(folder) and not step.path.endswith("-shm"):
            path = f"{step.path}/".removeprefix(folder).removesuffix("/")
            name_there = step.name.removeprefix(folder)
            yield Step(step.kind, path, step.offset, step.data, name_there)


def _bytes(text: str) -> bytes:
    """What strace wrote as ``\\x2f``, and as it is what it did not."""
    plain = _HEX.sub(
        lambda found: bytes.fromhex(found[0].replace("\\x", "")).decode("latin-1"), text
    )
    return plain.encode("latin-1")


class Disk:
    """The files of a site, as the recorded steps leave them on the disk.

    A name is there for sure once the folder that it is in was brought to the disk, and the names
    of that folder and of those above it are.
    """

    def __init__(self, begin: Mapping[str, bytes], folders: Iterable[str]) -> None:
        """What is there in the beginning."""
        self._numbers = itertools.count()
        self._content = {next(self._numbers): bytearray(each) for each in begin.values()}
        self._named = dict(zip(begin, self._content, strict=True))
        self._named |= {folder: next(self._numbers) for folder in folders}
        self._sure = dict(self._named)
        self._length: dict[int, int] = {}
        self._waiting: dict[int, list[Step]] = {}
        self._names_waiting: dict[str, list[tuple[str, int | None]]] = {}

    def take(self, step: Step) -> None:
        """Follow one step."""
        number = self._named.get(step.path)
        unnamed = "#" in step.path
        if step.kind in ("create", "mkdir") and (number is None or unnamed):
            number = self._named[step.path] = next(self._numbers)
            if step.kind == "create":
                self._content[number] = bytearray()
            if not unnamed:
                self._name(step.path, number)
        elif step.kind in ("link", "rename"):
            self._name(step.name, number)
            if step.kind == "rename":
                self._name(step.path, None)
        elif step.kind == "unlink":
            self._name(step.path, None)
        elif step.kind in ("write", "truncate") and number is not None:
            if step.offset < 0:
                step = replace(step, offset=self._length.get(number, 0))
            self._length[number] = step.offset + len(step.data)
            self._waiting.setdefault(number, []).append(step)
        elif step.kind == "sync":
            if number is not None:
                for each in self._waiting.pop(number, []):
                    _apply(self._content[number], each, 0, len(each.data))
            for name, what in self._names_waiting.pop(step.path, []):
                _call(self._sure, name, what)

    def _name(self, path: str, number: int | None) -> None:
        _call(self._named, path, number)
        self._names_waiting.setdefault(_above(path), []).append((path, number))

    def without(self) -> dict[str, bytes]:
        """The power fails: nothing is there that was not brought to the disk."""
        return _found(self._sure, self._content)

    def with_some(self, chance: random.Random) -> dict[str, bytes]:
        """The power fails: any part of what was not brought to the disk is there."""
        names = dict(self._sure)
        for calls in self._names_waiting.values():
            for name, number in calls:
                if chance.random() < 0.5:
                    _call(names, name, number)
        content = dict(self._content)
        for number, steps in self._waiting.items():
            content[number] = bytearray(content[number])
            for step in steps:
                if step.kind == "truncate" and chance.random() < 0.5:
                    _apply(content[number], step, 0, 0)
                for begin in range(0, len(step.data), SECTOR):
                    if chance.random() < 0.5:
                        _apply(content[number], step, begin, begin + SECTOR)
        return _found(names, content)


def _above(path: str) -> str:
    return path.rpartition("/")[0]


def _call(names: dict[str, int], path: str, number: int | None) -> None:
    if number is None:
        names.pop(path, None)
    else:
        names[path] = number


def _found(names: Mapping[str, int], content: Mapping[int, bytearray]) -> dict[str, bytes]:
    """The files whose names can be reached."""

    def reached(path: str) -> bool:
        return not path or (path in names and reached(_above(path)))

    return {
        path: bytes(content[number])
        for path, number in names.items()
        if number in content and reached(path)
    }


def _apply(content: bytearray, step: Step, begin: int, end: int) -> None:
    data, offset = step.data[begin:end], step.offset + begin
    content.extend(bytes(max(0, offset - len(content))))
    if step.kind == "truncate":
        del content[offset:]
    else:
        content[offset : offset + len(data)] = data
