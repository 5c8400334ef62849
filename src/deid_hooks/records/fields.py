"""Indexed fields: the keywords that have a column in the log."""

from __future__ import annotations

INDEXED_FIELDS = (
    "AccessionNumber",
    "PatientBirthDate",
    "PatientID",
    "IssuerOfPatientID",
    "PatientName",
    "PatientSex",
    "StudyInstanceUID",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "StudyDateTime",
    "StudyDescription",
    "SeriesInstanceUID",
    "SeriesDate",
    "SeriesTime",
    "SeriesDateTime",
    "SeriesDescription",
    "Modality",
    "TimezoneOffsetFromUTC",
)
"""Keywords that have a column. StudyDateTime and SeriesDateTime are Flywheel's, not DICOM's."""

DEID_FIELDS = (
    "PatientID",
    "PatientName",
    "AccessionNumber",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "StudyDate",
)
"""Keywords whose de-identified value has a column too, ``deid_<Keyword>``."""


FLYWHEEL_KEYWORDS = ("StudyDateTime", "SeriesDateTime")
