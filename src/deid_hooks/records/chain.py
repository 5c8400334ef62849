"""The access trail: each row is sealed with a key, over the seal of the row before it.

Who has the store but not the key can't change, remove or insert a row without breaking the chain;
rows cut off at its end are missed by who kept its head. What was asked and why stand in the chain
by a salted commitment only, so that they can be erased when a patient is forgotten.
"""

from __future__ import annotations

import hmac
import json
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from deid_hooks.records.keys import SiteSecret
from deid_hooks.records.model import AccessRow

_PURPOSE = "access trail"


@dataclass(frozen=True, slots=True)
class Break:
    """What is wrong with the trail, and from which row on. Holds no value of the row."""

    row_id: str
    what: str


def trail_key(secret: SiteSecret) -> bytes:
    """The key of the trail, made from the site secret."""
    return secret.derive(_PURPOSE)


def linked(row: AccessRow, previous: str, key: bytes) -> AccessRow:
    """``row`` as the one that follows the row whose seal is ``previous``, ``""`` for the first."""
    salted = replace(row, salt=secrets.token_hex(16), previous=previous)
    committed = replace(salted, commitment=_commitment(salted, key))
    return replace(committed, seal=_seal(committed, key))


def erased(row: AccessRow) -> AccessRow:
    """``row`` without what was asked and why. It keeps its place in the chain."""
    return replace(row, asked="", reason="", salt="")


def same_row(known: AccessRow, row: AccessRow) -> bool:
    """Whether the store holds ``row`` as ``known``, whole or erased since it was written."""
    return known == row or known == erased(row)


def breaks(rows: Iterable[AccessRow], key: bytes, head: str | None = None) -> Iterator[Break]:
    """Every break of a trail read from its beginning, in order; none if it is whole.

    ``head`` is a seal that was kept elsewhere: it must still be in the trail.
    """
    previous, found = "", head in (None, "")
    for row in rows:
        if row.previous != previous:
            yield Break(row.id, "the row before it was removed, or rows were put in another order")
        if not hmac.compare_digest(row.seal, _seal(row, key)):
            yield Break(row.id, "it was changed, or sealed with another key")
        elif row.salt and not hmac.compare_digest(row.commitment, _commitment(row, key)):
            yield Break(row.id, "what was asked, or the reason, was changed")
        elif not row.salt and (row.asked or row.reason):
            yield Break(row.id, "what was asked, or the reason, was put in later")
        previous = row.seal
        found = found or row.seal == head
    if not found:
        yield Break("", "the head that was kept elsewhere is gone: the end was cut off, or changed")


def _commitment(row: AccessRow, key: bytes) -> str:
    return _keyed(key, "commitment", row.salt, row.asked, row.reason)


def _seal(row: AccessRow, key: bytes) -> str:
    plain = (row.id, row.at, row.who, row.where, row.action, json.dumps(row.log_ids))
    return _keyed(key, "seal", row.previous, row.commitment, *plain)


def _keyed(key: bytes, *texts: str) -> str:
    return hmac.digest(key, json.dumps(texts).encode("ascii"), "sha256").hex()
