"""Imports: a log's own export, and the histories that other systems keep.

What was forgotten never comes back, and an import that is repeated adds nothing. So an entry made
from the history of another system has an id that follows from its content, by a key of the site:
without the site secret nobody gets from the id to the content or the other way.
"""

from __future__ import annotations

import csv
import hashlib
import hmac
import json
import re
import shutil
import sqlite3
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from io import BufferedRandom
from pathlib import Path
from typing import Any

from pydicom import config
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from deid_hooks.access import AccessRecorder
from deid_hooks.admin.export_log import derive_export_key
from deid_hooks.batches import split_batches
from deid_hooks.dicom.dictionary import SERIES_INSTANCE_UID, SOP_INSTANCE_UID, lookup_tag, lookup_vr
from deid_hooks.dicom.difference import Changes, assemble, changes, list_patients
from deid_hooks.dicom.encoding import TEXT_VRS
from deid_hooks.errors import DeidHooksError, Forgotten, IdConflict, UnusableDataset
from deid_hooks.log import Log
from deid_hooks.records.chain import Verification, parse_head
from deid_hooks.records.json_codec import decode_record, write_canonical_json
from deid_hooks.records.keys import RootKey, key_entry
from deid_hooks.records.model import AccessRow, Block, Entry, Erased, Record, Tombstone, make_log_id

_AT_ONCE = 100
Counts = Counter[str]
"""``imported``, ``there already``, ``forgotten``, ``other content`` and ``not understood``."""


IMPORTED_BY = "import "
"""The first word of the uploader of an entry that was imported from another system."""

UNKNOWN_UID = "ReferencedSOPInstanceUID"
"""The keyword of a UID of which nobody noted what it is the UID of."""


def import_history(
    access: AccessRecorder, path: Path, project: str, counts: Counts, foreign: bool = False
) -> str:
    """Write what a file holds into the log, count on the way, and return what kind of file it is.

    The access trail has a row of it before. Our own export is checked whole before anything of it
    is written; as ``foreign`` history it is not, and gives entries only. Raises UnreadableHistory
    for a file of no known kind, or for an export that was cut off or altered; LogError if the log
    can't be written: what was imported till then stays, and the import can be repeated;
    SettingsError away from the host of the log, whose keys it needs.
    """
    kind, log = find_kind(path), access.log
    _ = log.keyring  # before anything is written
    with _copy_privately(path) if kind == "deid-hooks" else path.open("rb") as file:
        if kind == "deid-hooks" and not foreign:
            _verify_export(log, file)
            file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        access.record(f"{kind}, SHA-256 {digest}", ())
        if kind == "deid-hooks":
            records: Iterable[Record] = _read_records(log, file, counts, foreign)
        else:
            records = _make_entries(log, _READERS[kind](path, counts), project, kind, counts)
        for some in split_batches(records, _AT_ONCE):
            _append(log, some, counts)
    return kind


def _copy_privately(path: Path) -> BufferedRandom:
    """Return a copy of a file that has no name: nobody changes it once it was checked."""
    copy = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    try:
        with path.open("rb") as file:
            shutil.copyfileobj(file, copy)
        copy.seek(0)
    except BaseException:
        copy.close()
        raise
    return copy


def find_kind(path: Path) -> str:
    """Return ``deid-hooks``, ``flywheel``, ``ctp`` or ``rsna``, or raise UnreadableHistory."""
    with path.open("rb") as file:
        head = file.read(4096)
    if head.startswith(b"SQLite format 3\0"):
        return "rsna"
    first = head.decode("utf-8-sig", "replace").partition("\n")[0].strip()
    if first.startswith("{"):
        return "deid-hooks"
    if first.startswith("src_path,type,"):
        return "flywheel"
    if is_ctp(first):
        return "ctp"
    raise UnreadableHistory(
        "this is no export of deid-hooks (JSON Lines), no CSV of Flywheel's --save-deid-logs, no"
        " IDMap CSV of RSNA CTP, and no database of RSNA Anonymizer"
    )


def _make_entries(
    log: Log,
    history: Iterable[list[Changes] | Pair],
    project: str,
    kind: str,
    counts: Counts,
) -> Iterator[Entry]:
    # An id stays the same for ever, so that a history can be imported again.
    root = log.keyring.roots[0]
    for each in history:
        changes = [convert_pair(each)] if isinstance(each, Pair) else each
        entry = assemble(changes, make_log_id(), project, f"{IMPORTED_BY}{kind}", ())
        if isinstance(each, Pair):  # of which nobody knows to which instances it belongs
            entry = replace(entry, instances=(), uids=each.uids)
        patients = list_patients(changes)
        first, entry = (key_entry(entry, patients, key) for key in (root, log.keyring.newest))
        if log.find_equal(entry):
            counts["there already"] += 1
        else:
            yield replace(entry, log_id=_derive_log_id(first.digest, root))


def _derive_log_id(digest: str, root: RootKey) -> str:
    keyed = hmac.digest(root.derive("ids of imports"), digest.encode("ascii"), "sha256")
    return uuid.UUID(bytes=keyed[:16], version=4).hex.upper()


def _verify_export(log: Log, lines: Iterable[bytes]) -> None:
    """Raise UnreadableHistory unless an export is whole, and all of it is what was sealed."""
    verification = Verification(log.sealer)
    digests = [hmac.new(derive_export_key(root), digestmod="sha256") for root in log.keyring.roots]
    faults: list[str] = []
    end: dict[str, Any] = {}
    for number, line in enumerate(lines, 1):
        document = _parse_line(line)
        if end or document is None:
            raise UnreadableHistory(f"line {number} {_NO_LINE}")
        if _is_end(document):
            end = document
            continue
        record, seal = _parse_record(document, number)
        _refuse_altered(log, record, number)
        for digest in digests:
            digest.update(line)
        found = [f"line {number}: {f.what}" for f in verification.check(record, seal)]
        faults = faults or found  # one is enough to refuse it
    faults += (fault.what for fault in verification.finish())
    head, last = parse_head(str(end.get("head", ""))), verification.last
    if "part" in end:
        part = str(end["part"]).encode()
        whole = any(hmac.compare_digest(part, each.hexdigest().encode()) for each in digests)
        faults = [] if whole else ["it is not what was exported"]
    elif head is None:
        faults = ["its last line is missing: it was cut off, or it is of an older version"]
    elif last is None or (head.n, head.link) != (last.n, last.link):
        faults.append("its last line is that of another export")
    if faults:
        raise UnreadableHistory(f"the export was altered or cut off: {faults[0]}. {_FOREIGN}")


_NO_LINE = "is none of an export of deid-hooks, and nothing was imported"
_FOREIGN = "Nothing was imported; --as-foreign-history takes its entries alone, unchecked"


def _parse_line(line: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):  # no UTF-8, no JSON, or nested without end
        return None
    return document if isinstance(document, dict) else None


def _is_end(document: dict[str, Any]) -> bool:
    return "record" not in document and bool(document.keys() & {"head", "part"})


def _parse_record(document: dict[str, Any], number: int) -> tuple[Record, str]:
    """Return the record of a line, and its seal; raise UnreadableHistory for none."""
    seal = document.pop("seal", None)
    try:
        return decode_record(document), write_canonical_json(seal) if seal else ""
    except ValueError:
        raise UnreadableHistory(f"line {number} {_NO_LINE}") from None


def _refuse_altered(log: Log, record: Record, number: int) -> None:
    if isinstance(record, Entry) and not log.keyring.is_whole(record):
        raise UnreadableHistory(
            f"line {number} holds an entry that was altered, or written with another site"
            " secret than this machine has"
        )


def _read_records(
    log: Log, lines: Iterable[bytes], counts: Counts, foreign: bool
) -> Iterator[Record]:
    """Yield what is to be written of an export: no access rows, and no lifted block."""
    for number, line in enumerate(lines, 1):
        document = _parse_line(line) if line.strip() else {"head": ""}
        if document is not None and _is_end(document):
            continue
        try:
            record, _ = _parse_record(document or {}, number)
        except UnreadableHistory:
            counts["not understood"] += 1
            continue
        if isinstance(record, AccessRow | Erased) or (isinstance(record, Block) and record.lifted):
            counts["lifts of blocks, left out"] += isinstance(record, Block)
        elif foreign and not isinstance(record, Entry):
            counts["left out"] += 1
        else:
            _refuse_altered(log, record, number)
            yield record


def _append(log: Log, records: list[Record], counts: Counts) -> None:
    try:
        log.append(records)
    except (Forgotten, IdConflict) as error:
        if len(records) > 1:
            for record in records:
                _append(log, [record], counts)
        elif isinstance(records[0], Tombstone):
            counts["forgotten where it comes from, and not here"] += 1
        else:
            counts["forgotten" if isinstance(error, Forgotten) else "other content"] += 1
    else:
        counts["imported"] += sum(isinstance(record, Entry) for record in records)
        counts["other records"] += sum(not isinstance(record, Entry) for record in records)


class UnreadableHistory(DeidHooksError):
    """A file that can't be imported. Names the line, not what stands there."""


@dataclass(frozen=True, slots=True)
class Pair:
    """An original value and its replacement; whose instances they belong to is not known."""

    keyword: str
    original: str = field(repr=False)
    deid: str

    @property
    def uids(self) -> tuple[tuple[str, str], ...]:
        """The pair as an entry keeps UIDs, if it is one of UIDs; otherwise nothing."""
        return ((self.deid, self.original),) if self.keyword == UNKNOWN_UID else ()


def compare_values(before: Mapping[int, str], after: Mapping[int, str]) -> Changes:
    """Return what differs between two instances of which some values are known, by tag.

    Raises UnusableDataset where one of them has no SOPInstanceUID.
    """
    if not after.get(SOP_INSTANCE_UID):
        raise UnusableDataset("the de-identified instance has no SOPInstanceUID")
    return changes(_make_dataset(before), _make_dataset(after))


def convert_pair(pair: Pair) -> Changes:
    """Return a pair as the changes of an instance that has nothing else."""
    tag = lookup_tag(pair.keyword) or 0
    nameless = {SOP_INSTANCE_UID: "1.2"}
    return compare_values({**nameless, tag: pair.original}, {**nameless, tag: pair.deid})


def find_text_tag(name: str) -> int | None:
    """Return the tag of a keyword or of eight hex digits; None unless its values are text."""
    try:
        tag = lookup_tag(name) or (int(name, 16) if len(name) == 8 else None)
    except ValueError:
        return None
    return tag if tag is not None and lookup_vr(tag) in TEXT_VRS else None


def _make_dataset(values: Mapping[int, str]) -> Dataset:
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
    """Return whether a file that begins so is an IDMap."""
    return _parse_titles(first_line) is not None


def read_ctp(path: Path, counts: Counter[str]) -> Iterator[Pair]:
    """Yield every pair of the file."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        titles = _parse_titles(file.readline().strip())
        if titles is None:
            raise UnreadableHistory("the first line names no kind of identifier")
        keyword, place = titles
        for row in csv.reader(file):
            cells = [_strip_quotes(cell) for cell in row]
            if len(cells) == 2 and all(cells):
                yield Pair(keyword, cells[place], cells[1 - place])
            elif row:
                counts["not understood"] += 1


def _parse_titles(line: str) -> tuple[str, int] | None:
    """Return the keyword that the titles name, and the place of the column of originals."""
    titles = [_strip_quotes(title).lower() for title in next(csv.reader([line]), [])]
    originals = [place for place, title in enumerate(titles) if "orig" in title]
    if len(titles) != 2 or len(originals) != 1:
        return None
    for word, keyword in _KINDS:
        if word in titles[0]:
            return keyword, originals[0]
    return ("PatientID", originals[0]) if _PATIENT.search(titles[0]) else None


def _strip_quotes(cell: str) -> str:
    written = _CELL.fullmatch(cell.strip())
    return written[1] if written else cell.strip()


_MOST_WAITING = 10_000


def read_flywheel(path: Path, counts: Counter[str]) -> Iterator[list[Changes]]:
    """Yield the changes of each series, whose rows come together. Raises UnreadableHistory."""
    gathered: list[Changes] = []
    series = ""
    for before, after in _read_pairs(path, counts):
        try:
            found = compare_values(before, after)
        except UnusableDataset:
            counts["not understood"] += 1
            continue
        if gathered and before.get(SERIES_INSTANCE_UID, "") != series:
            yield gathered
            gathered = []
        series = before.get(SERIES_INSTANCE_UID, "")
        gathered.append(found)
    if gathered:
        yield gathered


def _read_pairs(
    path: Path, counts: Counter[str]
) -> Iterator[tuple[dict[int, str], dict[int, str]]]:
    waiting: dict[str, dict[int, str]] = {}
    for source, kind, values in _read_rows(path, counts):
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


def _read_rows(path: Path, counts: Counter[str]) -> Iterator[tuple[str, str, dict[int, str]]]:
    """Yield the source, ``before`` or ``after``, and text values by tag, of each whole row."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        header, *_ = next(csv.reader([file.readline()])), None
        tags = [find_text_tag(name) for name in header]
        counts["columns left out"] += sum(tag is None for tag in tags[2:])
        for line in file:
            row = _split_cells(line.rstrip("\r\n"))
            if len(row) == len(header) and row[1] in ("before", "after"):
                values = zip(tags, row, strict=True)
                yield row[0], row[1], {tag: text for tag, text in values if tag is not None}
            else:
                counts["not understood"] += 1


def _split_cells(line: str) -> list[str]:
    """Return the cells of one line. An odd quote must not swallow the lines that follow."""
    try:
        return next(csv.reader([line]), [])
    except csv.Error:
        return []


_BEFORE = (
    *("SeriesInstanceUID", "Modality", "SeriesDescription"),
    *("StudyInstanceUID", "StudyDate", "StudyDescription", "AccessionNumber"),
    *("PatientID", "PatientName", "PatientSex", "PatientBirthDate"),
)
_AFTER = ("SeriesInstanceUID", "Modality", "StudyInstanceUID", "AccessionNumber", "PatientID")
_SERIES_OF_RSNA = """
    SELECT series.series_uid, series.modality, series.description,
        studies.study_uid, studies.study_date, studies.description, studies.accession_number,
        phi.patient_id, phi.patient_name, phi.sex, phi.dob,
        series.anon_series_uid, series.modality, studies.anon_study_uid,
        studies.anon_accession_number, phi.anon_patient_id
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
    """Yield the changes of each series, then the other UIDs. Raises UnreadableHistory.

    The database is only read; Anonymizer should not be running.
    """
    try:
        uri = f"{path.resolve().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            for row in connection.execute(_SERIES_OF_RSNA):
                gathered = []
                for uid, deid_uid in connection.execute(_INSTANCES, (row[0],)):
                    try:
                        gathered.append(_compare(row, uid, deid_uid))
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


def _compare(row: tuple[object, ...], uid: object, deid_uid: object) -> Changes:
    """Return the changes of one instance of a series of RSNA Anonymizer."""
    before = zip(("SOPInstanceUID", *_BEFORE), (uid, *row), strict=False)
    after = zip(("SOPInstanceUID", *_AFTER), (deid_uid, *row[len(_BEFORE) :]), strict=True)
    return compare_values(_index_by_tag(before), _index_by_tag(after))


def _index_by_tag(values: Iterable[tuple[str, object]]) -> dict[int, str]:
    return {lookup_tag(k) or 0: str(value) for k, value in values if value is not None}


_READERS: dict[str, Callable[[Path, Counter[str]], Iterable[list[Changes] | Pair]]] = {
    "flywheel": read_flywheel,
    "ctp": read_ctp,
    "rsna": read_rsna,
}
