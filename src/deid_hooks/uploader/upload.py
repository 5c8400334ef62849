"""The whole job: de-identify, log, resolve, send, one series after the other.

Built on nothing but the public interface of ``deid_hooks``.
"""

from __future__ import annotations

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
    UnableToLog,
    UnusableDataset,
    Upload,
    UploadRefused,
)
from deid_hooks.destinations import Delivery, Destination, DestinationError, Outgoing
from deid_hooks.uploader.prepare import Refused, Staged, restage, staging_folder
from deid_hooks.uploader.scan import Scan
from deid_hooks.uploader.subjects import Identity, labels_of
from deid_hooks.uploader.workers import Work, prepared

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
class Order:
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
    hooks: DeidHooks, scanned: Scan, destination: Destination, order: Order
) -> Iterator[Result]:
    """Deliver what was scanned; yields a result for every input file, as it is known.

    Raises LogUnavailable as soon as the log is out of reach: nothing further is sent. Call
    ``hooks.check()`` and ``destination.check()`` before.
    """
    for left in scanned.left_out:
        yield Result(left.path, left.kind, reason=left.reason)
    patients = frozenset[Identity]().union(*(each.patients for each in scanned.series))
    try:
        labels = labels_of(hooks, order.project, order.labels, patients)
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
        with closing(prepared(work, (each.paths for each in scanned.series))) as files:
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
    order: Order,
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
    hooks: DeidHooks, staged: Sequence[Staged], destination: Destination, order: Order
) -> _Logged:
    with hooks.acquisition(order.project) as acquisition:
        for each in staged:
            acquisition.add(each.changes)
        log_id = acquisition.post_deid(reuse=True)
    if (kind := hooks.settings.stamp) != "none":
        for each in staged:
            restage(each.staged, log_id, kind)
    try:
        return _Logged(log_id, staged, hooks.outcome(log_id, destination.name))
    except LogError as error:  # the log was lost after post_deid
        raise UploadRefused([str(error).rstrip(".")]) from None


def _send(
    hooks: DeidHooks, logged: Iterable[_Logged], destination: Destination, order: Order
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
