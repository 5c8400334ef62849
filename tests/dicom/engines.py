"""Engines: two that people use, and some that are hard on what was captured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress

from dicognito.anonymizer import Anonymizer
from dicomanonymizer import anonymize_dataset
from pydicom import Dataset
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement

Engine = Callable[[Dataset], None]

_TEXT = ("AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UT")
_PIXEL_DATA = 0x7FE00010


def dicognito(dataset: Dataset) -> None:
    Anonymizer(seed="a seed").anonymize(dataset)


def dicom_anonymizer(dataset: Dataset) -> None:
    anonymize_dataset(dataset)


def removes_all_but_uids(dataset: Dataset) -> None:
    """Pixels stay, whose originals are never logged."""
    for tag in list(dataset.keys()):
        if _vr(dataset, tag) != "UI" and tag != _PIXEL_DATA:
            del dataset[tag]


def writes_utf_8(dataset: Dataset) -> None:
    dataset.SpecificCharacterSet = "ISO_IR 192"


def empties_text(dataset: Dataset) -> None:
    for element in _elements(dataset):
        if element.VR in _TEXT and element.tag != 0x00080005:
            element.value = None


def deletes_private_elements(dataset: Dataset) -> None:
    for tag in [tag for tag in dataset.keys() if tag.is_private]:  # noqa: SIM118
        del dataset[tag]
    for element in _elements(dataset):
        if element.VR == "SQ":
            for item in element.value:
                deletes_private_elements(item)


def touches_everything(dataset: Dataset) -> None:
    """Changes nothing, but decodes every element by looking at it."""
    for element in _elements(dataset):
        str(element.value)


def does_nothing(dataset: Dataset) -> None:
    pass


ENGINES: dict[str, Engine] = {
    engine.__name__: engine
    for engine in (
        dicognito,
        dicom_anonymizer,
        removes_all_but_uids,
        writes_utf_8,
        empties_text,
        deletes_private_elements,
        touches_everything,
        does_nothing,
    )
}


def _elements(dataset: Dataset) -> Iterator[DataElement]:
    """Every element that can be read, nested ones too."""
    for tag in list(dataset.keys()):
        with suppress(Exception):
            element = dataset[tag]
            yield element
            if element.VR == "SQ":
                for item in element.value:
                    yield from _elements(item)


def _vr(dataset: Dataset, tag: int) -> str:
    with suppress(KeyError):
        return dictionary_VR(tag)
    return str(dataset.get_item(tag).VR)
