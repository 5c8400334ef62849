"""The SQLite database of RSNA Anonymizer 19: patients, studies, series, instances, other UIDs."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

from deid_hooks.administrator.histories.common import (
    UNKNOWN_UID,
    Pair,
    UnreadableHistory,
    instance_changes,
)
from deid_hooks.dictionary import tag_of
from deid_hooks.difference import Changes
from deid_hooks.errors import UnusableDataset

_SERIES = """
    SELECT series.series_uid, series.anon_series_uid, series.modality, series.description,
        studies.study_uid, studies.anon_study_uid, studies.study_date, studies.description,
        studies.accession_number, studies.anon_accession_number,
        phi.patient_id, phi.anon_patient_id, phi.patient_name, phi.sex, phi.dob
    FROM series JOIN studies ON studies.study_uid = series.study_uid
    LEFT JOIN phi ON phi.patient_id = studies.patient_id
    ORDER BY series.series_uid
"""
_INSTANCES = """
    SELECT sop_instance_uid, anon_sop_instance_uid FROM instances WHERE series_uid = ?
    ORDER BY sop_instance_uid
"""
_OTHERS = """
    SELECT phi_uid, anon_uid FROM UID_map
    WHERE phi_uid NOT IN (SELECT study_uid FROM studies)
        AND phi_uid NOT IN (SELECT series_uid FROM series)
        AND phi_uid NOT IN (SELECT sop_instance_uid FROM instances)
    ORDER BY phi_uid
"""


def read(path: Path, counts: Counter[str]) -> Iterator[list[Changes] | Pair]:
    """The changes of each series, then the other UIDs. Raises UnreadableHistory.

    The database is only read; Anonymizer should not be running.
    """
    try:
        uri = f"{path.resolve().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            for row in connection.execute(_SERIES):
                gathered = []
                for uid, deid_uid in connection.execute(_INSTANCES, (row[0],)):
                    try:
                        gathered.append(_changes(row, str(uid), str(deid_uid)))
                    except UnusableDataset:
                        counts["not understood"] += 1
                if gathered:
                    yield gathered
            for uid, deid_uid in connection.execute(_OTHERS):
                yield Pair(UNKNOWN_UID, str(uid), str(deid_uid))
    except sqlite3.Error:
        raise UnreadableHistory(
            "this is a SQLite database, but not one of RSNA Anonymizer 19, or it is damaged"
        ) from None


def _changes(row: tuple[object, ...], uid: str, deid_uid: str) -> Changes:
    series, deid_series, modality, series_text, study, deid_study, date, text, *rest = row
    accession, deid_accession, patient, deid_patient, name, sex, born = rest
    before = {
        "SOPInstanceUID": uid,
        "SeriesInstanceUID": series,
        "StudyInstanceUID": study,
        "Modality": modality,
        "SeriesDescription": series_text,
        "StudyDate": date,
        "StudyDescription": text,
        "AccessionNumber": accession,
        "PatientID": patient,
        "PatientName": name,
        "PatientSex": sex,
        "PatientBirthDate": born,
    }
    after = {
        "SOPInstanceUID": deid_uid,
        "SeriesInstanceUID": deid_series,
        "StudyInstanceUID": deid_study,
        "Modality": modality,
        "AccessionNumber": deid_accession,
        "PatientID": deid_patient,
    }
    return instance_changes(_by_tag(before), _by_tag(after))


def _by_tag(values: Mapping[str, object]) -> dict[int, str]:
    return {tag_of(k) or 0: str(value) for k, value in values.items() if value is not None}
