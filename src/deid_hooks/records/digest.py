"""What an entry says in the one way to write it, and the keyed digest of that.

Without pydicom, so that commands which only read the log start at once.
"""

from __future__ import annotations

import json

from deid_hooks.records.keys import SiteSecret
from deid_hooks.records.model import Entry
from deid_hooks.records.pseudonyms import identity_of


def content_digest(entry: Entry, secret: SiteSecret) -> str:
    """The keyed digest of what an entry says, apart from its id and how it came to be."""
    content = [
        entry.project,
        entry.timestamp,
        {keyword: list(values) for keyword, values in entry.fields.items()},
        {keyword: list(values) for keyword, values in entry.deid.items()},
        entry.originals,
        sorted([i.uid, i.deid_uid, i.originals] for i in entry.instances),
        [list(pair) for pair in entry.uids],
        {digest: secret.digest(value) for digest, value in entry.large.items()},
        list(entry.patients),
    ]
    return secret.digest(dumps(content).encode("ascii"))


def dumps(value: object) -> str:
    """Canonical JSON: sorted keys, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def patient_digest(patient_id: str, issuer: str, secret: SiteSecret) -> str:
    """The keyed digest of a patient's identity, as in :attr:`Entry.patients`."""
    identity = identity_of(patient_id, issuer)
    return secret.digest(json.dumps(["patient", *identity]).encode("ascii"))
