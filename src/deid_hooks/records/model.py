"""The records of the log: entries, upload events, access rows, tombstones, blocks; their text.

Plain values without behaviour of a store. Everything that could identify a patient is hidden
from ``repr``, so that no traceback and no log line shows it.
"""

from __future__ import annotations

import re
import unicodedata
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

OUTCOMES = ("uploaded", "partial", "failed")
"""What an upload comes to."""

_LOG_ID = re.compile(r"[0-9A-F]{32}")


@dataclass(frozen=True, slots=True)
class Instance:
    """One instance of an acquisition: its UIDs, and the originals it alone has."""

    uid: str = field(repr=False)
    deid_uid: str
    originals: str = field(repr=False, default="{}")
    """Canonical JSON, path to element, as in :attr:`Entry.originals`."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What the log holds for one acquisition.

    ``fields`` and ``deid`` map an indexed field's keyword to its distinct values within the
    acquisition, as people read them; the first is the one in the column. ``originals`` is
    canonical JSON: a path (``"00100010"``, ``"00081140.0.00081155"``) to an element of the DICOM
    JSON model, or to ``null`` where the original had no such element. ``uids`` holds the pairs
    (de-identified, original) of every other UID that changed, sorted. ``large`` holds values too
    long for ``originals``, by their keyed digest. ``patients`` holds a keyed digest of every
    (PatientID, issuer) among the instances, sorted: normally one, none where no PatientID was.
    ``digest`` is the keyed digest of the content, ``key`` names the site secret of all digests.
    """

    log_id: str
    created: str
    uploader: str
    project: str
    timestamp: str | None = field(repr=False)
    fields: Mapping[str, tuple[str, ...]] = field(repr=False)
    deid: Mapping[str, tuple[str, ...]] = field(repr=False)
    originals: str = field(repr=False)
    instances: tuple[Instance, ...] = field(repr=False)
    uids: tuple[tuple[str, str], ...] = field(repr=False)
    large: Mapping[str, bytes] = field(repr=False)
    digest: str
    key: str
    patients: tuple[str, ...] = ()

    @property
    def deid_uids(self) -> tuple[str, ...]:
        """The de-identified SOP Instance UID of every instance."""
        return tuple(instance.deid_uid for instance in self.instances)


def make_record_id() -> str:
    """Return a new id of a record: 32 hex digits of a random UUIDv4 (RFC 9562, section 5.4)."""
    return uuid.uuid4().hex


@dataclass(frozen=True, slots=True)
class UploadEvent:
    """What happened to an entry at one destination, and when (UTC).

    ``id`` is made by who reports it, and survives retries. ``event`` is ``cleared`` (it may be
    sent), an outcome (one of ``OUTCOMES``) or ``withdrawn`` (somebody noted that it was deleted
    there).
    """

    log_id: str
    at: str
    event: str
    destination: str
    uploader: str
    id: str = field(default_factory=make_record_id)


@dataclass(frozen=True, slots=True)
class AccessRow:
    """Who accessed what, from where, and why: one row of the access trail.

    ``asked`` and ``reason`` may identify a patient. ``commitment`` covers the two in the row's
    seal, so that they and ``salt`` can be erased (all three become ``""``) and the seal still
    holds. The seal itself is kept by the store beside the row. See ``deid_hooks.records.chain``.
    """

    id: str
    at: str
    who: str
    where: str
    action: str
    asked: str = field(repr=False)
    log_ids: tuple[str, ...]
    reason: str = field(repr=False, default="")
    salt: str = field(repr=False, default="")
    commitment: str = ""


@dataclass(frozen=True, slots=True)
class Erasure:
    """Who erases, when (UTC) and why."""

    at: str
    who: str
    reason: str


@dataclass(frozen=True, slots=True)
class Tombstone:
    """What is left of an entry that was forgotten. ``project`` is the entry's."""

    log_id: str
    created: str
    destinations: tuple[str, ...]
    erasure: Erasure
    project: str = ""


@dataclass(frozen=True, slots=True)
class Block:
    """From now on nothing of a patient may leave; or, ``lifted``, it may again.

    ``patient`` is a keyed digest as in :attr:`Entry.patients`. ``project`` is the one it is for,
    ``""`` for all. Of several for one patient and project the latest counts. ``at`` is UTC.
    """

    id: str
    at: str
    patient: str
    project: str
    who: str
    reason: str = field(repr=False, default="")
    lifted: bool = False


@dataclass(frozen=True, slots=True)
class Erased:
    """The place of a record that was erased: of its content only the seal is left."""

    kind: str
    id: str


Record = Entry | UploadEvent | AccessRow | Tombstone | Block | Erased


def make_log_id() -> str:
    """Return a new log id: 32 upper-case hex digits of a random UUIDv4 (RFC 9562, section 5.4)."""
    return uuid.uuid4().hex.upper()


def parse_log_id(text: str) -> str | None:
    """Return the log id that ``text`` is, in any case, with or without dashes; None if none."""
    plain = text.strip().replace("-", "").upper()
    return plain if _LOG_ID.fullmatch(plain) else None


def read_clock() -> str:
    """Return the time in UTC, ISO 8601 with microseconds: ``2026-11-23T09:30:00.000000Z``."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def make_readable(text: str) -> str:
    """Return ``text`` as any store can keep it in a column: U+FFFD for NUL and lone surrogates.

    The originals beside the column keep what it replaces.
    """
    if text.isascii():
        return text.replace("\0", "\ufffd")
    return (
        text.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    )


def is_printable(text: str) -> bool:
    """Return whether no character commands a terminal or changes the order of others.

    Those are control and format characters, and what no Unicode knows.
    """
    return text.isprintable() or not any(unicodedata.category(c)[0] == "C" for c in text)


def fold(text: str) -> str:
    """Return a person's name as it is compared: ``DOE ^ JOHN^^`` and ``Doe^John`` are one.

    Case, spaces and what is empty at the end make no difference (PS3.5 6.2, PS3.4 C.2.2.2.1).
    """
    values = []
    for value in make_readable(text).casefold().split("\\"):
        groups = []
        for group in value.split("="):
            components = (" ".join(component.split()) for component in group.split("^"))
            groups.append("^".join(components).rstrip("^"))
        values.append("=".join(groups).rstrip("="))
    return "\\".join(values)


def get_id(record: Record) -> str:
    """Return the id of a record; that of entries and tombstones is the log id."""
    return record.log_id if isinstance(record, Entry | Tombstone) else record.id
