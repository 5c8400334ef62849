"""Logs of older versions in each database, and what must be so before and after an upgrade."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from deid_hooks.backends.contract import LogBackend
from deid_hooks.backends.tables.migrations import VERSION
from deid_hooks.deadline import Deadline
from deid_hooks.log import Log
from deid_hooks.query.parser import parse_terms
from deid_hooks.records.chain import Verification
from deid_hooks.records.json_codec import decode_record
from deid_hooks.records.keys import Keyring, RootKey, make_sealer
from deid_hooks.records.model import AccessRow, Entry, Record, UploadEvent
from deid_hooks.testing.records import fresh_id

ROOT = Path(__file__).parents[2]
KEYRING = Keyring((RootKey(b"\xab" * 32),))
FOREIGN = Keyring((RootKey(b"\xcd" * 32),))

_SECOND = "Straßeł^Œuvre ħ đ ı ø ð þ æ^Złoty"
_FOUND_BY_NAME = {
    "Aero Thora": "Ærø^Þóra Ð",
    "strassel oeuvre": _SECOND,
    "h d th zloty": _SECOND,
}
"""Bare words, and the name that they find though version 1 kept other words of it."""


class OldLog:
    """The log of an older version that a folder beside this file holds for each database."""

    def __init__(self, version: int) -> None:
        self.version = version
        self._folder = Path(__file__).with_name(f"version_{version}")

    def __repr__(self) -> str:
        return f"version {self.version}"

    def read(self, name: str) -> str:
        """Return the text of a file of the folder."""
        return gzip.decompress((self._folder / f"{name}.gz").read_bytes()).decode()

    def unpack(self, path: Path) -> Path:
        """Write the log of SQLite to this path, and return it."""
        path.write_bytes(gzip.decompress((self._folder / "log.db.gz").read_bytes()))
        path.chmod(0o600)
        return path

    @cached_property
    def records(self) -> list[tuple[Record, str]]:
        """The records with their seals, in the order of the log."""
        found = []
        for line in self.read("records.jsonl").split("\n")[:-1]:
            document = json.loads(line)
            document.pop("previous", None)
            seal = document.pop("seal", "")
            document |= {"upload": {"id": ""}, "tombstone": {"project": ""}}.get(
                document["record"], {}
            )
            found.append((decode_record(document), seal))
        return found

    @cached_property
    def entries(self) -> list[Entry]:
        return [record for record, _ in self.records if isinstance(record, Entry)]


VERSION_1, VERSION_2 = OldLog(1), OldLog(2)
OLDER = (VERSION_1, VERSION_2)


def upgrade(store: LogBackend, keyring: Keyring = KEYRING) -> str:
    """Upgrade a log as the command line does, and return what was done."""
    return Log(store, keyring).upgrade(60)


def read_all(store: LogBackend) -> list[tuple[Record, str]]:
    """Return all records with their seals, page by page."""
    page = store.read(0, Deadline())
    found: list[tuple[Record, str]] = []
    while page.records:
        found += zip(page.records, page.seals, strict=True)
        page = store.read(page.cursor, Deadline())
    return found


def record_accesses(store: LogBackend) -> list[AccessRow]:
    """Write to the access trail as a log does, some rows twice, and return what was written."""
    texts = ("PatientID=4711", "PatientName=\ud800\0", "x")
    for text in texts:
        Log(store, KEYRING).record_access(
            AccessRow(fresh_id(), "t", "who", "host", "show", text, (), "why")
        )
    written = [row for row, _ in store.trail(Deadline())][-len(texts) :]
    assert [row.asked for row in written] == list(texts)
    store.append(written, lambda head, new: [], Deadline())
    return written


def assert_found(store: LogBackend, entries: Sequence[Entry]) -> None:
    """Entries are resolved, and found by their names and values."""
    assert [store.resolve(entry.log_id, Deadline()) for entry in entries] == list(entries)
    assert list(store.entries([e.log_id for e in entries], Deadline())) == list(entries)
    for term, name in _FOUND_BY_NAME.items():
        wanted = [e.log_id for e in entries if name in e.fields.get("PatientName", ())]
        assert wanted
        assert list(store.search(parse_terms([term]), Deadline())) == wanted
    for entry in entries:
        terms = [f"{k}=={v[0]}" for k, v in entry.fields.items() if v and v[0].isascii()]
        for query in (parse_terms([term]) for term in terms):
            wanted = [e.log_id for e in entries if query.matches(e)]
            assert list(store.search(query, Deadline())) == wanted
    store.statistics(Deadline())


def assert_upgraded(store: LogBackend, old: OldLog) -> None:
    """Everything that the older log held is read and found as before, and sealed."""
    sealed = read_all(store)
    assert [_plain(record) for record, _ in sealed] == [_plain(record) for record, _ in old.records]
    assert find_faults(store) == []
    events = [record.id for record, _ in sealed if isinstance(record, UploadEvent)]
    assert len(set(events)) == len(events) > 0
    trail = [(row, seal) for row, seal in sealed if isinstance(row, AccessRow)]
    assert list(store.trail(Deadline())) == trail
    assert_found(store, old.entries)
    store.check(Deadline())


def find_faults(store: LogBackend) -> list[str]:
    """Return what is wrong with the chain of a log."""
    verification = Verification(make_sealer(KEYRING))
    found = [
        fault.what
        for record, seal in store.chain(Deadline())
        for fault in verification.check(record, seal)
    ]
    return [*found, *(fault.what for fault in verification.finish())]


def write_again(store: LogBackend, sealed: Sequence[tuple[Record, str]]) -> None:
    """Make a log of this version that holds the same records, with the same seals."""
    store.create(Deadline(60))
    seals = [seal for _, seal in sealed]
    store.append([record for record, _ in sealed], lambda head, new: seals, Deadline(60))


def _plain(record: Record) -> Record:
    """Return a record without what an upgrade makes anew."""
    if isinstance(record, AccessRow) and record.salt:
        return replace(record, salt="", commitment="")
    return replace(record, id="") if isinstance(record, UploadEvent) else record


_UPGRADE = """
import os, signal, sys
from importlib import import_module
from deid_hooks.backends.tables.migrations import Changes
from deid_hooks.log import make_backend
from tests.backends.upgrading import upgrade

left = int(sys.argv[2])
import_module(sys.argv[3])

def die_in_time(method):
    def call(self, *values):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return method(self, *values)
    return call

[changes] = Changes.__subclasses__()
for name in ("run", "create_table", "add_column", "insert_rows"):
    setattr(changes, name, die_in_time(getattr(changes, name)))
backend = make_backend(sys.argv[1])
print(upgrade(backend))
backend.close()
"""

ALL = 1_000_000
"""More changes than an upgrade makes."""


def start_upgrade(store: LogBackend, module: str, changes: int = ALL) -> subprocess.Popen[str]:
    """Upgrade in another process, which kills itself after some changes."""
    command = [sys.executable, "-c", _UPGRADE, store.url, str(changes), module]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def assert_one_waits(store: LogBackend, module: str, old: OldLog) -> None:
    """Of two upgrades at once one does it, and the other finds it done."""
    both = [start_upgrade(store, module) for _ in range(2)]
    said = sorted(each.communicate()[0].strip() for each in both)
    assert said[0] == ""
    assert f"to {VERSION}" in said[1] or f"to version {VERSION}" in said[1]
    assert [each.returncode for each in both] == [0, 0]
    assert_upgraded(store, old)


NEW_FIELD = """
from deid_hooks.records import fields

fields.LATER_FIELDS = ("BodyPartExamined",)
fields.INDEXED_FIELDS = (*fields.INDEXED_FIELDS, "BodyPartExamined")

from deid_hooks.backends.tables.columns import Column
from deid_hooks.backends.tables.migrations import STEPS

steps = dict(STEPS)
STEPS.clear()
STEPS["4: BodyPartExamined"] = lambda changes: changes.add_column(
    "deid_log", Column("BodyPartExamined")
)
STEPS.update(steps)

from deid_hooks.deadline import Deadline
from deid_hooks.query.parser import parse_terms
from deid_hooks.testing.records import chain_seals, make_entry
from tests.backends.upgrading import OldLog, assert_upgraded, upgrade

def use_new_field(log):
    log.check(Deadline())
    entry = make_entry(fields={"BodyPartExamined": ("CHEST", "LUNG")})
    log.append([entry], chain_seals, Deadline())
    assert log.resolve(entry.log_id, Deadline()) == entry
    for value in ("CHEST", "LUNG"):
        found = log.search(parse_terms([f"BodyPartExamined={value}"]), Deadline())
        assert list(found) == [entry.log_id]
"""
"""Begins a program of a version that has one more indexed field."""
