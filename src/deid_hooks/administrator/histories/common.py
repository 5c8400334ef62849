"""What histories are read into: changes of instances, or single pairs of values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydicom import config
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from deid_hooks.dicomjson import TEXT_VRS
from deid_hooks.dictionary import tag_of, vr_of
from deid_hooks.difference import Changes, changes
from deid_hooks.errors import DeidHooksError, UnusableDataset

IMPORTED_BY = "import "
"""How the uploader of an entry begins that was imported from another system."""

UNKNOWN_UID = "ReferencedSOPInstanceUID"
"""Under which the original of a UID is found of which nobody noted what it is the UID of."""

_INSTANCE_UID = 0x00080018


class UnreadableHistory(DeidHooksError):
    """A file that can't be imported. Names the line, not what stands there."""


@dataclass(frozen=True, slots=True)
class Pair:
    """An original value and what stands for it, and nothing about whose instances they are."""

    keyword: str
    original: str = field(repr=False)
    deid: str

    @property
    def uids(self) -> tuple[tuple[str, str], ...]:
        """The pair as an entry keeps UIDs, if it is one of UIDs."""
        return ((self.deid, self.original),) if self.keyword == UNKNOWN_UID else ()


def instance_changes(before: Mapping[int, str], after: Mapping[int, str]) -> Changes:
    """What differs between two instances that are known by some of their values, by tag.

    Raises UnusableDataset where one of them has no SOPInstanceUID.
    """
    if not after.get(_INSTANCE_UID):
        raise UnusableDataset("the de-identified instance has no SOPInstanceUID")
    return changes(_dataset(before), _dataset(after))


def changes_of_pair(pair: Pair) -> Changes:
    """A pair as the changes of an instance that has nothing else."""
    tag = tag_of(pair.keyword) or 0
    nameless = {_INSTANCE_UID: "1.2"}
    return instance_changes({**nameless, tag: pair.original}, {**nameless, tag: pair.deid})


def text_tag(name: str) -> int | None:
    """The tag of a keyword or of eight hex digits, if its values are text; None otherwise."""
    try:
        tag = tag_of(name) or (int(name, 16) if len(name) == 8 else None)
    except ValueError:
        return None
    return tag if tag is not None and vr_of(tag) in TEXT_VRS else None


def _dataset(values: Mapping[int, str]) -> Dataset:
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    for tag, value in values.items():
        element = DataElement(tag, vr_of(tag), value, validation_mode=config.IGNORE)
        dataset[tag] = element
    return dataset
