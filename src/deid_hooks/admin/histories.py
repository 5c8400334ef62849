"""What histories are read into: changes of instances, or single pairs of values."""

from __future__ import annotations

import csv
import re
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import config
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from deid_hooks.dicom.dictionary import lookup_tag, lookup_vr
from deid_hooks.dicom.difference import Changes, changes
from deid_hooks.dicom.encoding import TEXT_VRS
from deid_hooks.errors import DeidHooksError, UnusableDataset

IMPORTED_BY = "import "
"""How the uploader of an entry begins that was imported from another system."""

UNKNOWN_UID = "ReferencedSOPInstanceUID"
"""Under which the original of a UID is found of which nobody noted what it is the UID of."""

_INSTANCE_UID = 0x00080018


class UnreadableHistory(DeidHooksError):
    """A file that can't be imported. Names the line, not what stands there."""


@dataclass(frozen=True, slots=True)
class Pair:
    """An original value and what stands for it, and nothing about whose instances they are."""

    keyword: str
    original: str = field(repr=False)
    deid: str

    @property
    def uids(self) -> tuple[tuple[str, str], ...]:
        """The pair as an entry keeps UIDs, if it is one of UIDs."""
        return ((self.deid, self.original),) if self.keyword == UNKNOWN_UID else ()


def instance_changes(before: Mapping[int, str], after: Mapping[int, str]) -> Changes:
    """What differs between two instances that are known by some of their values, by tag.

    Raises UnusableDataset where one of them has no SOPInstanceUID.
    """
    if not after.get(_INSTANCE_UID):
        raise UnusableDataset("the de-identified instance has no SOPInstanceUID")
    return changes(_dataset(before), _dataset(after))


def changes_of_pair(pair: Pair) -> Changes:
    """A pair as the changes of an instance that has nothing else."""
    tag = lookup_tag(pair.keyword) or 0
    nameless = {_INSTANCE_UID: "1.2"}
    return instance_changes({**nameless, tag: pair.original}, {**nameless, tag: pair.deid})


def text_tag(name: str) -> int | None:
    """The tag of a keyword or of eight hex digits, if its values are text; None otherwise."""
    try:
        tag = lookup_tag(name) or (int(name, 16) if len(name) == 8 else None)
    except ValueError:
        return None
    return tag if tag is not None and lookup_vr(tag) in TEXT_VRS else None


def _dataset(values: Mapping[int, str]) -> Dataset:
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    for tag, value in values.items():
        element = DataElement(tag, lookup_vr(tag), value, validation_mode=config.IGNORE)
        dataset[tag] = element
    return dataset


_CELL = re.compile(r'=\("(.*)"\)', re.DOTALL)
_KINDS = (("uid", UNKNOWN_UID), ("accession", "AccessionNumber"), ("pat", "PatientID"))
_PATIENT = re.compile(r"\bpt", re.IGNORECASE)


def is_ctp(first_line: str) -> bool:
    """Whether a file that begins so is an IDMap."""
    return _titles(first_line) is not None


def read_ctp(path: Path, counts: Counter[str]) -> Iterator[Pair]:
    """Every pair of the file, as it stands there."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        titles = _titles(file.readline().strip())
        if titles is None:
            raise UnreadableHistory("the first line names no kind of identifier")
        keyword, place = titles
        for row in csv.reader(file):
            cells = [_ctp_value(cell) for cell in row]
            if len(cells) == 2 and all(cells):
                yield Pair(keyword, cells[place], cells[1 - place])
            elif row:
                counts["not understood"] += 1


def _titles(line: str) -> tuple[str, int] | None:
    """The keyword that the titles speak of, and which column has the originals."""
    titles = [_ctp_value(title).lower() for title in next(csv.reader([line]), [])]
    originals = [place for place, title in enumerate(titles) if "orig" in title]
    if len(titles) != 2 or len(originals) != 1:
        return None
    for word, keyword in _KINDS:
        if word in titles[0]:
            return keyword, originals[0]
    return ("PatientID", originals[0]) if _PATIENT.search(titles[0]) else None


def _ctp_value(cell: str) -> str:
    written = _CELL.fullmatch(cell.strip())
    return written[1] if written else cell.strip()


_SERIES = 0x0020000E
_MOST_WAITING = 10_000


def read_flywheel(path: Path, counts: Counter[str]) -> Iterator[list[Changes]]:
    """The changes of each series, as its rows stand together. Raises UnreadableHistory."""
    gathered: list[Changes] = []
    series = ""
    for before, after in _pairs(path, counts):
        try:
            found = instance_changes(before, after)
        except UnusableDataset:
            counts["not understood"] += 1
            continue
        if gathered and before.get(_SERIES, "") != series:
            yield gathered
            gathered = []
        series = before.get(_SERIES, "")
        gathered.append(found)
    if gathered:
        yield gathered


def _pairs(path: Path, counts: Counter[str]) -> Iterator[tuple[dict[int, str], dict[int, str]]]:
    waiting: dict[str, dict[int, str]] = {}
    for source, kind, values in _rows(path, counts):
        if kind == "before":
            counts["not understood"] += source in waiting
            waiting[source] = values
        elif (before := waiting.pop(source, None)) is not None:
            yield before, values
        else:
            counts["not understood"] += 1
        if len(waiting) > _MOST_WAITING:
            raise UnreadableHistory("the rows before and after are too far from one another")
    counts["not understood"] += len(waiting)


def _rows(path: Path, counts: Counter[str]) -> Iterator[tuple[str, str, dict[int, str]]]:
    """Source, ``before`` or ``after``, and text values by tag, of each whole row."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        header, *_ = next(csv.reader([file.readline()])), None
        tags = [text_tag(name) for name in header]
        counts["columns left out"] += sum(tag is None for tag in tags[2:])
        for line in file:
            row = _cells(line.rstrip("\r\n"))
            if len(row) == len(header) and row[1] in ("before", "after"):
                values = zip(tags, row, strict=True)
                yield row[0], row[1], {tag: text for tag, text in values if tag is not None}
            else:
                counts["not understood"] += 1


def _cells(line: str) -> list[str]:
    """The cells of one line. An odd quote must not swallow the lines that follow."""
    try:
        return next(csv.reader([line]), [])
    except csv.Error:
        return []


_RSNA_SERIES = """
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


def read_rsna(path: Path, counts: Counter[str]) -> Iterator[list[Changes] | Pair]:
    """The changes of each series, then the other UIDs. Raises UnreadableHistory.

    The database is only read; Anonymizer should not be running.
    """
    try:
        uri = f"{path.resolve().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            for row in connection.execute(_RSNA_SERIES):
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
    return {lookup_tag(k) or 0: str(value) for k, value in values.items() if value is not None}
