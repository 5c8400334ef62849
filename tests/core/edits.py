"""What engines do to a dataset in place, for hypothesis to choose from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from copy import deepcopy
from typing import NamedTuple

from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.dataelem import DataElement
from pydicom.multival import MultiValue

from tests.core.files import item
from tests.core.streams import CHARACTER_SETS

_NUMBERS = ("US", "SS", "UL", "SL", "UV", "SV", "FL", "FD")
_BYTES = ("OB", "OD", "OF", "OL", "OV", "OW", "UN")
_NEW: dict[str, Sequence[object]] = {
    **dict.fromkeys(_NUMBERS, (7, [1, 2], 0)),
    **dict.fromkeys(_BYTES, (b"ab", b"\0\0\0\0", b"odd")),
    "AT": (0x00100010,),
    "DA": ("20010101",),
    "DS": ("1.5", 0, ["1", "2.0"]),
    "DT": ("20010101",),
    "IS": ("3", 0),
    "TM": ("010101",),
    "UI": ("2.25.7", ["2.25.7", "2.25.8"]),
}
_TEXT = ("X", "A^B", "A\\B", "ä", "")


class Edit(NamedTuple):
    """One thing that is done at one place of a dataset."""

    name: str
    place: int
    choice: int


def edits(names: Sequence[str] | None = None) -> st.SearchStrategy[list[Edit]]:
    """Some edits: of these names, or any that keep the character set."""
    known = names or [name for name in _EDITS if name != "changes_the_character_set"]
    places = st.integers(0, 30)
    return st.lists(st.builds(Edit, st.sampled_from(list(known)), places, places), max_size=4)


def edit(dataset: Dataset, chosen: Sequence[Edit]) -> None:
    """Do that in place. An element that can't be read is left as it is, as engines would."""
    for name, place, choice in chosen:
        with suppress(Exception):
            _EDITS[name](dataset, place, choice)


def _all(dataset: Dataset) -> Iterator[Dataset]:
    """A dataset and the items inside, to any depth."""
    yield dataset
    for tag in sorted(dataset.keys()):
        with suppress(Exception):
            if dataset[tag].VR == "SQ":
                for inner in dataset[tag].value:
                    yield from _all(inner)


def _an_element(dataset: Dataset, place: int) -> tuple[Dataset, DataElement]:
    """One element of all, but the SOP Instance UID and the character set."""
    found = [
        (inner, tag)
        for inner in _all(dataset)
        for tag in sorted(inner.keys())
        if tag not in (0x00080018, 0x00080005)
    ]
    inner, tag = found[place % len(found)]
    return inner, inner[tag]


def _touches(dataset: Dataset, place: int, choice: int) -> None:
    str(_an_element(dataset, place)[1].value)


def _touches_all(dataset: Dataset, place: int, choice: int) -> None:
    for inner in list(_all(dataset)):
        for tag in sorted(inner.keys()):
            with suppress(Exception):
                str(inner[tag].value)


def _sets(dataset: Dataset, place: int, choice: int) -> None:
    _, element = _an_element(dataset, place)
    if element.VR != "SQ":
        new = _NEW.get(element.VR, _TEXT)
        element.value = new[choice % len(new)]


def _empties(dataset: Dataset, place: int, choice: int) -> None:
    _, element = _an_element(dataset, place)
    element.value = [] if element.VR == "SQ" else None


def _deletes(dataset: Dataset, place: int, choice: int) -> None:
    inner, element = _an_element(dataset, place)
    del inner[element.tag]


def _adds(dataset: Dataset, place: int, choice: int) -> None:
    inner = list(_all(dataset))[place % len(list(_all(dataset)))]
    if choice % 3:
        inner.PatientComments = "added"
        inner.DeidentificationMethodCodeSequence = [item(CodeValue="1")]
    else:
        inner.private_block(0x000B, "AN ENGINE", create=True).add_new(1, "LO", "added")


def _edits_a_list(dataset: Dataset, place: int, choice: int) -> None:
    lists = [
        element
        for inner in _all(dataset)
        for element in [inner[tag] for tag in sorted(inner.keys()) if tag != 0x00080005]
        if isinstance(element.value, MultiValue)
    ]
    value = lists[place % len(lists)].value
    if choice % 2:
        value[0] = value[-1]
    else:
        del value[0]


def _edits_items(dataset: Dataset, place: int, choice: int) -> None:
    sequences = [
        inner[tag].value
        for inner in _all(dataset)
        for tag in sorted(inner.keys())
        if inner[tag].VR == "SQ"
    ]
    items = sequences[place % len(sequences)]
    if choice % 3 == 0:
        items.append(item(PatientName="added"))
    elif choice % 3 == 1:
        items.append(deepcopy(items[0]))
    else:
        del items[0]


def _changes_the_vr(dataset: Dataset, place: int, choice: int) -> None:
    inner, element = _an_element(dataset, place)
    vr = ("UN", "LO", "OB")[choice % 3]
    inner[element.tag] = DataElement(element.tag, vr, "ab" if vr == "LO" else b"ab")


def _changes_the_character_set(dataset: Dataset, place: int, choice: int) -> None:
    new = CHARACTER_SETS[choice % len(CHARACTER_SETS)]
    dataset.SpecificCharacterSet = new.split("\\") if "\\" in new else new


_EDITS: dict[str, Callable[[Dataset, int, int], None]] = {
    function.__name__.lstrip("_"): function
    for function in (
        _touches,
        _touches_all,
        _sets,
        _empties,
        _deletes,
        _adds,
        _edits_a_list,
        _edits_items,
        _changes_the_vr,
        _changes_the_character_set,
    )
}
