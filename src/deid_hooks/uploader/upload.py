"""Upload series one after the other: de-identify, log, resolve, send.

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
from deid_hooks.dicom.difference import explain_indistinguishable, find_indistinguishable
from deid_hooks.dicom.part10 import read_dicom
from deid_hooks.dicom.restore import is_ambiguous
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

_NO_ANSWER = "the destination gave no answer for it, it may be there"
_WITHDRAWN = "it was withdrawn from there, and would be sent again only with --again"


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one input file.

    ``status`` is ``uploaded``, ``already there``, ``refused``, ``failed``, ``no image`` (a
    DICOMDIR) or ``no DICOM``; ``reason`` says why, without values.
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
    """Its outcome at the destination, as far as the log knows one."""


def upload(
    hooks: DeidHooks, scanned: Scan, destination: Destination, options: UploadOptions
) -> Iterator[Result]:
    """Deliver what was scanned; yield a result for every input file, as it is known.

    Raises LogUnavailable as soon as the log is out of reach: nothing further is sent. Call
    ``hooks.check()`` and ``destination.check()`` before.
    """
    for left in scanned.left_out:
        yield Result(left.path, left.kind, reason=left.reason)
    patients = frozenset[Identity]().union(*(each.patients for each in scanned.series))
    try:
        labels = find_labels(hooks, options.project, options.labels, patients)
        pseudonyms = hooks.pseudonyms(options.project, labels)
    except LogUnavailable as error:  # the log was lost after it was checked
        raise UnableToLog(error.cause, error.remedy) from None
    with staging_folder() as staging:
        work = Work(
            options.engine,
            pseudonyms,
            hooks.settings.fields,
            staging,
            options.jobs,
            hooks.settings.large_values << 20,
            hooks.settings.not_kept,
        )
        with closing(prepare_series(work, (each.paths for each in scanned.series))) as files:
            acquisitions = _warn_once(files, options.engine)
            batches = [list(acquisitions)] if options.together else ([one] for one in acquisitions)
            for some in batches:
                yield from _deliver(hooks, some, destination, options)


def _warn_once(
    acquisitions: Iterable[Sequence[Staged | Refused]], engine: str
) -> Iterator[Sequence[Staged | Refused]]:
    """Yield the acquisitions; warn once if the engine leaves out what it has to write."""
    warned = False
    for files in acquisitions:
        if not warned and any(isinstance(each, Staged) and not each.marked for each in files):
            warned = True
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
    options: UploadOptions,
) -> Iterator[Result]:
    """Log some acquisitions, and send them at once."""
    logged: list[_Logged] = []
    try:
        for files in acquisitions:
            staged, refused = _sort(files)
            if transient := [each for each in refused if each.transient]:
                yield from (Result(e.path, "refused", reason=transient[0].reason) for e in files)
                continue
            yield from (Result(each.path, "refused", reason=each.reason) for each in refused)
            if not staged:
                continue
            try:
                one = _log(hooks, staged, destination, options)
            except (UnableToLog, UploadRefused, UnusableDataset) as error:
                yield from _refuse(hooks, staged, error)
                continue
            if one.known == "uploaded" and not options.again:
                yield from (
                    Result(e.path, "already there", one.log_id, _name_not_kept(e)) for e in staged
                )
            elif one.known == "withdrawn" and not options.again:
                yield from (Result(e.path, "refused", one.log_id, _WITHDRAWN) for e in staged)
            else:
                logged.append(one)
        yield from _send(hooks, logged, destination, options)
    finally:
        for files in acquisitions:
            for each in files:
                if isinstance(each, Staged):
                    each.staged.unlink(missing_ok=True)


_MOST_ALIKE = 32
_TOO_MANY_ALIKE = (
    f"{_MOST_ALIKE} other files of the series have its SOPInstanceUID: more are not told apart"
)


def _sort(files: Iterable[Staged | Refused]) -> tuple[list[Staged], list[Refused]]:
    """Return what can be sent, and what can't: also what could not be told from another file."""
    staged = [each for each in files if isinstance(each, Staged)]
    refused = [each for each in files if isinstance(each, Refused)]
    by_uid: dict[str, list[Staged]] = {}
    for each in staged:
        alike = by_uid.setdefault(each.changes.deid_uid, [])
        if len(alike) == _MOST_ALIKE:
            refused.append(Refused(each.path, _TOO_MANY_ALIKE))
            continue
        alike.append(each)
        if len(alike) > 1 and (first := _find_lookalike(alike)):
            alike.pop()
            reason = explain_indistinguishable(first.changes)
            refused.append(Refused(each.path, f"it {reason}"))
    left = {id(each) for alike in by_uid.values() for each in alike}
    return [each for each in staged if id(each) in left], refused


def _find_lookalike(alike: Sequence[Staged]) -> Staged | None:
    """Return a file from which the last of these, which share a UID, could not be told."""
    gathered = [each.changes for each in alike]
    if found := find_indistinguishable(gathered):
        return next(each for each in alike if each.changes is found[-1][0])
    for each in alike:
        with each.staged.open("rb") as file:
            dataset, _ = read_dicom(file)
        if is_ambiguous(dataset, gathered):
            return each if each is not alike[-1] else alike[0]
    return None


def _log(
    hooks: DeidHooks, staged: Sequence[Staged], destination: Destination, options: UploadOptions
) -> _Logged:
    with hooks.acquisition(options.project) as acquisition:
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
    hooks: DeidHooks, logged: Iterable[_Logged], destination: Destination, options: UploadOptions
) -> Iterator[Result]:
    with ExitStack() as uploads:
        cleared: list[tuple[_Logged, Upload]] = []
        for one in logged:
            try:
                upload = uploads.enter_context(hooks.uploading(one.log_id, destination.name))
                cleared.append((one, upload))
            except UploadRefused as error:
                yield from _refuse(hooks, one.staged, error)
        if not cleared:
            return
        files = [
            Outgoing(
                each.staged, each.study_uid, each.series_uid, each.changes.deid_uid, one.log_id
            )
            for one, _ in cleared
            for each in one.staged
        ]
        tried_before = not options.again and any(one.known is not None for one, _ in cleared)
        deliveries = iter(_ask(destination, files, tried_before))
        results: list[Result] = []
        for one, upload in cleared:
            for each in one.staged:
                delivery = next(deliveries)
                upload.sent(each.changes.deid_uid, ok=delivery.status != "failed")
                reasons = filter(None, (delivery.reason, _name_not_kept(each)))
                results.append(Result(each.path, delivery.status, one.log_id, "; ".join(reasons)))
    yield from results


def _name_not_kept(staged: Staged) -> str:
    """Return what can't be brought back of a file; ``""`` if all of it can."""
    names = dict.fromkeys(staged.changes.not_kept)
    return f"the log does not hold the originals of {', '.join(names)}" if names else ""


def _ask(destination: Destination, files: Sequence[Outgoing], tried_before: bool) -> list[Delivery]:
    """Let the destination deliver, and return one delivery for each file, whatever it answers."""
    try:
        answers: list[object] = list(destination.deliver(files, tried_before))
    except DestinationError as error:
        answers = [Delivery("failed", str(error))] * len(files)
    except DeidHooksError:
        raise
    except Exception as error:  # noqa: BLE001 - its text may hold values
        reason = f"the destination failed with {type(error).__name__}, it may be there"
        answers = [Delivery("failed", reason)] * len(files)
    if len(answers) > len(files):  # which of them belongs to which file can't be known
        answers = []
    answers += [None] * (len(files) - len(answers))
    return [
        answer if isinstance(answer, Delivery) else Delivery("failed", _NO_ANSWER)
        for answer in answers
    ]


def _refuse(hooks: DeidHooks, staged: Iterable[Staged], error: DeidHooksError) -> Iterator[Result]:
    """Yield the results of an acquisition that is refused.

    Raises LogUnavailable if the log can't be reached: then all that follow would be refused.
    """
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
    """Return the labels that these patients have in a project already; others get a new one later.

    Raises SettingsError where the list and the log disagree: the same person would become two.
    Raises LogUnavailable.
    """
    labels = dict(listed)
    # A service answers with labels to be, too, and compares those of the list when it logs them.
    asked = set(patients) - set(listed) if hooks.is_behind_service() else patients
    for patient_id, issuer in asked:
        known = hooks.subject(project, patient_id, issuer) if patient_id else None
        if known and labels.setdefault((patient_id, issuer), known) != known:
            raise SettingsError(
                "The list of subjects gives a patient another label than the log knows in this"
                f" project: {known}. Correct the list; one person must not become two."
            )
    return labels


def read_subjects(path: Path, project: str) -> dict[Identity, str]:
    """Read labels from a CSV file with the columns PatientID, label, and perhaps IssuerOfPatientID.

    With a column ``project`` only the rows of this project count. Several identities of one person
    may share a label. Raises SettingsError, which names the line and no value.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, strict=True)  # or a lost quote would swallow what follows
            _check_columns(path, rows.fieldnames or ())
            labels: dict[Identity, str] = {}
            for row in rows:
                # A comma too many, as in an unquoted label, moves the values behind it.
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
