"""The engine ``basic``: the Basic Profile of DICOM PS3.15, by dicom-anonymizer.

The library brings the table (PS3.15, table E.1-1) and the dummy values. It is applied here, because
on its own it reaches the top level only and makes up its UIDs at random. Beyond the table,

- a UID that isn't well known is replaced wherever it stands, so that no reference leads back;
- a name, a date or a time that the table doesn't have is emptied;
- what neither table nor data dictionary has is removed, as private attributes are.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag
from pydicom.uid import UID

from deid_hooks import DeidHooksError, Pseudonyms, SettingsError, UnusableDataset
from deid_hooks.dicom.dictionary import (
    ACCESSION_NUMBER,
    PATIENT_ID,
    PATIENT_NAME,
    SPECIFIC_CHARACTER_SET,
    name_element,
)
from deid_hooks.engines import add_method, mark_identity_removed, renew_file_meta

METHOD = "PS3.15 2026c Basic Profile, deid-hooks with dicom-anonymizer"
_TABLE = "dicomfields_2026c"

_SYSTEMS = frozenset(("CodingSchemeUID", "ContextUID", "MappingResourceUID"))

Rule = Callable[[Dataset, tuple[int, int]], None]


def engine(argument: str, pseudonyms: Pseudonyms) -> BasicProfile:
    """Return the engine; SettingsError for an argument, or if dicom-anonymizer isn't there."""
    if argument:
        raise SettingsError("engine basic takes no argument")
    return BasicProfile(pseudonyms)


class BasicProfile:
    """De-identifies a dataset in place. Gives the same result in every process.

    Picklable. Raises UnusableDataset, which names it, for an attribute that can't be decoded; the
    dataset is half changed then and of no use.
    """

    def __init__(self, pseudonyms: Pseudonyms) -> None:
        try:
            from dicomanonymizer import simpledicomanonymizer as library

            table = library.initialize_actions(_TABLE)
        except (ImportError, ValueError):  # ValueError: an older one, without this table
            raise SettingsError(
                "engine basic needs dicom-anonymizer: pip install 'deid-hooks[basic]'"
            ) from None
        self._pseudonyms = pseudonyms
        self._rules: dict[int, Rule] = {
            tag[0] << 16 | tag[1]: rule for tag, rule in table.items() if len(tag) == 2
        }
        self._repeating: list[tuple[int, int, Rule]] = [
            (tag[0] << 16 | tag[1], tag[2] << 16 | tag[3], rule)
            for tag, rule in table.items()
            if len(tag) == 4
        ]
        self._remove: Rule = library.delete
        self._empty: Rule = library.empty
        self._empty_sequence = (library.empty, library.delete_or_empty)
        self._replace: Rule = library.replace
        self._replace_uids = (library.replace_UID, library.delete_or_empty_or_replace_UID)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._pseudonyms,)

    def __call__(self, dataset: Dataset) -> None:
        self._walk(dataset, label="", otherwise=None)
        _mark(dataset)
        renew_file_meta(dataset)

    def _walk(self, dataset: Dataset, label: str, otherwise: Rule | None) -> None:
        """Apply the table to each attribute, and ``otherwise`` to those that it doesn't have."""
        if PATIENT_ID in dataset:
            patient_id, issuer = _text(dataset, "PatientID"), _text(dataset, "IssuerOfPatientID")
            label = self._pseudonyms.label(patient_id, issuer)
        for tag in list(dataset.keys()):
            try:
                self._apply_attribute(dataset, tag, label, otherwise)
            except DeidHooksError:
                raise
            except Exception as error:  # noqa: BLE001 - its text may quote the value
                what = f"the engine basic failed at {name_element(int(tag))}"
                raise UnusableDataset(f"{what}: {type(error).__name__}") from None

    def _apply_attribute(
        self, dataset: Dataset, tag: BaseTag, label: str, otherwise: Rule | None
    ) -> None:
        number = int(tag)  # comparing a BaseTag is slow
        if number == SPECIFIC_CHARACTER_SET:
            return
        vr = _vr(dataset, tag)
        rule = self._find_rule(number)
        if rule is self._remove or _is_unknown(number):
            del dataset[tag]
        elif number in (PATIENT_ID, PATIENT_NAME):
            dataset[tag] = DataElement(tag, vr, label)
        elif number == ACCESSION_NUMBER:
            token = self._pseudonyms.token("AccessionNumber", _text(dataset, "AccessionNumber"), 12)
            dataset[tag] = DataElement(tag, vr, token)
        elif vr == "SQ":
            self._apply_sequence(dataset, tag, label, rule or otherwise)
        elif vr == "UI" or rule in self._replace_uids:
            if rule or not _names_no_instance(number):
                dataset[tag] = DataElement(tag, "UI", self._uids(dataset[tag].value))
        elif rule := rule or otherwise or (self._empty if vr in ("PN", "DA", "DT", "TM") else None):
            try:
                rule(dataset, (number >> 16, number & 0xFFFF))
            except NotImplementedError:  # no dummy value for this VR
                del dataset[tag]

    def _apply_sequence(
        self, dataset: Dataset, tag: BaseTag, label: str, rule: Rule | None
    ) -> None:
        if rule in self._empty_sequence:
            dataset[tag] = DataElement(tag, "SQ", Sequence())
            return
        dummies = None if rule is None or rule in self._replace_uids else self._replace
        for item in dataset[tag].value:
            self._walk(item, label, dummies)

    def _find_rule(self, number: int) -> Rule | None:
        if number in self._rules:
            return self._rules[number]
        for value, mask, rule in self._repeating:
            if number & mask == value:
                return rule
        return None

    def _uids(self, value: Any) -> str | list[str]:
        if isinstance(value, MultiValue):
            return [self._replace_uid(str(one)) for one in value]
        return self._replace_uid(str(value or ""))

    def _replace_uid(self, original: str) -> str:
        well_known = UID(original).type  # of PS3.6, annex A
        return original if well_known else self._pseudonyms.uid(original)


def _mark(dataset: Dataset) -> None:
    """Say what was done, as PS3.15, sections E.1.1 and E.2, ask."""
    mark_identity_removed(dataset)
    add_method(dataset, METHOD)
    code = Dataset()
    code.CodeValue = "113100"
    code.CodingSchemeDesignator = "DCM"
    code.CodeMeaning = "Basic Application Confidentiality Profile"
    keyword = "DeidentificationMethodCodeSequence"
    if keyword in dataset and dataset[keyword].VR != "SQ":  # text, by another tool
        del dataset[keyword]
    codes = dataset.get(keyword) or []
    dataset.DeidentificationMethodCodeSequence = [
        *(item for item in codes if item.get("CodeValue") != code.CodeValue),
        code,
    ]
    dataset.LongitudinalTemporalInformationModified = "REMOVED"


def _vr(dataset: Dataset, tag: BaseTag) -> str:
    """Return the value representation, without decoding the value."""
    vr = dataset.get_item(tag, keep_deferred=True).VR
    return (_find_standard_vr(int(tag)) or "UN") if vr in (None, "UN") else str(vr)


def _is_unknown(number: int) -> bool:
    """Return whether this is a private attribute, or none of the standard that we know."""
    return bool(number & 0x10000) or not _find_standard_vr(number)


@lru_cache(10_000)
def _find_standard_vr(number: int) -> str:
    """Return the value representation in PS3.6, repeating groups included, or ``""``."""
    try:
        return dictionary_VR(number)
    except KeyError:
        return ""


def _names_no_instance(number: int) -> bool:
    """Return whether this UID names a class, a syntax or a coding system, no patient's data."""
    keyword = keyword_for_tag(number)
    return "SOPClass" in keyword or "TransferSyntax" in keyword or keyword in _SYSTEMS


def _text(dataset: Dataset, keyword: str) -> str:
    value = dataset.get(keyword) or ""
    return "\\".join(map(str, value)) if isinstance(value, MultiValue) else str(value)
