"""All that left about a subject: ``report``."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any

import typer

from deid_hooks.cli.context import (
    NOTHING_FOUND,
    ReasonOption,
    TermsArgument,
    looking,
    read_term_texts,
)
from deid_hooks.cli.output import Format, FormatOption, chosen, visible, write_rows

if TYPE_CHECKING:
    from deid_hooks.admin.report import Line

_TABLE = ["id", "acquired", "Modality", "images", "destination", "outcome", "withdrawn"]
_LINES_AT_ONCE = 5_000


def report(
    context: typer.Context,
    terms: TermsArgument,
    reason: ReasonOption = "",
    form: FormatOption = None,
) -> None:
    """Report all that left about a subject: acquisitions, destinations, outcomes, withdrawals.

    A line for each acquisition at each destination. Patients of one number and different issuers
    are told apart. csv, json and jsonl have every column, with all de-identified UIDs.

    \b
    deid-hooks report @terms.txt
    deid-hooks report subject=SUBJ-007 project=TRIAL7 --format csv > report.csv
    """
    from deid_hooks.admin.report import COLUMNS
    from deid_hooks.admin.report import report as lines_of
    from deid_hooks.query.parser import parse_terms

    texts = read_term_texts(terms)
    query = parse_terms(texts)
    persons: set[Hashable] = set()
    with looking(context, "report", reason) as looker:
        found = looker.recorded(
            looker.recorder.search(query), "\n".join(texts), lambda log_id: [log_id]
        )
        lines = lines_of(looker.recorder, found)
        if chosen(form) is Format.TABLE:
            _print_by_person(lines, persons)
        else:

            def rows() -> Iterable[dict[str, Any]]:
                for line in lines:
                    persons.add(line.person)
                    yield line.row

            write_rows(rows(), COLUMNS, form, "id")
    if not persons:
        typer.echo("Nothing found.", err=True)
        raise typer.Exit(NOTHING_FOUND)
    if len(persons) > 1:
        typer.echo(
            f"{len(persons)} subjects: they differ in PatientID, its issuer, or the project.",
            err=True,
        )


def _print_by_person(lines: Iterable[Line], persons: set[Hashable]) -> None:
    """A table for each person. Of very many lines, some at a time."""
    remaining = iter(lines)
    while some := list(islice(remaining, _LINES_AT_ONCE)):
        by_person: dict[Hashable, list[Line]] = {}
        for line in some:
            by_person.setdefault(line.person, []).append(line)
        for person, theirs in by_person.items():
            if persons:
                print()
            persons.add(person)
            print(visible(_heading(theirs[0].row)))
            write_rows(map(_short, theirs), _TABLE, Format.TABLE, "id")


def _heading(row: dict[str, Any]) -> str:
    number, issuer = row["PatientID"], row["IssuerOfPatientID"]
    parts = [
        f"PatientID {_text(number)}" + (f" of {_text(issuer)}" if issuer else ""),
        _text(row["PatientName"]),
        f"born {_text(row['PatientBirthDate'])}" if row["PatientBirthDate"] else "",
        f"subject {_text(row['subject'])}" if row["subject"] else "",
        f"project {row['project']}" if row["project"] else "",
        "BLOCKED" if row["blocked"] else "",
    ]
    return ", ".join(filter(None, parts))


def _short(line: Line) -> dict[str, Any]:
    row = line.row
    return {
        **row,
        "acquired": (row["timestamp"] or "")[:10],
        "images": row["instances"],
        "withdrawn": (row["withdrawn"] or "")[:10],
    }


def _text(value: Any) -> str:
    return " | ".join(value) if isinstance(value, list) else str(value or "")
