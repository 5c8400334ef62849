"""The command ``reidentify``: bring files back to the originals."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deid_hooks.cli.context import FAILED, SOME_REFUSED, ReasonOption, open_access
from deid_hooks.cli.output import Format, FormatOption, choose_format, say, write_rows

if TYPE_CHECKING:
    from deid_hooks.admin.reidentify import Returned

_COLUMNS = ["file", "status", "output", "log_id", "reason", "not_restored"]
_BACK = ("restored", "derived")


def reidentify(
    context: typer.Context,
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH...", exists=True, help="De-identified files and folders."),
    ],
    output: Annotated[Path, typer.Option(help="A folder to make; nothing is ever overwritten.")],
    derived: Annotated[
        bool, typer.Option(help="Also what was made from de-identified images, by its references.")
    ] = False,
    entry: Annotated[
        str, typer.Option(help="The log id to use where several entries differ about a file.")
    ] = "",
    reason: ReasonOption = "",
    form: FormatOption = None,
) -> None:
    """Bring de-identified files back to their originals, found in the log by their UIDs.

    Each file is accounted for, with the names of the elements that the log can't bring back.

    \b
    deid-hooks reidentify delivered --output originals --reason 'incidental finding'
    deid-hooks reidentify segmentations --derived --output originals
    """
    from deid_hooks.admin.reidentify import Reidentifier
    from deid_hooks.records.model import parse_log_id

    _check_output(output, paths)
    log_id = parse_log_id(entry) or ""
    if entry and not log_id:
        raise typer.BadParameter("--entry wants a log id")
    counts: Counter[str] = Counter()
    incomplete = False
    with open_access(context, "reidentify", reason) as access:

        def rows() -> Iterator[dict[str, Any]]:
            nonlocal incomplete
            for each in Reidentifier(access, output, derived, log_id).run(paths):
                counts[each.status] += 1
                incomplete = incomplete or bool(each.not_restored)
                whole = each.status in _BACK and not each.not_restored
                if choose_format(form) is Format.TABLE and whole:
                    continue
                yield _make_row(each)

        try:
            write_rows(rows(), _COLUMNS, form, "log_id")
        except BrokenPipeError:
            raise
        except OSError as error:
            raise typer.BadParameter(f"{output} can't be made: {error.strerror}") from None
    parts = ", ".join(f"{number} {status}" for status, number in counts.items())
    say(f"{counts.total()} files: {parts or 'nothing to do'}")
    if not sum(counts[status] for status in _BACK):
        raise typer.Exit(FAILED)
    if incomplete or any(counts[status] for status in ("not found", "refused", "failed")):
        raise typer.Exit(SOME_REFUSED)


def _check_output(output: Path, paths: list[Path]) -> None:
    """Raise BadParameter for an output folder that is there, or within one that is read."""
    if output.exists():
        raise typer.BadParameter(f"{output} exists already: name a folder that doesn't")
    place = os.path.realpath(output)  # which takes a link in a circle as it is
    if any(path.is_dir() and Path(place).is_relative_to(path.resolve()) for path in paths):
        raise typer.BadParameter("the output folder can't be within one that is read")


def _make_row(each: Returned) -> dict[str, Any]:
    return {
        "file": str(each.path),
        "status": each.status,
        "output": str(each.output) if each.output else None,
        "log_id": each.log_id,
        "reason": each.reason,
        "not_restored": list(each.not_restored),
    }
