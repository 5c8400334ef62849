"""The DICOM data dictionary (PS3.6) and tags by name, without the 100 ms that pydicom takes.

pydicom keeps it in a module of plain dictionaries. That module is loaded by its path, so that
``show`` and ``search`` feel instant; nothing else of pydicom is imported.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path
from types import ModuleType

SPECIFIC_CHARACTER_SET = 0x00080005
SOP_CLASS_UID = 0x00080016
SOP_INSTANCE_UID = 0x00080018
ACCESSION_NUMBER = 0x00080050
PATIENT_NAME = 0x00100010
PATIENT_ID = 0x00100020
ISSUER_OF_PATIENT_ID = 0x00100021
PATIENT_BIRTH_DATE = 0x00100030
STUDY_INSTANCE_UID = 0x0020000D
SERIES_INSTANCE_UID = 0x0020000E
MEDIA_STORAGE_SOP_INSTANCE_UID = 0x00020003
TRANSFER_SYNTAX_UID = 0x00020010
DIRECTORY_RECORD_SEQUENCE = 0x00041220
PIXELS = frozenset((0x7FE00008, 0x7FE00009, 0x7FE00010))
"""Float, double float and integer pixel data."""

MEDIA_STORAGE_DIRECTORY = "1.2.840.10008.1.3.10"
"""The SOP class of a DICOMDIR."""

NAME_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")
"""The component groups of a person's name, as DICOM JSON calls them (PS3.18, section F.2.2)."""


@cache
def _read_tables() -> ModuleType:
    package = importlib.util.find_spec("pydicom")
    if package is None or not package.submodule_search_locations:  # pragma: no cover
        raise ImportError("pydicom is not installed")
    path = Path(package.submodule_search_locations[0]) / "_dicom_dict.py"
    spec = importlib.util.spec_from_file_location("deid_hooks._dicom_dict", path)
    if spec is None or spec.loader is None:  # pragma: no cover
        raise ImportError(f"no data dictionary at {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def _index_keywords() -> dict[str, int]:
    return {row[4]: tag for tag, row in _read_tables().DicomDictionary.items() if row[4]}


def lookup_keyword(tag: int) -> str:
    """Return the keyword of a tag, ``""`` for one that the dictionary does not have."""
    row = _read_tables().DicomDictionary.get(tag)
    return str(row[4]) if row else ""


@lru_cache(maxsize=4096)
def lookup_vr(tag: int) -> str:
    """Return the value representation of a tag, ``""`` if the dictionary does not have it."""
    row = _read_tables().DicomDictionary.get(tag)
    return str(row[0]) if row else ""


def lookup_tag(keyword: str) -> int | None:
    """Return the tag of a keyword, spelt exactly; None if the dictionary does not have it."""
    return _index_keywords().get(keyword)


def list_keywords() -> tuple[str, ...]:
    """Return every keyword of the dictionary."""
    return tuple(_index_keywords())


def name_element(tag: int) -> str:
    """Return the keyword of a tag, or ``(gggg,eeee)``: how messages name an element."""
    return lookup_keyword(tag) or f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def join_name_groups(name: object) -> str:
    """Return a person's name of DICOM JSON as it is written in a file: ``Yamada=山田``.

    Any other value is its text, none the empty one.
    """
    if not isinstance(name, Mapping):
        return "" if name is None else str(name)
    return "=".join(name.get(group, "") for group in NAME_GROUPS).rstrip("=")
