"""The commands ``access``, ``access verify`` and ``access head``, for the access trail."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deid_hooks.cli.context import FAILED, ReasonOption, open_access, open_hooks, stop_without
from deid_hooks.cli.output import Format, FormatOption, choose_format, put, say, write_rows

if TYPE_CHECKING:
    from deid_hooks.records.model import AccessRow

_SHOWN = ["at", "who", "where", "action", "found", "asked", "reason"]
_WHOLE = [
    *("id", "at", "who", "where", "action", "asked", "log_ids", "reason"),
    *("salt", "commitment", "seal"),
]

app = typer.Typer(invoke_without_command=True, rich_markup_mode=None)


@app.callback()
def access(
    context: typer.Context,
    at: Annotated[
        str, typer.Option(help="When (UTC): 2026-11, 2026-11-01..2026-11-15, ..2026-11-15.")
    ] = "",
    who: Annotated[str, typer.Option(help="Only access by this user.")] = "",
    entry: Annotated[str, typer.Option(metavar="LOG_ID", help="Only access to this entry.")] = "",
    reason: ReasonOption = "",
    form: FormatOption = None,
) -> None:
    """List who accessed the log: from where, when, what was asked, what was found, and why.

    Reading the trail is in the trail, too. csv, json and jsonl have all that `verify` needs.

    \b
    deid-hooks access --at 2026-11 --who jane
    deid-hooks access --entry 65774D086757457C9DCF96E762803606
    deid-hooks access --format csv > trail.csv
    """
    if context.invoked_subcommand is not None:
        return
    is_wanted = _make_filter(at, who, entry)
    asked = " ".join(f"{k}={v}" for k, v in (("at", at), ("who", who), ("entry", entry)) if v)
    with open_access(context, "access", reason) as recorder:
        recorder.record(asked, ())
        rows = ((row, seal) for row, seal in recorder.log.trail() if is_wanted(row))
        if choose_format(form) is Format.TABLE:
            count = write_rows((_shorten(row) for row, _ in rows), _SHOWN, form, "id")
        else:
            whole = ({**dataclasses.asdict(row), "seal": seal} for row, seal in rows)
            count = write_rows(whole, _WHOLE, form, "id")
    if not count:
        stop_without("No access is recorded.")


@app.command()
def verify(
    context: typer.Context,
    head: Annotated[
        str, typer.Option(metavar="SEAL", help="What `access head` printed before.")
    ] = "",
    form: FormatOption = None,
) -> None:
    """Verify that nobody changed the trail without the site secret. Exit code 1 if somebody did.

    Rows that were cut off at the end are noticed only with a head that was kept elsewhere.

    \b
    deid-hooks access verify --head @head.txt
    """
    from deid_hooks.cli.context import read_arguments
    from deid_hooks.records.chain import find_breaks
    from deid_hooks.records.keys import derive_trail_key

    kept = head and "".join(read_arguments([head])).strip()
    count = 0
    with open_hooks(context) as hooks:

        def read_trail() -> Iterator[tuple[AccessRow, str]]:
            nonlocal count
            for pair in hooks.open_log().trail():
                count += 1
                yield pair

        found = find_breaks(read_trail(), derive_trail_key(hooks.open_log().secret), kept or None)
        rows = ({"row": each.row_id or "(the end)", "what": each.what} for each in found)
        if write_rows(rows, ["row", "what"], form, "row"):
            raise typer.Exit(FAILED)
        say(f"The trail is whole: {count} records.")


@app.command()
def head(context: typer.Context) -> None:
    """Print the seal of the last row of the trail. Keep it elsewhere, for `access verify --head`.

    \b
    deid-hooks access head > head.txt
    """
    with open_hooks(context) as hooks:
        put(next(iter(deque((seal for _, seal in hooks.open_log().trail()), maxlen=1)), ""))


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
