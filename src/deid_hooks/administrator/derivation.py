"""Objects made from de-identified images (segmentation, structure set, report), brought home.

Their references lead to the entries of the images. They get the patient's and the study's
attributes and the original UIDs of what they refer to; their own series and instance stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from deid_hooks.administrator.directory import Directory
from deid_hooks.administrator.identity import mark_identity_restored, originals_of, person_of
from deid_hooks.administrator.levels import belongs_to_patient, belongs_to_study
from deid_hooks.administrator.transplant import put_originals
from deid_hooks.entry import Entry, Instance
from deid_hooks.errors import UnusableDataset
from deid_hooks.stamping import unstamp

_SOP_INSTANCE_UID, _SERIES_INSTANCE_UID = 0x00080018, 0x0020000E
_DICOM_ROOT = "1.2.840.10008."  # of UIDs that the standard defines, which nobody changes


@dataclass
class _Lead:
    """Where the references lead: one person, the entry to take attributes from, original UIDs."""

    person: Any = None
    log_ids: tuple[str, ...] = ()
    entry: Entry | None = None
    instance: Instance | None = None


def bring_home(dataset: Dataset, directory: Directory) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Map a derived object home, in place: the log ids that led there, and what stays as it is.

    Raises UnusableDataset if no reference leads to an entry, or if they lead to two patients.
    """
    wanted = set(_uids_in(dataset))
    home: dict[str, str] = {}
    lead = _Lead()
    study = str(dataset.get("StudyInstanceUID", ""))
    for entry in directory.with_instances(wanted):
        _agree(lead, entry)
        _prefer(lead, entry, study, wanted)
        _learn(home, entry, wanted)
    if study:
        for entry in directory.with_study(study):
            _agree(lead, entry)
            _learn(home, entry, wanted)
    found_by_images = lead.entry is not None
    for entry in directory.with_other_uids(wanted - set(home)):
        # A frame of reference may be that of many patients; it tells the patient only where
        # nothing better does.
        if found_by_images and person_of(entry) not in (None, lead.person):
            continue
        _agree(lead, entry)
        _prefer(lead, entry, study, wanted)
        _learn(home, entry, wanted)
    if lead.entry is None:
        raise UnusableDataset("nothing that it refers to is in the log")
    originals = originals_of(lead.entry, lead.instance)
    chosen = {
        path: element
        for path, element in originals.items()
        if belongs_to_patient(path) or (study in home and belongs_to_study(path))
    }
    unstamp(dataset)  # which it copied from an image
    missing = put_originals(dataset, chosen)
    _map_uids(dataset, home)
    mark_identity_restored(dataset)
    return lead.log_ids, missing


def _agree(lead: _Lead, entry: Entry) -> None:
    person = person_of(entry)
    if len(entry.patients) > 1 or (person and lead.person and person != lead.person):
        raise UnusableDataset("its references lead to two patients")
    lead.person = lead.person or person
    if entry.log_id not in lead.log_ids:
        lead.log_ids = (*lead.log_ids, entry.log_id)


def _prefer(lead: _Lead, entry: Entry, study: str, wanted: set[str]) -> None:
    """Attributes are taken from an image of the same study where there is one."""
    same_study = study in entry.deid.get("StudyInstanceUID", ())
    if lead.entry is None or (
        same_study and study not in lead.entry.deid.get("StudyInstanceUID", ())
    ):
        lead.entry = entry
        lead.instance = next((i for i in entry.instances if i.deid_uid in wanted), None)


def _learn(home: dict[str, str], entry: Entry, wanted: set[str]) -> None:
    pairs = [(i.deid_uid, i.uid) for i in entry.instances]
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID"):
        now, before = entry.deid.get(keyword, ()), entry.fields.get(keyword, ())
        if len(now) == len(before) == 1:  # of several nobody noted which is which
            pairs.append((now[0], before[0]))
    for deid_uid, uid in (*pairs, *entry.uids):
        if deid_uid in wanted and home.setdefault(deid_uid, uid) != uid:
            raise UnusableDataset("one of its references stands for two originals")


def _uids_in(dataset: Dataset) -> Iterator[str]:
    for element in _uid_elements(dataset):
        yield from (uid for uid in _values(element) if not uid.startswith(_DICOM_ROOT))


def _map_uids(dataset: Dataset, home: Mapping[str, str]) -> None:
    for element in _uid_elements(dataset):
        values = _values(element)
        mapped = [home.get(uid, uid) for uid in values]
        if mapped != values:
            element.value = mapped if len(mapped) > 1 else mapped[0]
    meta = getattr(dataset, "file_meta", None)
    if meta is not None and "MediaStorageSOPInstanceUID" in meta:
        meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID


def _uid_elements(dataset: Dataset) -> Iterator[DataElement]:
    for tag in list(dataset.keys()):
        raw_vr = dataset.get_item(tag).VR
        if raw_vr not in ("UI", "SQ", None, "UN"):
            continue
        element = dataset[tag]
        if element.VR == "UI":
            yield element
        elif element.VR == "SQ":
            for item in element.value:
                yield from _uid_elements(item)


def _values(element: DataElement) -> list[str]:
    value = element.value
    several: Iterable[Any] = value if isinstance(value, MultiValue | list | tuple) else [value]
    return [str(uid) for uid in several if uid]
