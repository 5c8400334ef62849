"""The seals of the access trail: each access row is sealed with a key, over the seal before it.

Who has the store but not the key can't change, remove or insert a row without breaking the chain;
rows cut off at its end are missed by who kept its head. What was asked and why are covered by a
salted commitment only, so that they can be erased when a patient is forgotten.
"""

from __future__ import annotations

import hmac
import json
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from deid_hooks.records.model import AccessRow, Record

_PURPOSE = "access trail"


@dataclass(frozen=True, slots=True)
class Break:
    """What is wrong with the trail, and from which row on. Holds no value of the row."""

    row_id: str
    what: str


def commit_terms(row: AccessRow, key: bytes) -> AccessRow:
    """Return a new row with a salt, and the commitment that covers what was asked and why."""
    salted = replace(row, salt=secrets.token_hex(16))
    return replace(salted, commitment=_compute_commitment(salted, key))


def seal_records(head: str, records: Sequence[Record], key: bytes) -> list[str]:
    """Return a seal for each record, in their order; ``""`` for a kind that is not sealed.

    ``head`` is the last seal of the store, ``""`` before the first. Today access rows are sealed.
    """
    seals = []
    for record in records:
        seal = _compute_seal(record, head, key) if isinstance(record, AccessRow) else ""
        head = seal or head
        seals.append(seal)
    return seals


def erase_terms(row: AccessRow) -> AccessRow:
    """Return ``row`` without what was asked and why. Its seal still holds."""
    return replace(row, asked="", reason="", salt="")


def find_breaks(
    trail: Iterable[tuple[AccessRow, str]], key: bytes, head: str | None = None
) -> Iterator[Break]:
    """Yield every break of a trail, its rows with their seals in order; none if it is whole.

    ``head`` is a seal that was kept elsewhere: it must still be in the trail.
    """
    before, found = "", head in (None, "")
    for row, seal in trail:
        if not hmac.compare_digest(seal, _compute_seal(row, before, key)):
            yield Break(
                row.id,
                "it was changed, a row before it was removed or moved, or another key sealed it",
            )
        elif row.salt and not hmac.compare_digest(row.commitment, _compute_commitment(row, key)):
            yield Break(row.id, "what was asked, or the reason, was changed")
        elif not row.salt and (row.asked or row.reason):
            yield Break(row.id, "what was asked, or the reason, was added later")
        before = seal
        found = found or seal == head
    if not found:
        yield Break("", "the head that was kept elsewhere is missing: the end was cut, or changed")


def _compute_commitment(row: AccessRow, key: bytes) -> str:
    return _compute_keyed(key, "commitment", row.salt, row.asked, row.reason)


def _compute_seal(row: AccessRow, before: str, key: bytes) -> str:
    plain = (row.id, row.at, row.who, row.where, row.action, json.dumps(row.log_ids))
    return _compute_keyed(key, "seal", before, row.commitment, *plain)


def _compute_keyed(key: bytes, *texts: str) -> str:
    return hmac.digest(key, json.dumps(texts).encode("ascii"), "sha256").hex()
