"""Who looked: ``access``, ``access verify`` and ``access head``."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deid_hooks.cli.context import FAILED, NOTHING_FOUND, ReasonOption, looking, open_hooks
from deid_hooks.cli.output import Format, FormatOption, chosen, write_rows

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
    who: Annotated[str, typer.Option(help="Only looks of this user.")] = "",
    entry: Annotated[str, typer.Option(metavar="LOG_ID", help="Only looks at this entry.")] = "",
    reason: ReasonOption = "",
    form: FormatOption = None,
) -> None:
    """List who looked into the log: from where, when, what was asked, what was found, and why.

    Looking at the trail is in the trail, too. csv, json and jsonl have all that `verify` needs.

    \b
    deid-hooks access --at 2026-11 --who jane
    deid-hooks access --entry 65774D086757457C9DCF96E762803606
    deid-hooks access --format csv > trail.csv
    """
    if context.invoked_subcommand is not None:
        return
    wanted = _wanted(at, who, entry)
    asked = " ".join(f"{k}={v}" for k, v in (("at", at), ("who", who), ("entry", entry)) if v)
    with looking(context, "access", reason) as looker:
        looker.record(asked, ())
        rows = ((row, seal) for row, seal in looker.recorder.trail() if wanted(row))
        if chosen(form) is Format.TABLE:
            count = write_rows((_short(row) for row, _ in rows), _SHOWN, form, "id")
        else:
            whole = ({**dataclasses.asdict(row), "seal": seal} for row, seal in rows)
            count = write_rows(whole, _WHOLE, form, "id")
    if not count:
        typer.echo("Nobody looked.", err=True)
        raise typer.Exit(NOTHING_FOUND)


@app.command()
def verify(
    context: typer.Context,
    head: Annotated[str, typer.Option(metavar="SEAL", help="What `access head` said before.")] = "",
    form: FormatOption = None,
) -> None:
    """Verify that nobody changed the trail without the site secret. Exit code 1 if somebody did.

    Only with a head that was kept elsewhere is it noticed that rows were cut off at the end.

    \b
    deid-hooks access verify --head @head.txt
    """
    from deid_hooks.cli.context import read_arguments
    from deid_hooks.records.chain import derive_trail_key, find_breaks

    kept = head and "".join(read_arguments([head])).strip()
    with open_hooks(context) as hooks:
        seen = _Counted(hooks.open_log().trail())
        found = find_breaks(seen, derive_trail_key(hooks.open_log().secret), kept or None)
        rows = ({"row": each.row_id or "(the end)", "what": each.what} for each in found)
        if write_rows(rows, ["row", "what"], form, "row"):
            raise typer.Exit(FAILED)
        typer.echo(f"The trail is whole: {seen.count} looks.", err=True)


@app.command()
def head(context: typer.Context) -> None:
    """Print the seal of the last row of the trail. Keep it elsewhere, for `access verify --head`.

    \b
    deid-hooks access head > head.txt
    """
    with open_hooks(context) as hooks:
        typer.echo(next(iter(deque((seal for _, seal in hooks.open_log().trail()), maxlen=1)), ""))


def _wanted(at: str, who: str, entry: str) -> Callable[[AccessRow], bool]:
    """Whether a row is asked for. The language of times is that of search terms."""
    from deid_hooks.query.conditions import meets
    from deid_hooks.query.parser import parse_terms
    from deid_hooks.records.model import parse_log_id

    when = parse_terms([f"created={at}"]).terms[0].conditions[0] if at else None
    log_id = parse_log_id(entry)
    if entry and log_id is None:
        raise typer.BadParameter("--entry takes a log id, 32 hex digits")

    def wanted(row: AccessRow) -> bool:
        return (
            (when is None or meets(when, "", [row.at]))
            and (not who or row.who == who)
            and (log_id is None or log_id in row.log_ids)
        )

    return wanted


def _short(row: AccessRow) -> dict[str, Any]:
    asked = "; ".join(row.asked.splitlines())
    at = row.at[:19].replace("T", " ")
    return {**dataclasses.asdict(row), "at": at, "found": len(row.log_ids), "asked": asked}


class _Counted:
    def __init__(self, rows: Iterable[tuple[AccessRow, str]]) -> None:
        self.count = 0
        self._rows = rows

    def __iter__(self) -> Iterator[tuple[AccessRow, str]]:
        for row in self._rows:
            self.count += 1
            yield row
