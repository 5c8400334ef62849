"""The DICOM data dictionary (PS3.6), without the 100 ms that importing pydicom takes.

pydicom keeps it in a module of plain dictionaries. That module is loaded by its path, so that
``show`` and ``search`` feel instant; nothing else of pydicom is imported.
"""

from __future__ import annotations

import importlib.util
from functools import cache, lru_cache
from pathlib import Path
from types import ModuleType


@cache
def _tables() -> ModuleType:
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
def _by_keyword() -> dict[str, int]:
    return {row[4]: tag for tag, row in _tables().DicomDictionary.items() if row[4]}


def lookup_keyword(tag: int) -> str:
    """The keyword of a tag, ``""`` for one that the dictionary does not have."""
    row = _tables().DicomDictionary.get(tag)
    return str(row[4]) if row else ""


@lru_cache(maxsize=4096)
def lookup_vr(tag: int) -> str:
    """The value representation of a tag, ``""`` for one that the dictionary does not have."""
    row = _tables().DicomDictionary.get(tag)
    return str(row[0]) if row else ""


def lookup_tag(keyword: str) -> int | None:
    """The tag of a keyword, spelt exactly; None for one that the dictionary does not have."""
    return _by_keyword().get(keyword)


def list_keywords() -> tuple[str, ...]:
    """Every keyword of the dictionary."""
    return tuple(_by_keyword())
