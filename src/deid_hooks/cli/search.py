"""The command ``search``: find log ids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deid_hooks.cli.context import (
    ReasonOption,
    complete_column,
    complete_term,
    open_access,
    open_hooks,
    read_lines,
    read_term_texts,
    stop_without,
)
from deid_hooks.cli.output import (
    Format,
    FormatOption,
    OutputOption,
    choose_format,
    write_rows,
    write_to,
)

if TYPE_CHECKING:
    from deid_hooks.access import AccessRecorder
    from deid_hooks.query.conditions import Query, Term

    Row = dict[str, Any]

_TermsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[TERM...]",
        help="KEYWORD=VALUE, a name, @FILE, or - for stdin.",
        autocompletion=complete_term,
    ),
]
_ShowOption = Annotated[
    str,
    typer.Option(
        help="Columns beside the id: keywords, deid:KEYWORD, timestamp, project.",
        autocompletion=complete_column,
    ),
]
_SortOption = Annotated[
    str,
    typer.Option(help="By which column; -StudyDate: latest first.", autocompletion=complete_column),
]
_ColumnOption = Annotated[
    str,
    typer.Option(
        help="The column of that file, a keyword; or HEADER=KEYWORD.",
        autocompletion=complete_column,
    ),
]


def search(
    context: typer.Context,
    terms: _TermsArgument = None,
    show: _ShowOption = "",
    sort: _SortOption = "",
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after this many.")] = None,
    source: Annotated[
        str,
        typer.Option("--from", metavar="FILE|-", help="Find each value of a CSV file or list."),
    ] = "",
    column: _ColumnOption = "PatientID",
    explain: Annotated[
        bool, typer.Option("--explain", help="Say which index serves, and search nothing.")
    ] = False,
    reason: ReasonOption = "",
    output: OutputOption = None,
    form: FormatOption = None,
) -> None:
    """Find the log ids of the acquisitions that match every term.

    Terms on the command line are visible to other users of the machine: rather put them in a file,
    one a line. With --from, every value of a column is searched, and answered in its order.

    \b
    deid-hooks search @terms.txt --show StudyDate,Modality --sort -StudyDate
    deid-hooks search 'PatientName=DOE^J*' StudyDate=20060801-20060831
    deid-hooks search deid:PatientID=SUBJ-007 --format ids
    deid-hooks search --from patients.csv --column PatientID project=TRIAL7 --format csv
    """
    from deid_hooks.admin.search import find_each, parse_columns, read_values
    from deid_hooks.query.parser import parse_terms

    texts = read_term_texts(terms or ())
    shown = parse_columns(show.replace(",", " ").split())
    if source and (sort or explain):
        raise typer.BadParameter("--from answers in its own order, without --sort and --explain")
    query = None if source else parse_terms(texts)
    if query is not None and explain:
        _explain(context, query, form)
        return
    with open_access(context, "search", reason) as access, write_to(output):
        if query is not None:
            rows = _make_rows(access, query, shown, sort, limit, "\n".join(texts))
            count = write_rows(rows, ["id", *shown], form, "id")
        else:
            header, _, keyword = column.partition("=")
            parse_columns([keyword or header])
            values = read_values(read_lines(source), header)
            rows = find_each(access, values, keyword or header, texts, header, shown)
            count = _write_found(islice(rows, limit), [header, "found", "id", *shown], form)
    if not count:
        stop_without("Nothing found.")


def _make_rows(
    access: AccessRecorder,
    query: Query,
    shown: dict[str, Term],
    sort: str,
    limit: int | None,
    asked: str,
) -> Iterator[Row]:
    from deid_hooks.admin.search import make_rows, parse_columns, sort_rows

    ids = access.log.search(query)
    if not sort:
        return make_rows(access.log, access.record_ids(islice(ids, limit), asked), shown)
    name = sort.removeprefix("-")
    columns = {**shown, **parse_columns([name])} if name != "id" else shown
    rows = sort_rows(make_rows(access.log, ids, columns), sort, limit)
    return access.record_each(rows, asked, lambda row: [row["id"]])


def _write_found(rows: Iterable[Row], columns: list[str], form: Format | None) -> int:
    """Write what each value finds; return the number of rows that found something."""
    count = 0

    def found() -> Iterator[Row]:
        nonlocal count
        for row in rows:
            count += row["found"]
            if row["found"] or choose_format(form) is not Format.IDS:
                yield row

    write_rows(found(), columns, form, "id")
    return count


def _explain(context: typer.Context, query: Query, form: Format | None) -> None:
    """Write which index serves each term, and search nothing."""
    with open_hooks(context) as hooks:
        rows = [
            {"term": term, "served by": how} for term, how in hooks.gate.open_log().explain(query)
        ]
    write_rows(rows, ["term", "served by"], form, "term")
