"""The command line, ``deid-hooks``: one module for each group of commands.

What takes long to import is imported inside the command that needs it.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from deid_hooks.cli import (
    access,
    exchange,
    reidentify,
    report,
    search,
    setup,
    show,
    upload,
    withdrawal,
)
from deid_hooks.cli.context import FAILED, LogSettings, choose_exit_code, describe_error
from deid_hooks.cli.output import Unwritten, nobody_reads, ready_streams, say


class _Commands(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # `deid-hooks search ... | head` has read enough
            nobody_reads()
            return None


app = typer.Typer(
    cls=_Commands,
    help="Nothing leaves unlogged: log what de-identification removes, before images are sent.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,  # a traceback with locals prints patients
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def settings(
    context: typer.Context,
    url: Annotated[
        str | None, typer.Option(help="Where the log is, instead of the settings' url.")
    ] = None,
) -> None:
    context.obj = LogSettings(url=url)


app.command("check")(setup.check)
app.command("upload")(upload.upload)
app.command("exec")(upload.execute)
app.command("search")(search.search)
app.command("show")(show.show)
app.command("report")(report.report)
app.command("reidentify")(reidentify.reidentify)
app.command("block")(withdrawal.block)
app.command("withdrawn")(withdrawal.withdrawn)
app.command("forget")(withdrawal.forget)
app.command("export")(exchange.export)
app.command("import")(exchange.import_)
app.command("stats")(setup.stats)
app.command("pending")(show.pending)
app.add_typer(access.app, name="access")
app.command("copy")(exchange.copy)
app.command("plugins")(setup.plugins)
app.command("config")(setup.config)
app.command("init")(setup.init)
app.command(
    "serve",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
)(setup.serve)


def main() -> None:
    """Run a command. Whatever goes wrong is one message, an exit code, and never a value."""
    ready_streams()
    code = _run()
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        nobody_reads()
    except OSError as error:  # what was done is done, and nobody gets to see all of it
        nobody_reads()
        say(str(Unwritten(error)))
        code = code or FAILED
    say()  # what is left of it: Python itself would end with a code of its own
    sys.exit(code)


def _run() -> int:
    try:
        app()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        error: Exception = RuntimeError()  # some code in our process ended it with a text
    except KeyboardInterrupt:
        return 130
    except Exception as raised:  # noqa: BLE001 - its text may hold values
        error = raised
    else:
        return 0
    say(describe_error(error))
    return choose_exit_code(error)
