"""What has to be negotiated for files before C-STORE can send them (PS3.8, section 7.1.1.13)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from pydicom.filereader import read_partial
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from deid_hooks.uploader.destinations import Outgoing

_MOST_KINDS = 63  # 128 contexts in an association (PS3.8, section 9.3.2), at most two for a kind
_LONGEST_UID = 64  # PS3.5, section 9.1
_SOP_INSTANCE_UID = 0x00080018


class Kind(NamedTuple):
    """What has to be negotiated for a file.

    ``as_it_lies``: its file meta information says of it what its dataset says, so that it can be
    sent without being decoded.
    """

    sop_class: str
    syntax: str
    as_it_lies: bool


def kind_of(file: Outgoing) -> Kind | None:
    """What a file is; None if it doesn't say so by UIDs that can be proposed."""
    with file.path.open("rb") as staged:
        dataset = read_partial(staged, stop_when=lambda tag, vr, length: tag > _SOP_INSTANCE_UID)
    meta = dataset.file_meta
    sop_class = dataset.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID")
    syntax = meta.get("TransferSyntaxUID")
    if not (sop_class and syntax) or max(len(str(sop_class)), len(str(syntax))) > _LONGEST_UID:
        return None
    uids = (meta.get("MediaStorageSOPClassUID"), meta.get("MediaStorageSOPInstanceUID"))
    return Kind(str(sop_class), str(syntax), uids == (sop_class, file.sop_uid))


def contexts_for(kinds: Iterable[Kind]) -> list[tuple[str, str | None]]:
    """What is proposed: files as they are, and what every archive takes (PS3.5, section 10.1)."""
    proposed: set[tuple[str, str | None]] = {(kind.sop_class, kind.syntax) for kind in kinds}
    plain = {
        (kind, ImplicitVRLittleEndian) for kind, of in proposed if of == ExplicitVRLittleEndian
    }
    return sorted(proposed | plain, key=str)


def batches(kinds: Sequence[Kind]) -> Iterator[Sequence[Kind]]:
    return (kinds[at : at + _MOST_KINDS] for at in range(0, len(kinds), _MOST_KINDS))
