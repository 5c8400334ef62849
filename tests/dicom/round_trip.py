"""A file on its way: de-identified and staged as an upload does it, and back."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from deid_hooks import Changes, Pseudonyms, restore
from deid_hooks.dicom.difference import assemble
from deid_hooks.dicom.elements import Kind, Layout, read_layout
from deid_hooks.dicom.part10 import read_dicom, write_dicom
from deid_hooks.records.fields import INDEXED_FIELDS
from deid_hooks.records.model import make_log_id
from deid_hooks.uploader.prepare import Preparer, Refused, Work


@dataclass(frozen=True)
class Trip:
    """What an upload made of a file, and what came back of it.

    ``refused`` is the reason if it wasn't sent, and the rest is empty then.
    """

    refused: str
    delivered: bytes = b""
    restored: bytes = b""
    not_restored: tuple[str, ...] = ()
    changes: Changes | None = None


def travel(content: bytes, folder: Path, engine: str = "basic") -> Trip:
    """Prepare a file of this content as an upload does, and restore what was staged."""
    path, staging = folder / "image.dcm", folder / "staging"
    path.write_bytes(content)
    staging.mkdir(exist_ok=True)
    work = Work(engine, Pseudonyms("", b"s" * 32), INDEXED_FIELDS, staging)
    prepared = Preparer(work).prepare(path)
    if isinstance(prepared, Refused):
        assert list(staging.iterdir()) == []
        return Trip(prepared.reason)
    delivered = prepared.staged.read_bytes()
    prepared.staged.unlink()
    dataset, _ = read_dicom(BytesIO(delivered))
    entry = assemble([prepared.changes], make_log_id(), "", "test", INDEXED_FIELDS)
    original, missing, encoding = restore(dataset, entry)
    back = BytesIO()
    write_dicom(original, back, encoding)
    return Trip("", delivered, back.getvalue(), missing, prepared.changes)


def values(content: bytes) -> dict[str, tuple[str | None, bytes]]:
    """Every value of a file by its path, with its VR; group lengths are left out."""
    found: Layout = read_layout(BytesIO(content))
    kept: dict[str, tuple[str | None, bytes]] = {"preamble": (None, content[:128])}
    for each in found.found.values():
        if each.kind in (Kind.LEAF, Kind.FRAGMENT) and each.tag & 0xFFFF:
            found.data.seek(each.offset)
            kept[each.path] = (each.vr, found.data.read(each.length))
    return kept
