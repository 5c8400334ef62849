"""The same job around any uploader: ``exec``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deid_hooks.cli.context import check_log, hooks_of
from deid_hooks.cli.output import FormatOption
from deid_hooks.cli.upload import SubjectsOption, deliver


def execute(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(exists=True, help="A DICOM file or a folder.")],
    command: Annotated[
        list[str],
        typer.Argument(metavar="-- COMMAND... {}", help="{} stands for a folder of its files."),
    ],
    name: Annotated[str, typer.Option("--as", help="The destination's name in the log.")],
    together: Annotated[
        bool, typer.Option(help="Run the command once, for all acquisitions.")
    ] = False,
    engine: Annotated[
        str, typer.Option(help="What de-identifies: basic, dicognito, or an installed NAME.")
    ] = "basic",
    project: Annotated[str, typer.Option(help="Pseudonyms are made per project.")] = "",
    jobs: Annotated[int, typer.Option(min=1, max=64, help="Processes that de-identify.")] = 1,
    subjects: SubjectsOption = None,
    again: Annotated[bool, typer.Option(help="Send what was uploaded there before, too.")] = False,
    form: FormatOption = None,
) -> None:
    """De-identify, log, and have any command send: nothing reaches it before it is in the log.

    The command runs once for each acquisition, with a private folder of its de-identified files in
    place of {}. Exit status 0 means uploaded. It finds the log id in DEID_LOG_ID.

    \b
    deid-hooks exec incoming --as pacs -- storescu -aec ARCHIVE pacs 11112 +sd {}
    deid-hooks exec incoming --as bucket --together -- rsync -r {}/ archive:/srv/images/
    """
    from deid_hooks.uploader.command import Command, Interrupted
    from deid_hooks.uploader.subjects import read_subjects
    from deid_hooks.uploader.upload import Order

    target = Command(command, name, together)
    labels = read_subjects(subjects, project) if subjects else {}
    order = Order(engine, project, jobs, again, labels, together)
    try:
        with target.passing_signals_on(), hooks_of(context) as hooks:
            check_log(hooks)
            deliver(hooks, source, target, order, form, target.refuse_to_go_on)
    except Interrupted as ended:
        raise typer.Exit(128 + ended.number) from None
