"""A log of version 1 in each database, and what is in it; see README.md."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from deid_hooks.records.json_codec import decode_record
from deid_hooks.records.keys import SiteSecret
from deid_hooks.records.model import Record

FOLDER = Path(__file__).parent
SECRET = SiteSecret(b"\xab" * 32)

_SECOND = "Straßeł^Œuvre ħ đ ı ø ð þ æ^Złoty"
FOUND_BY_NAME = {
    "Aero Thora": "Ærø^Þóra Ð",
    "strassel oeuvre": _SECOND,
    "h d th zloty": _SECOND,
}
"""Bare words, and the name that they find though version 1 kept other words of it."""


def read_records() -> list[tuple[Record, str]]:
    """Return the records with their seals, in the order of the log."""
    found = []
    for line in read("records.jsonl").splitlines():
        document = json.loads(line)
        document.pop("previous", None)
        seal = document.pop("seal", "")
        found.append((decode_record(document), seal))
    return found


def read(name: str) -> str:
    """Return the text of a file here."""
    return gzip.decompress((FOLDER / f"{name}.gz").read_bytes()).decode()


def unpack(path: Path) -> Path:
    """Write the log of SQLite to this path, and return it."""
    path.write_bytes(gzip.decompress((FOLDER / "log.db.gz").read_bytes()))
    path.chmod(0o600)
    return path
