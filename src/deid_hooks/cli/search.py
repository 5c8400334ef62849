"""Finding log ids: ``search``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deid_hooks.cli.context import (
    NOTHING_FOUND,
    ReasonOption,
    complete_column,
    complete_term,
    looking,
    open_hooks,
    read_lines,
    read_term_texts,
)
from deid_hooks.cli.output import Format, FormatOption, chosen, write_rows

if TYPE_CHECKING:
    from deid_hooks.admin.access import AccessRecorder
    from deid_hooks.query.conditions import Query, Term

    Row = dict[str, Any]


def search(
    context: typer.Context,
    terms: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TERM...]",
            help="KEYWORD=VALUE, a name, @FILE, or - for stdin.",
            autocompletion=complete_term,
        ),
    ] = None,
    show: Annotated[
        str,
        typer.Option(
            help="Columns beside the id: keywords, deid:KEYWORD, timestamp, project.",
            autocompletion=complete_column,
        ),
    ] = "",
    sort: Annotated[
        str,
        typer.Option(
            help="By which column; -StudyDate: latest first.", autocompletion=complete_column
        ),
    ] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after this many.")] = None,
    source: Annotated[
        str,
        typer.Option("--from", metavar="FILE|-", help="Find each value of a CSV file or list."),
    ] = "",
    column: Annotated[
        str,
        typer.Option(
            help="The column of that file, a keyword; or HEADER=KEYWORD.",
            autocompletion=complete_column,
        ),
    ] = "PatientID",
    explain: Annotated[
        bool, typer.Option("--explain", help="Say which index serves, and search nothing.")
    ] = False,
    reason: ReasonOption = "",
    form: FormatOption = None,
) -> None:
    """Find the log ids of the acquisitions that match every term.

    Terms on the command line are visible to other users of the machine: rather put them in a file,
    one a line. With --from, every value of a column is looked for, and answered in its order.

    \b
    deid-hooks search @terms.txt --show StudyDate,Modality --sort -StudyDate
    deid-hooks search 'PatientName=DOE^J*' StudyDate=20060801-20060831
    deid-hooks search deid:PatientID=SUBJ-007 --format ids
    deid-hooks search --from patients.csv --column PatientID project=TRIAL7 --format csv
    """
    from deid_hooks.admin.search import columns_named, find_each, values_in
    from deid_hooks.query.parser import parse_terms

    texts = read_term_texts(terms or ())
    shown = columns_named(show.replace(",", " ").split())
    if source and (sort or explain):
        raise typer.BadParameter("--from answers in its own order, without --sort and --explain")
    if not source:
        query = parse_terms(texts)
        if explain:
            _explain(context, query, form)
            return
    with looking(context, "search", reason) as looker:
        if source:
            header, _, keyword = column.partition("=")
            columns_named([keyword or header])
            values = values_in(read_lines(source), header)
            rows = find_each(looker, values, keyword or header, texts, header, shown)
            count = _write_found(islice(rows, limit), [header, "found", "id", *shown], form)
        else:
            rows = _rows(looker, query, shown, sort, limit, "\n".join(texts))
            count = write_rows(rows, ["id", *shown], form, "id")
    if not count:
        typer.echo("Nothing found.", err=True)
        raise typer.Exit(NOTHING_FOUND)


def _rows(
    looker: AccessRecorder,
    query: Query,
    shown: dict[str, Term],
    sort: str,
    limit: int | None,
    asked: str,
) -> Iterator[Row]:
    from deid_hooks.admin.search import columns_named, rows_of, sorted_rows

    recorder = looker.recorder
    ids = recorder.search(query)
    if not sort:
        found = looker.recorded(islice(ids, limit), asked, lambda log_id: [log_id])
        return rows_of(recorder, found, shown)
    name = sort.removeprefix("-")
    rows = rows_of(recorder, ids, {**shown, **columns_named([name])} if name != "id" else shown)
    return looker.recorded(sorted_rows(rows, sort, limit), asked, lambda row: [row["id"]])


def _write_found(rows: Iterable[Row], columns: list[str], form: Format | None) -> int:
    """Write what each value finds; the number of rows that found something."""
    count = 0

    def counted() -> Iterator[Row]:
        nonlocal count
        for row in rows:
            count += row["found"]
            if row["found"] or chosen(form) is not Format.IDS:
                yield row

    write_rows(counted(), columns, form, "id")
    return count


def _explain(context: typer.Context, query: Query, form: Format | None) -> None:
    with open_hooks(context) as hooks:
        rows = [{"term": term, "served by": how} for term, how in hooks.open_log().explain(query)]
    write_rows(rows, ["term", "served by"], form, "term")
