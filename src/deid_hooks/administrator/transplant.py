"""Putting originals into another object than the one they were captured from.

Its character set may be another one: so they are put in as text, not as bytes.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping
from typing import Any

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence

from deid_hooks.attributes import name_of
from deid_hooks.dicomjson import TEXT_VRS

_UTF_8 = "ISO_IR 192"
_NAME_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")


def put_originals(dataset: Dataset, originals: Mapping[str, Any]) -> tuple[str, ...]:
    """Put top-level originals into ``dataset``; the names of those that could not be.

    What was logged leaf by leaf within a sequence can't: the object may have another one.
    """
    missing = []
    for path, element in sorted(originals.items()):
        tag = int(path[:8], 16)
        if "." in path:
            missing.append(name_of(tag))
        elif element is None:
            dataset.pop(tag, None)
        elif (made := _element(tag, element)) is None:
            missing.append(name_of(tag))
        else:
            if not _is_ascii(element):
                _use_unicode(dataset)
            dataset[tag] = made
    return tuple(dict.fromkeys(missing))


def _element(tag: int, element: Mapping[str, Any]) -> DataElement | None:
    vr = element["vr"]
    try:
        if "digest" in element or "length" in element:
            return None
        if vr == "SQ":
            return DataElement(tag, vr, DicomSequence(map(_item, element.get("Value", ()))))
        if "Value" in element:
            values = element["Value"]
            text = "\\".join(map(_text, values)) if vr in TEXT_VRS else None
            return DataElement(tag, vr, values if text is None else text)
        binary = b64decode(element["InlineBinary"]) if "InlineBinary" in element else None
        return DataElement(tag, vr, binary)
    except Exception:  # noqa: BLE001 - its text may quote the value; the caller names the element
        return None


def _item(elements: Mapping[str, Any]) -> Dataset:
    item = Dataset()
    for tag, element in elements.items():
        made = _element(int(tag, 16), element)
        if made is None:
            raise ValueError
        item[made.tag] = made
    return item


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return "=".join(value.get(group, "") for group in _NAME_GROUPS).rstrip("=")
    return "" if value is None else str(value)


def _is_ascii(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_is_ascii(part) for key, part in value.items() if key != "raw")
    if isinstance(value, list):
        return all(map(_is_ascii, value))
    return not isinstance(value, str) or value.isascii()


def _use_unicode(dataset: Dataset) -> None:
    if dataset.get("SpecificCharacterSet") != _UTF_8:
        dataset.decode()
        dataset.SpecificCharacterSet = _UTF_8
