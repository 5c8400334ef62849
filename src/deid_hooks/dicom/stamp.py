"""The log id in a delivered file, for sites that want it there: put in last, taken out first.

A stamp is no proof: objects derived from a file copy its header. What selects an entry is UIDs.
"""

from __future__ import annotations

from typing import Literal

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from deid_hooks.records.model import parse_log_id

Stamp = Literal["none", "equipment", "private"]

_CONTRIBUTING_EQUIPMENT = 0x0018A001
_OURS = "deid-hooks"
_GROUP, _CREATOR = 0x0011, "DEID-HOOKS LOG ID"
_PREFIX = "de-id log id "


def stamp(dataset: Dataset, log_id: str, kind: Stamp) -> None:
    """Put the log id into a de-identified dataset, in place of one that is there.

    ``equipment``: an item of Contributing Equipment Sequence (0018,A001), whose purpose is
    De-identifying Equipment (PS3.3, section C.12.1.1.5; PS3.16, CID 7005, code 109104).
    ``private``: an element of a private block of ours in group 0011.
    """
    unstamp(dataset)
    if kind == "equipment":
        items = dataset.get("ContributingEquipmentSequence") or []
        dataset.ContributingEquipmentSequence = Sequence([*items, _equipment(log_id)])
    elif kind == "private":
        dataset.private_block(_GROUP, _CREATOR, create=True).add_new(0x01, "LO", log_id)


def unstamp(dataset: Dataset) -> str | None:
    """Take a stamp of ours out of a dataset, and return the log id that it held."""
    found: str | None = None
    if _CONTRIBUTING_EQUIPMENT in dataset:
        items = dataset.ContributingEquipmentSequence
        kept = [item for item in items if _log_id_in(item) is None]
        if len(kept) < len(items):
            found = next(filter(None, map(_log_id_in, items)))
            dataset.ContributingEquipmentSequence = Sequence(kept)
            if not kept:
                del dataset[_CONTRIBUTING_EQUIPMENT]
    try:
        block = dataset.private_block(_GROUP, _CREATOR)
    except KeyError:
        return found
    if 0x01 in block:
        found = parse_log_id(str(block[0x01].value))
        del block[0x01]
    del dataset[_GROUP, block.block_start >> 8]
    return found


def _equipment(log_id: str) -> Dataset:
    purpose = Dataset()
    purpose.CodeValue, purpose.CodingSchemeDesignator = "109104", "DCM"
    purpose.CodeMeaning = "De-identifying Equipment"
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = Sequence([purpose])
    item.Manufacturer = _OURS
    item.ContributionDescription = f"{_PREFIX}{log_id}"
    return item


def _log_id_in(item: Dataset) -> str | None:
    told = str(item.get("ContributionDescription", ""))
    if item.get("Manufacturer") != _OURS or not told.startswith(_PREFIX):
        return None
    return parse_log_id(told.removeprefix(_PREFIX))
