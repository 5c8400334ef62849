"""The commands ``upload`` (the whole job) and ``exec`` (around any other uploader)."""

from __future__ import annotations

import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deid_hooks.cli.context import FAILED, SOME_REFUSED, check_log, open_hooks
from deid_hooks.cli.output import (
    Format,
    FormatOption,
    Unwritten,
    choose_format,
    discard_output,
    make_visible,
    put,
    say,
    write_rows,
)

if TYPE_CHECKING:
    from deid_hooks.destinations import Destination
    from deid_hooks.hooks import DeidHooks
    from deid_hooks.uploader.scan import Scan
    from deid_hooks.uploader.upload import Result, UploadOptions

SourceArgument = Annotated[Path, typer.Argument(exists=True, help="A DICOM file or a folder.")]
EngineOption = Annotated[
    str,
    typer.Option(
        help="What de-identifies: basic, dicognito, or an installed NAME. Default: the project's"
        " in the settings, else basic."
    ),
]
ProjectOption = Annotated[str, typer.Option(help="Pseudonyms are made per project.")]
JobsOption = Annotated[int, typer.Option(min=1, max=64, help="Processes that de-identify.")]
SubjectsOption = Annotated[
    Path | None,
    typer.Option(help="CSV of the site's own labels: PatientID,IssuerOfPatientID,label."),
]
FollowLinksOption = Annotated[
    bool, typer.Option("--follow-links", help="Upload what links out of SOURCE lead to, too.")
]
AgainOption = Annotated[bool, typer.Option(help="Send what was uploaded there before, too.")]

_COLUMNS = ["file", "status", "log_id", "reason"]
_DELIVERED = ("uploaded", "already there")


def upload(
    context: typer.Context,
    source: SourceArgument,
    destination: Annotated[
        str, typer.Argument(help="folder:PATH, dicom://AET@host:port, dicomweb+https://host/path")
    ],
    engine: EngineOption = "",
    project: ProjectOption = "",
    jobs: JobsOption = 1,
    subjects: SubjectsOption = None,
    again: AgainOption = False,
    follow_links: FollowLinksOption = False,
    form: FormatOption = None,
) -> None:
    """De-identify, log, and send: every series is in the log before its first byte leaves.

    Run it again after any trouble: what has arrived is not sent twice. Each input file is accounted
    for: uploaded, already there, refused and why, failed and why, no image (a DICOMDIR), or no
    DICOM.

    \b
    deid-hooks upload incoming folder:/srv/research --project TRIAL7 --jobs 2
    """
    from deid_hooks.destinations import DestinationError, open_destination
    from deid_hooks.destinations.folder import Folder
    from deid_hooks.uploader.upload import UploadOptions, read_subjects

    labels = read_subjects(subjects, project) if subjects else {}
    with open_hooks(context) as hooks:
        engine = hooks.settings.choose_engine(project, engine)
        check_log(hooks)
        try:
            target = open_destination(destination)
            hooks.settings.refuse_destination(project, target.name)
            if isinstance(target, Folder) and source.is_dir() and target.is_within(source):
                raise typer.BadParameter("the destination can't be within the folder that is read")
            target.check()
        except DestinationError as error:
            say(f"{error} Nothing was sent.")
            raise typer.Exit(FAILED) from None
        options = UploadOptions(engine, project, jobs, again, labels)
        deliver(hooks, _scan(source, target, follow_links), target, options, form)


def _scan(source: Path, target: Destination, follow_links: bool) -> Scan:
    from deid_hooks.destinations.folder import Folder
    from deid_hooks.uploader.prepare import be_quiet_and_fast
    from deid_hooks.uploader.scan import scan

    be_quiet_and_fast()  # before any file is read: pydicom's log lines quote values
    delivered = target.path if isinstance(target, Folder) else None
    return scan(source, delivered, follow_links)


def deliver(
    hooks: DeidHooks,
    scanned: Scan,
    target: Destination,
    options: UploadOptions,
    form: Format | None,
    between: Callable[[], None] = lambda: None,
) -> None:
    """Upload everything that was scanned, report each file, and end with the exit code for it.

    ``between`` is called as each result is known; what it raises ends the upload.
    """
    from deid_hooks.uploader.upload import upload as send

    total = sum(len(each.paths) for each in scanned.series) + len(scanned.left_out)
    counts: Counter[str] = Counter()
    results = _count(send(hooks, scanned, target, options), counts, between)
    shown = _show_progress(results, total)
    try:
        _report(shown, form)
    except (BrokenPipeError, Unwritten) as error:  # the upload goes on without its report
        discard_output()
        deque(shown, maxlen=0)
        if isinstance(error, Unwritten):
            raise
    finally:
        _summarise(counts, total)
    if not counts["uploaded"] + counts["already there"]:
        raise typer.Exit(SOME_REFUSED if counts["refused"] + counts["failed"] else FAILED)
    if counts["refused"] + counts["failed"]:
        raise typer.Exit(SOME_REFUSED)


def _report(results: Iterable[Result], form: Format | None) -> None:
    """Write a row for each file; on a terminal the log ids, and only files that didn't arrive."""
    rows = (
        {"file": str(r.path), "status": r.status, "log_id": r.log_id, "reason": r.reason}
        for r in results
    )
    if choose_format(form) is not Format.TABLE:
        write_rows(rows, _COLUMNS, form, "log_id")
        return
    acquisitions: Counter[tuple[str, str]] = Counter()
    others = []
    for row in rows:
        if row["status"] in _DELIVERED:
            acquisitions[row["log_id"], row["status"]] += 1
        else:
            others.append(make_visible(f"{row['status']}: {row['file']}: {row['reason']}"))
    delivered = (
        {"log_id": log_id, "files": files, "status": status}
        for (log_id, status), files in acquisitions.items()
    )
    write_rows(delivered, ["log_id", "files", "status"], Format.TABLE, "log_id")
    for line in others:
        put(line)


def _count(
    results: Iterable[Result], counts: Counter[str], between: Callable[[], None]
) -> Iterator[Result]:
    for result in results:
        counts[result.status] += 1
        yield result
        between()


def _show_progress(results: Iterable[Result], total: int) -> Iterator[Result]:
    if not sys.stderr.isatty():
        yield from results
        return
    with typer.progressbar(length=total, label="Uploading", file=sys.__stderr__) as bar:
        for result in results:
            yield result
            bar.update(1)


def _summarise(counts: Counter[str], total: int) -> None:
    known = sum(counts.values())
    parts = [f"{count} {status}" for status, count in counts.items()]
    if known < total:
        parts.append(f"{total - known} not sent")
    say(f"{total} files: {', '.join(parts) or 'nothing to do'}")


def execute(
    context: typer.Context,
    source: SourceArgument,
    command: Annotated[
        list[str],
        typer.Argument(metavar="-- COMMAND... {}", help="{} stands for a folder of its files."),
    ],
    name: Annotated[str, typer.Option("--as", help="The destination's name in the log.")],
    together: Annotated[
        bool, typer.Option(help="Run the command once, for all acquisitions.")
    ] = False,
    engine: EngineOption = "",
    project: ProjectOption = "",
    jobs: JobsOption = 1,
    subjects: SubjectsOption = None,
    again: AgainOption = False,
    follow_links: FollowLinksOption = False,
    form: FormatOption = None,
) -> None:
    """De-identify, log, and have any command send: nothing reaches it before it is in the log.

    The command runs once for each acquisition, with a private folder of its de-identified files in
    place of {}. Exit status 0 means uploaded. It finds the log id in DEID_LOG_ID.

    \b
    deid-hooks exec incoming --as pacs -- storescu -aec ARCHIVE pacs 11112 +sd {}
    deid-hooks exec incoming --as bucket --together -- rsync -r {}/ archive:/srv/images/
    """
    from deid_hooks.uploader.exec import Command, Interrupted
    from deid_hooks.uploader.upload import UploadOptions, read_subjects

    target = Command(command, name, together)
    labels = read_subjects(subjects, project) if subjects else {}
    try:
        with target.forward_signals(), open_hooks(context) as hooks:
            engine = hooks.settings.choose_engine(project, engine)
            hooks.settings.refuse_destination(project, target.name)
            check_log(hooks)
            options = UploadOptions(engine, project, jobs, again, labels, together)
            scanned = _scan(source, target, follow_links)
            deliver(hooks, scanned, target, options, form, target.refuse_to_go_on)
    except Interrupted as ended:
        raise typer.Exit(128 + ended.number) from None
