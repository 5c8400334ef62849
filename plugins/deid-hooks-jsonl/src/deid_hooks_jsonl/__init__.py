"""The de-id log in one file of JSON Lines: each append is one line of numbered records.

The first line says what the file is. A line without its end is an append that a crash cut short.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote

from deid_hooks.backends import (
    AccessRow,
    Deadline,
    Entry,
    Erased,
    Erasure,
    ForkedProcess,
    Key,
    LogBackend,
    LogUnavailable,
    Page,
    Record,
    Seal,
    Tombstone,
    Turn,
    UploadEvent,
    call_store,
    call_within,
    decode_record,
    encode_record,
    erase_salt,
    erase_terms,
    get_key,
    make_tombstone,
    put_file,
    seal_new,
    select_new,
)

T = TypeVar("T")
Rows = dict[int, tuple[Record, str]]

_HEADER = b'{"deid-hooks":"log","version":3}\n'
_RECORDS_A_PAGE = 200


class JSONLinesBackend(LogBackend):
    """The log at ``jsonl:///relative.jsonl`` or ``jsonl:////absolute.jsonl``, for small logs.

    What was read stays in memory, and a call reads on from there; a reader who starts at the
    beginning, as resolving does, reads the file anew.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._path = Path.cwd() / unquote(url.removeprefix("jsonl:///"))
        self._process = os.getpid()
        self._turn = threading.Lock()
        self._forget()

    def create(self, deadline: Deadline) -> None:
        def make(turn: Turn) -> None:
            with suppress(FileExistsError):
                put_file(self._path, _HEADER)

        self._in_time(deadline, make)

    def exists(self) -> bool:
        return self._path.exists()

    def check(self, deadline: Deadline) -> None:
        self.append([], lambda head, new: [], deadline)

    def append(self, records: Sequence[Record], seal: Seal, deadline: Deadline) -> None:
        def write(turn: Turn) -> None:
            with self._opened(deadline, lock=True) as file:
                new = select_new(records, self._known.get)
                seals = seal_new(seal, self._head, new)
                line = _line(self._numbered(new, seals)) if new else b""
                turn.begin()
                os.ftruncate(file, self._end)  # what a crash cut short
                while line:
                    line = line[os.write(file, line) :]
                os.fsync(file)

        self._in_time(deadline, write)

    def read(self, after: int, deadline: Deadline) -> Page:
        def read(turn: Turn) -> Page:
            with self._opened(deadline, anew=after == 0):
                numbers = [n for n in self._records if n > after][:_RECORDS_A_PAGE]
                found = tuple(self._records[number] for number in numbers)
                seals = tuple(self._seals[number] for number in numbers)
                return Page(found, seals, numbers[-1] if numbers else after)

        return self._in_time(deadline, read)

    def erase(
        self, log_ids: Sequence[str], erasure: Erasure, seal: Seal, deadline: Deadline
    ) -> None:
        def rewrite(turn: Turn) -> None:
            with self._opened(deadline, lock=True, anew=True):
                entries = {r.log_id: r for r in self._records.values() if isinstance(r, Entry)}
                gone = {i: entries[i] for i in dict.fromkeys(log_ids) if i in entries}
                stones = [self._bury(entry, erasure) for entry in gone.values()]
                seals = seal_new(seal, self._head, stones)
                rows = {n: _erase_from(r, self._seals[n], gone) for n, r in self._records.items()}
                rows |= self._numbered(stones, seals)
                turn.begin()
                put_file(self._path, _HEADER + _line(rows), os.replace)

        self._in_time(deadline, rewrite)

    def close(self) -> None:
        return None  # nothing stays open between two calls

    def _in_time(self, deadline: Deadline, job: Callable[[Turn], T]) -> T:
        if os.getpid() != self._process:
            raise ForkedProcess
        try:
            return call_store(
                deadline,
                lambda turn: call_within(deadline, lambda: job(turn)),
                f"the log {self._path}",
            )
        except ValueError:  # its text quotes what stands in the file
            raise LogUnavailable(f"{self._path} is no de-id log", "check its URL") from None

    @contextmanager
    def _opened(self, deadline: Deadline, lock: bool = False, anew: bool = False) -> Iterator[int]:
        """Return the file at the path, read to its end; locked for who writes."""
        with self._turn:
            while True:
                file = os.open(self._path, os.O_RDWR | os.O_APPEND if lock else os.O_RDONLY)
                try:
                    if not lock or _is_locked(file, self._path):
                        self._read_on(file, anew)
                        yield file
                        return
                    if deadline.passed:
                        raise LogUnavailable(f"the log {self._path} is locked", "try again")
                finally:
                    os.close(file)
                time.sleep(0.002)  # then by its path: it may have been replaced in the meantime

    def _forget(self) -> None:
        self._inode = self._end = 0
        self._head = ""
        self._records: dict[int, Record] = {}
        self._seals: dict[int, str] = {}
        self._known: dict[Key, Record] = {}

    def _read_on(self, file: int, anew: bool) -> None:
        state = os.fstat(file)
        if anew or state.st_ino != self._inode or state.st_size < self._end:
            self._forget()
            self._inode = state.st_ino
        with os.fdopen(os.dup(file), "rb") as lines:
            lines.seek(self._end)
            if self._end == 0 and lines.readline() != _HEADER:
                raise ValueError
            self._end = lines.tell()
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                for number, document, seal in json.loads(line):
                    self._records[number] = record = decode_record(document)
                    self._seals[number] = seal
                    self._known[get_key(record)] = record
                    self._head = seal
                self._end += len(line)

    def _numbered(self, records: Sequence[Record], seals: Sequence[str]) -> Rows:
        first = max(self._records, default=0) + 1
        return dict(enumerate(zip(records, seals, strict=True), first))

    def _bury(self, entry: Entry, erasure: Erasure) -> Tombstone:
        events = (r for r in self._records.values() if isinstance(r, UploadEvent))
        sent_to = (e.destination for e in events if e.log_id == entry.log_id)
        return make_tombstone(entry.log_id, entry.created, sent_to, erasure, entry.project)


def _is_locked(file: int, path: Path) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return os.fstat(file).st_ino == path.stat().st_ino


def _line(rows: Rows) -> bytes:
    numbered = [[number, encode_record(record), seal] for number, (record, seal) in rows.items()]
    return json.dumps(numbered, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _erase_from(record: Record, seal: str, gone: Mapping[str, Entry]) -> tuple[Record, str]:
    """Return what is left of a record and of its seal once these entries are gone."""
    if isinstance(record, Entry) and record.log_id in gone:
        return Erased("entry", record.log_id), erase_salt(seal)
    if isinstance(record, AccessRow) and gone.keys() & set(record.log_ids):
        return erase_terms(record), seal
    return record, seal
