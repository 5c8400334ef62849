"""The commands ``export``, ``import`` and ``copy``."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from deid_hooks.cli.context import (
    FAILED,
    SOME_REFUSED,
    ReasonOption,
    complete_term,
    open_access,
    open_hooks,
    read_arguments,
    read_term_texts,
    refuse_without_reason,
)
from deid_hooks.cli.output import (
    Format,
    OutputOption,
    count_on_terminal,
    put,
    say,
    write_rows,
    write_to,
)


class ExportFormat(StrEnum):
    JSONL = "jsonl"
    CSV = "csv"


def export(
    context: typer.Context,
    terms: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TERM...]", help="Which entries; otherwise all.", autocompletion=complete_term
        ),
    ] = None,
    join: Annotated[
        bool, typer.Option("--join", help="Only log ids, subject labels and de-identified UIDs.")
    ] = False,
    output: OutputOption = None,
    reason: ReasonOption = "",
    form: Annotated[
        ExportFormat, typer.Option("--format", help="jsonl holds all; csv is for a spreadsheet.")
    ] = ExportFormat.JSONL,
) -> None:
    """Export entries with what became of them. jsonl can be imported again, without any loss.

    With --join a list for those who analyse the images, that holds no identifiers.

    \b
    deid-hooks export --output log.jsonl
    deid-hooks export project=TRIAL7 --join --format csv --output join.csv
    """
    from deid_hooks.admin import export_log as exporting
    from deid_hooks.query.parser import parse_terms
    from deid_hooks.settings import load_settings

    texts = read_term_texts(terms or ())
    query = parse_terms(texts) if texts else None
    asked = "\n".join(texts) or "everything"
    blank: Counter[str] = Counter()
    with open_access(context, "export", reason) as access, write_to(output):
        log = access.log
        shape = Format(form.value)
        ids = access.record_ids(log.search(query or parse_terms(["id=*"])), asked)
        if join:
            rows = exporting.make_join_list(log.entries(ids), lambda: blank.update(["left out"]))
            write_rows(rows, exporting.JOIN_COLUMNS, shape, "log_id")
        elif form is ExportFormat.CSV:
            columns = exporting.list_columns(load_settings(url=context.obj.url).fields)
            write_rows(exporting.make_sheet(log, ids), columns, shape, "id")
        else:
            for line in (
                exporting.write_part(log, ids)
                if query
                else exporting.write_whole(log, access, asked)
            ):
                put(line)
    if blank:
        say(f"{blank.total()} values left as they were, would identify, and are left out.")


def import_(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="What to import.")],
    project: Annotated[str, typer.Option(help="To which it belongs; not for our own export.")] = "",
    foreign: Annotated[
        bool,
        typer.Option(
            "--as-foreign-history", help="Take the entries of a broken export, unchecked."
        ),
    ] = False,
    reason: ReasonOption = "",
) -> None:
    """Bring in an export, or the history of another system. Repeat it without harm.

    Known are exports of deid-hooks (jsonl), the CSV of Flywheel's --save-deid-logs, IDMap CSVs of
    RSNA CTP, and the database of RSNA Anonymizer. What was forgotten does not come back. An export
    of deid-hooks is checked before anything of it is written. It lifts no block.

    \b
    deid-hooks import anonymizer.db --project TRIAL7
    """
    from deid_hooks.admin.import_log import import_history

    counts: Counter[str] = Counter()
    with open_access(context, "import", reason) as access:
        access.log.check()
        try:
            kind = import_history(access, file, project, counts, foreign)
        except OSError as error:
            raise typer.BadParameter(
                f"{file} can't be read, or not copied into a temporary file: {error.strerror}"
            ) from None
        finally:
            parts = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
            say(parts or "nothing imported")
    put(f"Imported from {kind}: {counts['imported']} entries.")
    if counts["not understood"] or counts["other content"]:
        raise typer.Exit(SOME_REFUSED if counts["imported"] or counts["there already"] else FAILED)


_WORDS = {
    "Entry": "entries",
    "UploadEvent": "upload events",
    "AccessRow": "access rows",
    "Tombstone": "tombstones",
    "Block": "blocks",
}


def copy(
    context: typer.Context,
    source: Annotated[str, typer.Argument(metavar="FROM", help="URL of a log, or @FILE.")],
    target: Annotated[str, typer.Argument(metavar="TO", help="URL of a log, or @FILE.")],
    reason: Annotated[str, typer.Option(help="Why: kept in the access trail.")] = "",
) -> None:
    """Copy a whole log into another store, made if there is none, and verify the copy.

    Stop the uploaders first. Repeat it after any trouble: what is there already is passed over.
    A URL with a password belongs in a file: arguments are visible to other users of the machine.

    \b
    deid-hooks copy sqlite:////srv/deid/log.db @url-of-the-database.txt
    """
    from deid_hooks.access import make_access_row
    from deid_hooks.copy_log import copy_log
    from deid_hooks.deadline import Deadline
    from deid_hooks.log import make_backend
    from deid_hooks.settings import mask_passwords

    source, target = _read_url(source), _read_url(target)
    with open_hooks(context, source) as hooks:
        refuse_without_reason(hooks, reason)
        hooks.check()
        into = make_backend(target)
        try:
            into.create(Deadline(hooks.settings.deadline))
            hooks.gate.open_log().record_access(
                make_access_row("copy", f"to {mask_passwords(target)}", (), reason)
            )
            held = copy_log(
                hooks.gate.open_log().backend, into, hooks.settings.deadline, _make_counter()
            )
        finally:
            into.close()
    if sys.stderr.isatty():
        say("")
    parts = (f"{count} {_WORDS[kind]}" for kind, count in sorted(held.counts.items()))
    put(f"The copy is whole: {', '.join(parts)}.")


def _read_url(word: str) -> str:
    urls = read_arguments([word])
    if len(urls) != 1:
        raise typer.BadParameter("one URL is wanted")
    return urls[0]


def _make_counter() -> Callable[[int], None]:
    """Return what counts records on a terminal, and nowhere else."""
    done = 0

    def count(records: int) -> None:
        nonlocal done
        done += records
        count_on_terminal(f"{done} records")

    return count
