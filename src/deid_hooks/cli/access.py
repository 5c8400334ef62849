"""The commands ``access``, for the access trail, and ``verify``, for the chain of the log."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deid_hooks.cli.context import (
    FAILED,
    ReasonOption,
    open_access,
    open_hooks,
    read_arguments,
    stop_without,
)
from deid_hooks.cli.output import (
    Format,
    FormatOption,
    OutputOption,
    choose_format,
    put,
    say,
    write_rows,
    write_to,
)

if TYPE_CHECKING:
    from deid_hooks.records.model import AccessRow

_SHOWN = ["at", "who", "where", "action", "found", "asked", "reason"]
_WHOLE = [
    *("id", "at", "who", "where", "action", "asked", "log_ids", "reason"),
    *("salt", "commitment", "seal"),
]


def access(
    context: typer.Context,
    at: Annotated[
        str, typer.Option(help="When (UTC): 2026-11, 2026-11-01..2026-11-15, ..2026-11-15.")
    ] = "",
    who: Annotated[str, typer.Option(help="Only access by this user.")] = "",
    entry: Annotated[str, typer.Option(metavar="LOG_ID", help="Only access to this entry.")] = "",
    reason: ReasonOption = "",
    output: OutputOption = None,
    form: FormatOption = None,
) -> None:
    """List who accessed the log: from where, when, what was asked, what was found, and why.

    Reading the trail is in the trail, too. csv, json and jsonl have all that there is of a row.

    \b
    deid-hooks access --at 2026-11 --who jane
    deid-hooks access --entry 65774D086757457C9DCF96E762803606
    deid-hooks access --format csv --output trail.csv
    """
    is_wanted = _make_filter(at, who, entry)
    asked = " ".join(f"{k}={v}" for k, v in (("at", at), ("who", who), ("entry", entry)) if v)
    with open_access(context, "access", reason) as recorder, write_to(output):
        recorder.record(asked, ())
        rows = ((row, seal) for row, seal in recorder.log.trail() if is_wanted(row))
        if choose_format(form) is Format.TABLE:
            count = write_rows((_shorten(row) for row, _ in rows), _SHOWN, form, "id")
        else:
            whole = ({**dataclasses.asdict(row), "seal": seal} for row, seal in rows)
            count = write_rows(whole, _WHOLE, form, "id")
    if not count:
        stop_without("No access is recorded.")


def verify(
    context: typer.Context,
    head: Annotated[
        str,
        typer.Option(metavar="LINE", help="What --print-head printed before; @FILE for several."),
    ] = "",
    print_head: Annotated[
        bool, typer.Option("--print-head", help="Print the end of the log, to be kept elsewhere.")
    ] = False,
    form: FormatOption = None,
) -> None:
    """Verify that nobody without the key changed, moved or removed anything. Exit code 1 otherwise.

    That the end was cut off is noticed with a head that was kept elsewhere. The head of the last
    time is kept beside the site secret, and compared.

    \b
    deid-hooks verify
    deid-hooks verify --print-head > head.txt
    deid-hooks verify --head @head.txt
    """
    from deid_hooks.records.chain import Verification, parse_head
    from deid_hooks.records.model import read_clock

    given = list(map(parse_head, read_arguments([head]) if head else []))
    if None in given or (head and not given):
        raise typer.BadParameter("--head takes lines that `verify --print-head` printed")
    with open_hooks(context) as hooks:
        log = hooks.gate.open_log()
        heads = {*log.read_heads(), *filter(None, given)}
        verification = Verification(log.sealer, heads)
        rows = ({"n": f.n, "record": f.id, "what": f.what} for f in log.verify(verification))
        if print_head:
            faults = sum(1 for _ in rows)
        else:
            faults = write_rows(rows, ["n", "record", "what"], form, "n")
        end = verification.make_head(read_clock())
        if faults or end is None:
            say('Read "The log was altered" in docs/verify.md.' if faults else NO_RECORDS)
            raise typer.Exit(FAILED)
        try:
            log.write_head(end)
        except OSError as error:
            say(f"The head could not be kept in {log.head_file}: {error.strerror}.")
    if print_head:
        put(str(end))
    span = f"{verification.first_time[:19]} to {verification.last_time[:19]}"
    say(f"The log is whole: {verification.count} records, {span}.")
    if verification.unsure:
        say(
            f"The key of {verification.unsure} of them was lost: that they are in order was"
            " checked, and not who wrote them."
        )


NO_RECORDS = "The log has no records, so nothing can be said of it."


def _make_filter(at: str, who: str, entry: str) -> Callable[[AccessRow], bool]:
    """Return whether a row is asked for. Times are written as in search terms."""
    from deid_hooks.query.conditions import meets
    from deid_hooks.query.parser import parse_terms
    from deid_hooks.records.model import parse_log_id

    when = parse_terms([f"created={at}"]).terms[0].conditions[0] if at else None
    log_id = parse_log_id(entry)
    if entry and log_id is None:
        raise typer.BadParameter("--entry takes a log id, 32 hex digits")

    def is_wanted(row: AccessRow) -> bool:
        return (
            (when is None or meets(when, "", [row.at]))
            and (not who or row.who == who)
            and (log_id is None or log_id in row.log_ids)
        )

    return is_wanted


def _shorten(row: AccessRow) -> dict[str, Any]:
    asked = "; ".join(row.asked.splitlines())
    at = row.at[:19].replace("T", " ")
    return {**dataclasses.asdict(row), "at": at, "found": len(row.log_ids), "asked": asked}
