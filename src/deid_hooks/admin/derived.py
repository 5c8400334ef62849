"""Re-identify objects made from de-identified images: segmentation, structure set, report.

Their references lead to the entries of the images. They get the patient's and the study's
attributes and the original UIDs of what they refer to; their own series and instance stay.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence as DicomSequence

from deid_hooks.admin.search import Directory, identify_person, merge_originals
from deid_hooks.dicom.dictionary import (
    join_name_groups,
    lookup_tag,
    name_element,
)
from deid_hooks.dicom.encoding import TEXT_VRS
from deid_hooks.dicom.restore import unstamp
from deid_hooks.errors import UnusableDataset
from deid_hooks.records.model import Entry, Instance

_DICOM_ROOT = "1.2.840.10008."  # of UIDs that the standard defines, which nobody changes


@dataclass
class _Lead:
    """Where the references lead: one person, and the entry to take attributes from."""

    person: Any = None
    log_ids: tuple[str, ...] = ()
    entry: Entry | None = None
    instance: Instance | None = None


def restore_derived(
    dataset: Dataset, directory: Directory
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Re-identify a derived object in place. Return the log ids used, and what stays as it is.

    Raises UnusableDataset if no reference leads to an entry, or if they lead to two patients.
    """
    wanted = set(_list_uids(dataset))
    originals_of: dict[str, str] = {}
    lead = _Lead()
    study = str(dataset.get("StudyInstanceUID", ""))
    for entry in directory.find_instances(wanted):
        _follow(lead, entry)
        _prefer(lead, entry, study, wanted)
        _remember_pairs(originals_of, entry, wanted)
    if study:
        for entry in directory.find_study(study):
            _follow(lead, entry)
            _remember_pairs(originals_of, entry, wanted)
    found_by_images = lead.entry is not None
    for entry in directory.find_other_uids(wanted - set(originals_of)):
        # Many patients may share a frame of reference; it tells the patient only where nothing
        # better does.
        if found_by_images and identify_person(entry) not in (None, lead.person):
            continue
        _follow(lead, entry)
        _prefer(lead, entry, study, wanted)
        _remember_pairs(originals_of, entry, wanted)
    if lead.entry is None:
        raise UnusableDataset("nothing that it refers to is in the log")
    originals = merge_originals(lead.entry, lead.instance)
    chosen = {
        path: element
        for path, element in originals.items()
        if belongs_to_patient(path) or (study in originals_of and belongs_to_study(path))
    }
    unstamp(dataset)  # which it copied from an image
    missing = put_originals(dataset, chosen)
    _map_uids(dataset, originals_of)
    mark_identity_restored(dataset)
    return lead.log_ids, missing


def _follow(lead: _Lead, entry: Entry) -> None:
    """Add an entry to the lead. Raises UnusableDataset if it is about another patient."""
    person = identify_person(entry)
    if len(entry.patients) > 1 or (person and lead.person and person != lead.person):
        raise UnusableDataset("its references lead to two patients")
    lead.person = lead.person or person
    if entry.log_id not in lead.log_ids:
        lead.log_ids = (*lead.log_ids, entry.log_id)


def _prefer(lead: _Lead, entry: Entry, study: str, wanted: set[str]) -> None:
    """Take attributes from an image of the same study where there is one."""
    same_study = study in entry.deid.get("StudyInstanceUID", ())
    if lead.entry is None or (
        same_study and study not in lead.entry.deid.get("StudyInstanceUID", ())
    ):
        lead.entry = entry
        lead.instance = next((i for i in entry.instances if i.deid_uid in wanted), None)


def _remember_pairs(originals_of: dict[str, str], entry: Entry, wanted: set[str]) -> None:
    pairs = [(i.deid_uid, i.uid) for i in entry.instances]
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID"):
        now, before = entry.deid.get(keyword, ()), entry.fields.get(keyword, ())
        if len(now) == len(before) == 1:  # of several nobody noted which is which
            pairs.append((now[0], before[0]))
    for deid_uid, uid in (*pairs, *entry.uids):
        if deid_uid in wanted and originals_of.setdefault(deid_uid, uid) != uid:
            raise UnusableDataset("one of its references stands for two originals")


def _list_uids(dataset: Dataset) -> Iterator[str]:
    for element in _find_uids(dataset):
        yield from (uid for uid in _list_values(element) if not uid.startswith(_DICOM_ROOT))


def _map_uids(dataset: Dataset, originals_of: Mapping[str, str]) -> None:
    for element in _find_uids(dataset):
        values = _list_values(element)
        mapped = [originals_of.get(uid, uid) for uid in values]
        if mapped != values:
            element.value = mapped if len(mapped) > 1 else mapped[0]
    meta = getattr(dataset, "file_meta", None)
    if meta is not None and "MediaStorageSOPInstanceUID" in meta:
        meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID


def _find_uids(dataset: Dataset) -> Iterator[DataElement]:
    for tag in list(dataset.keys()):
        raw_vr = dataset.get_item(tag).VR
        if raw_vr not in ("UI", "SQ", None, "UN"):
            continue
        element = dataset[tag]
        if element.VR == "UI":
            yield element
        elif element.VR == "SQ":
            for item in element.value:
                yield from _find_uids(item)


def _list_values(element: DataElement) -> list[str]:
    value = element.value
    values = value if isinstance(value, MultiValue | list | tuple) else [value]
    return [str(uid) for uid in values if uid]


_PATIENT_GROUP = "0010"
_SUBJECT_GROUP = "0012"
_STUDY_KEYWORDS = """
    AccessionNumber AdmissionID AdmittingDiagnosesCodeSequence AdmittingDiagnosesDescription
    ConsultingPhysicianIdentificationSequence ConsultingPhysicianName
    IssuerOfAccessionNumberSequence IssuerOfAdmissionIDSequence IssuerOfServiceEpisodeIDSequence
    NameOfPhysiciansReadingStudy PhysiciansOfRecord PhysiciansOfRecordIdentificationSequence
    PhysiciansReadingStudyIdentificationSequence ProcedureCodeSequence
    ReasonForPerformedProcedureCodeSequence ReasonForVisit ReasonForVisitCodeSequence
    ReferringPhysicianAddress ReferringPhysicianIdentificationSequence ReferringPhysicianName
    ReferringPhysicianTelephoneNumbers RequestingService RequestingServiceCodeSequence
    ServiceEpisodeDescription ServiceEpisodeID StudyDate StudyDescription StudyID StudyTime
"""
_STUDY = frozenset(f"{lookup_tag(keyword):08X}" for keyword in _STUDY_KEYWORDS.split())
MARKS_OF_IDENTITY = ("00120062", "00120063", "00120064")
"""The paths of what says that identity was removed, and how."""


def belongs_to_patient(path: str) -> bool:
    """Return whether the path of an original leads to an attribute of the patient or subject."""
    return path[:4] in (_PATIENT_GROUP, _SUBJECT_GROUP) and path[:8] not in MARKS_OF_IDENTITY


def belongs_to_study(path: str) -> bool:
    """Return whether the path of an original leads to an attribute of the study."""
    return path[:8] in _STUDY


_UTF_8 = "ISO_IR 192"


def put_originals(dataset: Dataset, originals: Mapping[str, Any]) -> tuple[str, ...]:
    """Put top-level originals into ``dataset``; return the names of those that can't be put there.

    What was logged leaf by leaf within a sequence can't: the object may have another sequence.
    """
    missing = []
    for path, element in sorted(originals.items()):
        tag = int(path[:8], 16)
        if "." in path:
            missing.append(name_element(tag))
        elif element is None:
            dataset.pop(tag, None)
        elif (made := _make_element(tag, element)) is None:
            missing.append(name_element(tag))
        else:
            if not _is_ascii(element):
                _use_unicode(dataset)
            dataset[tag] = made
    return tuple(dict.fromkeys(missing))


def _make_element(tag: int, element: Mapping[str, Any]) -> DataElement | None:
    vr = element["vr"]
    try:
        if "digest" in element or "length" in element:
            return None
        if vr == "SQ":
            return DataElement(tag, vr, DicomSequence(map(_make_item, element.get("Value", ()))))
        if "Value" in element:
            values = element["Value"]
            text = "\\".join(map(join_name_groups, values)) if vr in TEXT_VRS else None
            return DataElement(tag, vr, values if text is None else text)
        binary = b64decode(element["InlineBinary"]) if "InlineBinary" in element else None
        return DataElement(tag, vr, binary)
    except Exception:  # noqa: BLE001 - its text may quote the value; the caller names the element
        return None


def _make_item(elements: Mapping[str, Any]) -> Dataset:
    item = Dataset()
    for tag, element in elements.items():
        made = _make_element(int(tag, 16), element)
        if made is None:
            raise ValueError
        item[made.tag] = made
    return item


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


def mark_identity_restored(dataset: Dataset) -> None:
    """Mark that the identity is back, as a re-identifier has to (PS3.15, section E.1.2)."""
    dataset.PatientIdentityRemoved = "NO"
    for keyword in ("DeidentificationMethod", "DeidentificationMethodCodeSequence"):
        if keyword in dataset:
            delattr(dataset, keyword)
