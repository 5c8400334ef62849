"""The whole job: de-identify, log, resolve, send, one series after the other.

Built on nothing but the public interface of ``deid_hooks``.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

from deid_hooks import (
    DeidHooks,
    DeidHooksError,
    LogError,
    LogUnavailable,
    SettingsError,
    UnableToLog,
    UnusableDataset,
    Upload,
    UploadRefused,
    normalise_identity,
    reveals,
)
from deid_hooks.destinations import Delivery, Destination, DestinationError, Outgoing
from deid_hooks.uploader.prepare import (
    Refused,
    Staged,
    Work,
    prepare_series,
    restage,
    staging_folder,
)
from deid_hooks.uploader.scan import Scan

log = logging.getLogger("deid_hooks")

_WITHDRAWN = "it was withdrawn from there, and would be sent again only with --again"


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one input file.

    ``status`` is ``uploaded``, ``already there``, ``refused``, ``failed`` or ``no DICOM``;
    ``reason`` says why, without values.
    """

    path: Path
    status: str
    log_id: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class UploadOptions:
    """What to do: which engine, for which project, with how many processes.

    ``again`` sends what the log knows as uploaded, too. ``labels`` maps (PatientID, issuer) to
    labels of the site's own. ``together`` has the destination take all acquisitions at once.
    """

    engine: str = "basic"
    project: str = ""
    jobs: int = 1
    again: bool = False
    labels: Mapping[Identity, str] = field(repr=False, default_factory=dict)
    together: bool = False


@dataclass(frozen=True, slots=True)
class _Logged:
    """An acquisition that is in the log."""

    log_id: str
    staged: Sequence[Staged]
    known: str | None
    """What the log knows of it at the destination."""


def upload(
    hooks: DeidHooks, scanned: Scan, destination: Destination, order: UploadOptions
) -> Iterator[Result]:
    """Deliver what was scanned; yields a result for every input file, as it is known.

    Raises LogUnavailable as soon as the log is out of reach: nothing further is sent. Call
    ``hooks.check()`` and ``destination.check()`` before.
    """
    for left in scanned.left_out:
        yield Result(left.path, left.kind, reason=left.reason)
    patients = frozenset[Identity]().union(*(each.patients for each in scanned.series))
    try:
        labels = find_labels(hooks, order.project, order.labels, patients)
    except LogUnavailable as error:  # the log was lost after it was checked
        raise UnableToLog(error.cause, error.remedy) from None
    with staging_folder() as staging:
        work = Work(
            order.engine,
            hooks.pseudonyms(order.project, labels),
            hooks.settings.fields,
            staging,
            order.jobs,
        )
        with closing(prepare_series(work, (each.paths for each in scanned.series))) as files:
            acquisitions = _warned(files, order.engine)
            for some in [list(acquisitions)] if order.together else ([one] for one in acquisitions):
                yield from _deliver(hooks, some, destination, order)


def _warned(
    acquisitions: Iterable[Sequence[Staged | Refused]], engine: str
) -> Iterator[Sequence[Staged | Refused]]:
    """Tells once if the engine doesn't do what is an engine's duty."""
    told = False
    for files in acquisitions:
        if not told and any(isinstance(each, Staged) and not each.marked for each in files):
            told = True
            log.warning(
                "The engine %s leaves out Patient Identity Removed (0012,0062) or the"
                " De-identification Method (0012,0063), (0012,0064)",
                engine,
            )
        yield files


def _deliver(
    hooks: DeidHooks,
    acquisitions: Sequence[Sequence[Staged | Refused]],
    destination: Destination,
    order: UploadOptions,
) -> Iterator[Result]:
    """Log some acquisitions, and send them at once."""
    logged: list[_Logged] = []
    try:
        for files in acquisitions:
            staged = [each for each in files if isinstance(each, Staged)]
            refused = [each for each in files if isinstance(each, Refused)]
            if passing := [each for each in refused if each.passing]:
                yield from (Result(e.path, "refused", reason=passing[0].reason) for e in files)
                continue
            yield from (Result(each.path, "refused", reason=each.reason) for each in refused)
            if not staged:
                continue
            try:
                one = _log(hooks, staged, destination, order)
            except (UnableToLog, UploadRefused, UnusableDataset) as error:
                yield from _refused(hooks, staged, error)
                continue
            if one.known == "uploaded" and not order.again:
                yield from (Result(e.path, "already there", one.log_id) for e in staged)
            elif one.known == "withdrawn" and not order.again:
                yield from (Result(e.path, "refused", one.log_id, _WITHDRAWN) for e in staged)
            else:
                logged.append(one)
        yield from _send(hooks, logged, destination, order)
    finally:
        for files in acquisitions:
            for each in files:
                if isinstance(each, Staged):
                    each.staged.unlink(missing_ok=True)


def _log(
    hooks: DeidHooks, staged: Sequence[Staged], destination: Destination, order: UploadOptions
) -> _Logged:
    with hooks.acquisition(order.project) as acquisition:
        for each in staged:
            acquisition.add_changes(each.changes)
        log_id = acquisition.post_deid(reuse=True)
    if (kind := hooks.settings.stamp) != "none":
        for each in staged:
            restage(each.staged, log_id, kind)
    try:
        return _Logged(log_id, staged, hooks.outcome(log_id, destination.name))
    except LogError as error:  # the log was lost after post_deid
        raise UploadRefused([str(error).rstrip(".")]) from None


def _send(
    hooks: DeidHooks, logged: Iterable[_Logged], destination: Destination, order: UploadOptions
) -> Iterator[Result]:
    with ExitStack() as uploads:
        cleared: list[tuple[_Logged, Upload]] = []
        for one in logged:
            try:
                upload = uploads.enter_context(hooks.uploading(one.log_id, destination.name))
                cleared.append((one, upload))
            except UploadRefused as error:
                yield from _refused(hooks, one.staged, error)
        if not cleared:
            return
        files = [
            Outgoing(
                each.staged, each.study_uid, each.series_uid, each.changes.deid_uid, one.log_id
            )
            for one, _ in cleared
            for each in one.staged
        ]
        tried_before = not order.again and any(one.known is not None for one, _ in cleared)
        try:
            deliveries = iter(destination.deliver(files, tried_before))
        except DestinationError as error:
            deliveries = iter([Delivery("failed", str(error))] * len(files))
        results: list[Result] = []
        for one, upload in cleared:
            for each in one.staged:
                delivery = next(deliveries)
                upload.sent(each.changes.deid_uid, ok=delivery.status != "failed")
                results.append(Result(each.path, delivery.status, one.log_id, delivery.reason))
    yield from results


def _refused(hooks: DeidHooks, staged: Iterable[Staged], error: DeidHooksError) -> Iterator[Result]:
    """A refusal concerns one acquisition; a log that can't be reached, all that follow."""
    try:
        hooks.check()
    except DeidHooksError:
        raise LogUnavailable(str(error)) from None
    for each in staged:
        yield Result(each.path, "refused", reason=str(error))


Identity = tuple[str, str]
"""A PatientID and its IssuerOfPatientID."""

_NEEDED = ("PatientID", "label")
_KNOWN = (*_NEEDED, "IssuerOfPatientID", "project")
_LONGEST = 64  # characters of a PatientID: PS3.5, table 6.2-1, LO


def find_labels(
    hooks: DeidHooks, project: str, listed: Mapping[Identity, str], patients: Iterable[Identity]
) -> dict[Identity, str]:
    """The labels that these patients have in a project already; who is missing gets a new one.

    Raises SettingsError where the list and the log disagree: the same person would become two.
    Raises LogUnavailable.
    """
    labels = dict(listed)
    for patient_id, issuer in patients:
        known = hooks.subject(project, patient_id, issuer) if patient_id else None
        if known and labels.setdefault((patient_id, issuer), known) != known:
            raise SettingsError(
                "The list of subjects gives a patient another label than the log knows in this"
                f" project: {known}. Correct the list; one person must not become two."
            )
    return labels


def read_subjects(path: Path, project: str) -> dict[Identity, str]:
    """The labels of a CSV file with the columns PatientID, label, and if wanted IssuerOfPatientID.

    With a column ``project`` only the rows of this project count. Several identities of one person
    may share a label. Raises SettingsError, which names the line and no value.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, strict=True)  # or a lost quote would swallow what follows
            _check_columns(path, rows.fieldnames or ())
            labels: dict[Identity, str] = {}
            for row in rows:
                # A comma too many, as in an unquoted label, moves what stands behind it.
                if None in row or None in row.values():
                    raise SettingsError(
                        f"{path}, line {rows.line_num}: it has not as many values as the first line"
                        " has columns."
                    )
                if row.get("project", project) == project:
                    _add(labels, row, f"{path}, line {rows.line_num}")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not CSV in UTF-8"
        raise SettingsError(f"The list of subjects {path} can't be read: {why}.") from None
    return labels


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    missing = [name for name in _NEEDED if name not in columns]
    unknown = [name for name in columns if name not in _KNOWN]
    if missing or unknown or len(set(columns)) < len(columns):
        raise SettingsError(
            f"The list of subjects {path} needs a first line with the columns PatientID, label, and"
            " if wanted IssuerOfPatientID and project, and no others."
        )


def _add(labels: dict[Identity, str], row: Mapping[str, str | None], where: str) -> None:
    identity = normalise_identity(row["PatientID"] or "", row.get("IssuerOfPatientID") or "")
    label = (row["label"] or "").strip()
    if not identity[0] or not label:
        raise SettingsError(f"{where}: PatientID and label must not be empty.")
    if len(label) > _LONGEST or "\\" in label or not label.isprintable():
        raise SettingsError(
            f"{where}: a label has at most {_LONGEST} characters, none of them a backslash."
        )
    if reveals(label, identity[0]):
        raise SettingsError(f"{where}: the label contains the PatientID, which must not leave.")
    if labels.setdefault(identity, label) != label:
        raise SettingsError(f"{where}: this patient has another label further up.")
