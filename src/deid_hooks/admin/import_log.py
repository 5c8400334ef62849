"""Imports: a log's own export, and what other systems kept of their de-identification.

What was forgotten never comes back, and an import that is repeated adds nothing. So an entry made
from the history of another system has an id that follows from its content, by a key of the site:
without the site secret nobody gets from the id to the content or the other way.
"""

from __future__ import annotations

import hmac
import json
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from deid_hooks.admin.histories import (
    IMPORTED_BY,
    Pair,
    UnreadableHistory,
    convert_pair,
    is_ctp,
    read_ctp,
    read_flywheel,
    read_rsna,
)
from deid_hooks.batches import split_batches
from deid_hooks.dicom.assemble import assemble
from deid_hooks.dicom.difference import Changes
from deid_hooks.errors import Forgotten, IdConflict
from deid_hooks.log import Log
from deid_hooks.records.json_codec import decode_record
from deid_hooks.records.keys import SiteSecret, compute_content_digest
from deid_hooks.records.model import Entry, Record, Tombstone, make_log_id

_AT_ONCE = 100
_READERS: dict[str, Callable[[Path, Counter[str]], Iterable[list[Changes] | Pair]]] = {
    "flywheel": read_flywheel,
    "ctp": read_ctp,
    "rsna": read_rsna,
}

Counts = Counter[str]
"""``imported``, ``there already``, ``forgotten``, ``other content`` and ``not understood``."""


def import_history(log: Log, path: Path, project: str, counts: Counts) -> str:
    """Write what a file holds into the log, count on the way, and return what kind of file it is.

    Raises UnreadableHistory for a file of no known kind, LogError if the log can't be written:
    what was imported till then stays, and the import can be repeated.
    """
    kind = find_kind(path)
    if kind == "deid-hooks":
        records: Iterable[Record] = _read_records(log, path, counts)
    else:
        records = _make_entries(log, _READERS[kind](path, counts), project, kind, counts)
    for some in split_batches(records, _AT_ONCE):
        _append(log, some, counts)
    return kind


def find_kind(path: Path) -> str:
    """Return ``deid-hooks``, ``flywheel``, ``ctp`` or ``rsna``, or raise UnreadableHistory."""
    with path.open("rb") as file:
        head = file.read(4096)
    if head.startswith(b"SQLite format 3\0"):
        return "rsna"
    first = head.decode("utf-8-sig", "replace").partition("\n")[0].strip()
    if first.startswith("{"):
        return "deid-hooks"
    if first.startswith("src_path,type,"):
        return "flywheel"
    if is_ctp(first):
        return "ctp"
    raise UnreadableHistory(
        "this is no export of deid-hooks (JSON Lines), no CSV of Flywheel's --save-deid-logs, no"
        " IDMap CSV of RSNA CTP, and no database of RSNA Anonymizer"
    )


def _make_entries(
    log: Log,
    history: Iterable[list[Changes] | Pair],
    project: str,
    kind: str,
    counts: Counts,
) -> Iterator[Entry]:
    secret = log.secret
    for each in history:
        changes = [convert_pair(each)] if isinstance(each, Pair) else each
        entry = assemble(changes, make_log_id(), project, f"{IMPORTED_BY}{kind}", secret, ())
        if isinstance(each, Pair):  # of which nobody knows to which instances it belongs
            entry = replace(entry, instances=(), uids=each.uids)
            entry = replace(entry, digest=compute_content_digest(entry, secret))
        if log.find_equal(entry):
            counts["there already"] += 1
        else:
            yield replace(entry, log_id=_derive_log_id(entry.digest, secret))


def _derive_log_id(digest: str, secret: SiteSecret) -> str:
    keyed = hmac.digest(secret.derive("ids of imports"), digest.encode("ascii"), "sha256")
    return uuid.UUID(bytes=keyed[:16], version=4).hex.upper()


def _read_records(log: Log, path: Path, counts: Counts) -> Iterator[Record]:
    secret = log.secret
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                record = decode_record(json.loads(line))
            except (ValueError, RecursionError):  # no UTF-8, no JSON, or nested without end
                counts["not understood"] += 1
                continue
            if (
                isinstance(record, Entry)
                and compute_content_digest(record, secret) != record.digest
            ):
                raise UnreadableHistory(
                    f"line {number} holds an entry that was altered, or written with another site"
                    " secret than this machine has"
                )
            yield record


def _append(log: Log, records: list[Record], counts: Counts) -> None:
    try:
        log.append(records)
    except (Forgotten, IdConflict) as error:
        if len(records) > 1:
            for record in records:
                _append(log, [record], counts)
        elif isinstance(records[0], Tombstone):
            counts["forgotten where it comes from, and not here"] += 1
        else:
            counts["forgotten" if isinstance(error, Forgotten) else "other content"] += 1
    else:
        counts["imported"] += sum(isinstance(record, Entry) for record in records)
        counts["other records"] += sum(not isinstance(record, Entry) for record in records)
