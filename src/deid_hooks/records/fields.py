"""Indexed fields: the keywords that have a column in the log."""

from __future__ import annotations

LATER_FIELDS: tuple[str, ...] = ()
"""Indexed fields that were added after version 1 of the tables, in that order: the one place where
a new one is named. Logs that exist get its column by a step in ``backends.tables.migrations``."""

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
    *LATER_FIELDS,
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
