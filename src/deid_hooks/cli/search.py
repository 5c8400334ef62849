"""Finding log ids: ``search``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
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
from deid_hooks.cli.output import Format, FormatOption, choose_format, write_rows

if TYPE_CHECKING:
    from deid_hooks.admin.access import AccessRecorder
    from deid_hooks.query.conditions import Term

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
    from deid_hooks.admin.search import parse_columns

    texts = read_term_texts(terms or ())
    shown = parse_columns(show.replace(",", " ").split())
    if source and (sort or explain):
        raise typer.BadParameter("--from answers in its own order, without --sort and --explain")
    if explain:
        _explain(context, texts, form)
        return
    if source:
        count = _search_list(context, source, column, texts, shown, limit, reason, form)
    else:
        count = _search(context, texts, shown, sort, limit, reason, form)
    if not count:
        stop_without("Nothing found.")


def _search(
    context: typer.Context,
    texts: Sequence[str],
    shown: dict[str, Term],
    sort: str,
    limit: int | None,
    reason: str,
    form: Format | None,
) -> int:
    """Search for the terms and write what they find; return how many rows."""
    from deid_hooks.query.parser import parse_terms

    query = parse_terms(texts)
    with open_access(context, "search", reason) as access:
        ids = access.log.search(query)
        rows = _make_rows(access, ids, shown, sort, limit, "\n".join(texts))
        return write_rows(rows, ["id", *shown], form, "id")


def _make_rows(
    access: AccessRecorder,
    ids: Iterable[str],
    shown: dict[str, Term],
    sort: str,
    limit: int | None,
    asked: str,
) -> Iterator[Row]:
    from deid_hooks.admin.search import make_rows, parse_columns, sort_rows

    if not sort:
        return make_rows(access.log, access.record_ids(islice(ids, limit), asked), shown)
    name = sort.removeprefix("-")
    columns = {**shown, **parse_columns([name])} if name != "id" else shown
    rows = sort_rows(make_rows(access.log, ids, columns), sort, limit)
    return access.record_each(rows, asked, lambda row: [row["id"]])


def _search_list(
    context: typer.Context,
    source: str,
    column: str,
    texts: Sequence[str],
    shown: dict[str, Term],
    limit: int | None,
    reason: str,
    form: Format | None,
) -> int:
    """Search for each value of a file and write what it finds; return how many found something."""
    from deid_hooks.admin.search import find_each, parse_columns, read_values

    header, _, keyword = column.partition("=")
    parse_columns([keyword or header])
    count = 0
    with open_access(context, "search", reason) as access:
        values = read_values(read_lines(source), header)
        rows = find_each(access, values, keyword or header, texts, header, shown)

        def found() -> Iterator[Row]:
            nonlocal count
            for row in islice(rows, limit):
                count += row["found"]
                if row["found"] or choose_format(form) is not Format.IDS:
                    yield row

        write_rows(found(), [header, "found", "id", *shown], form, "id")
    return count


def _explain(context: typer.Context, texts: Sequence[str], form: Format | None) -> None:
    """Write which index serves each term, and search nothing."""
    from deid_hooks.query.parser import parse_terms

    query = parse_terms(texts)
    with open_hooks(context) as hooks:
        rows = [{"term": term, "served by": how} for term, how in hooks.open_log().explain(query)]
    write_rows(rows, ["term", "served by"], form, "term")
