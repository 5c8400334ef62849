"""A log with as many entries as wanted, of nobody's patients, in the default store.

Each entry has one instance: what searching costs depends on the number of entries, and ten million
entries of 200 instances would not fit the disk of a desk.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from deid_hooks.backends.sqlite import SQLiteBackend
from deid_hooks.backends.sqlite.schema import insert_entry
from deid_hooks.deadline import Deadline
from deid_hooks.records.chain import make_leaf
from deid_hooks.records.keys import Keyring, RootKey, compute_patient_digest, make_sealer
from deid_hooks.records.model import Entry, Instance, UploadEvent

KEYRING = Keyring((RootKey(b"\xab" * 32),))
A_SUBJECT = 200
"""Acquisitions of the one patient who has many; others have twenty or so."""

_SURNAMES, _GIVEN = 20_000, 2_000
_ROWS_A_COMMIT = 20_000


def fill(path: Path, entries: int) -> None:
    """Make the log, with its indexes made at the end: far faster, and the same log."""
    backend = SQLiteBackend(f"sqlite:///{path}")
    backend.create(Deadline(60))
    backend.close()
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = OFF")
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("PRAGMA cache_size = -400000")
    indexes = connection.execute(
        "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
    ).fetchall()
    for name, _ in indexes:
        connection.execute(f"DROP INDEX [{name}]")
    sealer, head = make_sealer(KEYRING), ""
    connection.execute("BEGIN")
    for number, entry in enumerate(entries_of(entries)):
        seq = 2 * number + 1
        insert_entry(connection, seq, entry)
        event = UploadEvent(entry.log_id, entry.created, "uploaded", "folder:/out", "benchmark")
        row = (event.log_id, event.at, event.event, event.destination, event.uploader, event.id)
        connection.execute(
            "INSERT INTO deid_log_upload VALUES (?, ?, ?, ?, ?, ?, ?)", (seq + 1, *row)
        )
        seals = sealer.seal(head, [make_leaf(entry), make_leaf(event)])
        connection.executemany("INSERT INTO deid_log_chain VALUES (?, ?)", enumerate(seals, seq))
        head = seals[-1]
        if number % _ROWS_A_COMMIT == 0:
            connection.execute("COMMIT")
            connection.execute("BEGIN")
    connection.execute("COMMIT")
    for _, sql in indexes:
        connection.execute(sql)
    connection.close()


def patient(number: int) -> tuple[str, str]:
    """PatientID and name of a patient. Some share a surname, fewer a whole name."""
    chance = random.Random(number)
    name = f"{word(chance.randrange(_SURNAMES))}^{word(_SURNAMES + chance.randrange(_GIVEN))}"
    return f"PID{number:09}", name.title()


def word(number: int) -> str:
    """A word of a name, a different one for each number, as long as names are."""
    syllables = [consonant + vowel for consonant in "bdfg" for vowel in "aeiou"]
    text = ""
    for _ in range(4):
        number, place = divmod(number, len(syllables))
        text += syllables[place]
    return text


def entries_of(count: int) -> Iterator[Entry]:
    """``count`` entries; the last patient has ``A_SUBJECT`` of them."""
    chance = random.Random(2006)
    patients = max(1, count // 20)
    for number in range(count):
        late = number >= count - A_SUBJECT
        yield _entry(number, patients if late else chance.randrange(patients), chance)


def _entry(number: int, who: int, chance: random.Random) -> Entry:
    number_of_patient, name = patient(who)
    day = f"{chance.randrange(1995, 2026)}{chance.randrange(1, 13):02}{chance.randrange(1, 29):02}"
    uid, deid = f"1.2.840.99.{number}", f"2.25.{chance.getrandbits(122)}"
    return Entry(
        log_id=f"{chance.getrandbits(128):032X}",
        created="2026-01-01T00:00:00.000000Z",
        uploader="benchmark",
        project="TRIAL7",
        timestamp=f"{day[:4]}-{day[4:6]}-{day[6:]}T10:15:00",
        fields={
            "AccessionNumber": (f"A{number:09}",),
            "PatientBirthDate": (f"19{who % 90 + 10}0312",),
            "PatientID": (number_of_patient,),
            "PatientName": (name,),
            "PatientSex": ("F",),
            "StudyInstanceUID": (f"{uid}.1",),
            "StudyDate": (day,),
            "StudyDescription": ("Thorax",),
            "SeriesInstanceUID": (f"{uid}.2",),
            "SeriesDescription": ("Lung 1.0",),
            "Modality": ("CT",),
        },
        deid={
            "PatientID": (f"SUBJ-{who:09}",),
            "PatientName": (f"SUBJ-{who:09}",),
            "StudyInstanceUID": (f"{deid}1",),
            "SeriesInstanceUID": (f"{deid}2",),
        },
        originals='{"00080080":{"Value":["St. Elsewhere"],"vr":"LO"},'
        f'"00100010":{{"Value":[{{"Alphabetic":"{name}"}}],"vr":"PN"}},'
        f'"00100020":{{"Value":["{number_of_patient}"],"vr":"LO"}}}}',
        instances=(Instance(f"{uid}.3", f"{deid}3"),),
        uids=((f"{deid}4", f"{uid}.4"),),
        large={},
        digest=f"{chance.getrandbits(256):064x}",
        key=KEYRING.newest.name,
        patients=(compute_patient_digest(number_of_patient, "", KEYRING.newest),),
    )
