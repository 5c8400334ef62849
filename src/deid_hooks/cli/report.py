"""The command ``report``: all that left about a subject."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import typer

from deid_hooks.batches import split_batches
from deid_hooks.cli.context import (
    ReasonOption,
    TermsArgument,
    open_access,
    read_term_texts,
    stop_without,
)
from deid_hooks.cli.output import (
    Format,
    FormatOption,
    OutputOption,
    choose_format,
    join_values,
    make_visible,
    put,
    say,
    write_rows,
    write_to,
)

if TYPE_CHECKING:
    from deid_hooks.admin.search import Line

_TABLE = ["id", "acquired", "Modality", "images", "destination", "outcome", "withdrawn"]
_LINES_AT_ONCE = 5_000


def report(
    context: typer.Context,
    terms: TermsArgument,
    reason: ReasonOption = "",
    output: OutputOption = None,
    form: FormatOption = None,
) -> None:
    """Report all that left about a subject: acquisitions, destinations, outcomes, withdrawals.

    A line for each acquisition at each destination. Patients of one number and different issuers
    are told apart. csv, json and jsonl have every column, with all de-identified UIDs.

    \b
    deid-hooks report @terms.txt
    deid-hooks report subject=SUBJ-007 project=TRIAL7 --format csv --output report.csv
    """
    from deid_hooks.admin.search import COLUMNS
    from deid_hooks.admin.search import report as make_lines
    from deid_hooks.query.parser import parse_terms

    texts = read_term_texts(terms)
    query = parse_terms(texts)
    persons: set[Hashable] = set()
    with open_access(context, "report", reason) as access, write_to(output):
        found = access.record_ids(access.log.search(query), "\n".join(texts))
        lines = make_lines(access.log, found)
        if choose_format(form) is Format.TABLE:
            _print_by_person(lines, persons)
        else:

            def rows() -> Iterator[dict[str, Any]]:
                for line in lines:
                    persons.add(line.person)
                    yield line.row

            write_rows(rows(), COLUMNS, form, "id")
    if not persons:
        stop_without("Nothing found.")
    if len(persons) > 1:
        say(f"{len(persons)} subjects: they differ in PatientID, its issuer, or the project.")


def _print_by_person(lines: Iterable[Line], persons: set[Hashable]) -> None:
    """Print a table for each person. Of very many lines, some at a time."""
    for some in split_batches(lines, _LINES_AT_ONCE):
        by_person: dict[Hashable, list[Line]] = {}
        for line in some:
            by_person.setdefault(line.person, []).append(line)
        for person, theirs in by_person.items():
            if persons:
                put()
            persons.add(person)
            put(make_visible(_write_heading(theirs[0].row)))
            write_rows(map(_shorten, theirs), _TABLE, Format.TABLE, "id")


def _write_heading(row: dict[str, Any]) -> str:
    from deid_hooks.admin.search import PATIENT

    number, issuer, name, born, subject = (
        join_values(row[column]) for column in (*PATIENT, "subject")
    )
    parts = [
        f"PatientID {number}" + (f" of {issuer}" if issuer else ""),
        name,
        born and f"born {born}",
        subject and f"subject {subject}",
        row["project"] and f"project {row['project']}",
        row["blocked"] and "BLOCKED",
    ]
    return ", ".join(filter(None, parts))


def _shorten(line: Line) -> dict[str, Any]:
    row = line.row
    return {
        **row,
        "acquired": (row["timestamp"] or "")[:10],
        "images": row["instances"],
        "withdrawn": (row["withdrawn"] or "")[:10],
    }
