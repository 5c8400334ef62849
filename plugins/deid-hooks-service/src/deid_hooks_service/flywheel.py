"""An entry from what the Flywheel CLI posts: some originals of a packfile, mostly of one series.

``indexed_fields`` are its keywords and values; ``deidentified_tags``, which releases before 15.9
fill, are elements of the DICOM JSON model (PS3.18, annex F) by tag.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from deid_hooks.dicom.dictionary import lookup_tag, lookup_vr
from deid_hooks.dicom.identity import format_iso
from deid_hooks.records.fields import INDEXED_FIELDS
from deid_hooks.records.keys import (
    SiteSecret,
    compute_content_digest,
    compute_patient_digest,
    write_canonical_json,
)
from deid_hooks.records.model import Entry, UploadEvent, make_log_id, make_readable, read_clock
from deid_hooks_service.bodies import members
from deid_hooks_service.problems import wrong

DESTINATION = "flywheel:"

_TAG = re.compile("[0-9A-Fa-f]{8}")
_VR = re.compile("[A-Z]{2}")
_NAME_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")
_DEEPEST = 20


def records_of(
    document: Any, project: str, uploader: str, secret: SiteSecret
) -> tuple[Entry, UploadEvent]:
    """The entry of a packfile, and the event that it is about to leave. Problem 422."""
    document = members(document, ["indexed_fields"], ["deidentified_tags"])
    fields = _fields(document["indexed_fields"])
    tags = _elements(document.get("deidentified_tags", {}), _DEEPEST)
    moment = read_clock()
    patient, issuer = (fields.get(name, "").strip(" \0") for name in _PATIENT)
    entry = Entry(
        log_id=make_log_id(),
        created=moment,
        uploader=uploader,
        project=project,
        timestamp=_timestamp(fields),
        fields={keyword: (make_readable(value),) for keyword, value in sorted(fields.items())},
        deid={},
        originals=write_canonical_json({**_originals(fields), **tags}),
        instances=(),
        uids=(),
        large={},
        digest="",
        key=secret.name,
        patients=(compute_patient_digest(patient, issuer, secret),) if patient else (),
    )
    event = UploadEvent(entry.log_id, moment, "cleared", DESTINATION, uploader)
    return replace(entry, digest=compute_content_digest(entry, secret)), event


_PATIENT = ("PatientID", "IssuerOfPatientID")


def _fields(document: Any) -> dict[str, str]:
    if not isinstance(document, dict):
        raise wrong("indexed_fields must be an object")
    for keyword, value in document.items():
        if keyword not in INDEXED_FIELDS:
            raise wrong("indexed_fields has a member that is no indexed field")
        if not isinstance(value, str):
            raise wrong(f"{keyword} must be a text")
    return document


def _timestamp(fields: Mapping[str, str]) -> str | None:
    return format_iso(fields.get("SeriesDate"), fields.get("SeriesTime")) or format_iso(
        fields.get("StudyDate"), fields.get("StudyTime")
    )


def _originals(fields: Mapping[str, str]) -> dict[str, Any]:
    """What has a tag as an element of it; Flywheel's two *DateTime have none."""
    found: dict[str, Any] = {}
    for keyword, value in fields.items():
        tag = lookup_tag(keyword)
        if tag is not None:
            vr = lookup_vr(tag)
            plain: Any = _name(value) if vr == "PN" else value
            found[f"{tag:08X}"] = {"vr": vr, "Value": [plain]} if value else {"vr": vr}
    return found


def _name(value: str) -> dict[str, str]:
    groups = zip(_NAME_GROUPS, value.split("=", 2), strict=False)
    return {name: group for name, group in groups if group}


def _elements(document: Any, depth: int) -> dict[str, Any]:
    """Elements by upper-case tag, as the log writes them."""
    if not isinstance(document, dict) or not all(_TAG.fullmatch(tag) for tag in document):
        raise wrong("deidentified_tags must hold elements by tag, eight hex digits")
    return {tag.upper(): _element(element, depth) for tag, element in document.items()}


def _element(document: Any, depth: int) -> dict[str, Any]:
    if not isinstance(document, dict) or document.keys() - _ELEMENT_MEMBERS:
        raise wrong("deidentified_tags holds what is no element of the DICOM JSON model")
    vr, values = document.get("vr"), document.get("Value", [])
    binary = [document[name] for name in ("InlineBinary", "BulkDataURI") if name in document]
    if (
        not isinstance(vr, str)
        or not _VR.fullmatch(vr)
        or not isinstance(values, list)
        or not all(isinstance(each, str) for each in binary)
        or depth == 0
    ):
        raise wrong("deidentified_tags holds what is no element of the DICOM JSON model")
    if "Value" not in document:
        return document
    return {**document, "Value": [_value(vr, value, depth) for value in values]}


_ELEMENT_MEMBERS = {"vr", "Value", "InlineBinary", "BulkDataURI"}


def _is_name(value: dict[str, Any]) -> bool:
    groups = value.values()
    return not value.keys() - set(_NAME_GROUPS) and all(isinstance(g, str) for g in groups)


def _value(vr: str, value: Any, depth: int) -> Any:
    if vr == "SQ":
        return _elements(value, depth - 1)
    if value is None:
        return None
    if vr == "PN":
        if isinstance(value, dict) and _is_name(value):
            return value
    elif isinstance(value, str):
        return value
    elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return str(value) if vr in ("DS", "IS") else value
    raise wrong("deidentified_tags holds a value that is none of its VR")
