"""The command line, ``deid-hooks``: one module for each group of commands.

What takes long to import is imported inside the command that needs it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_group

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
from deid_hooks.cli.output import Unwritten, discard_output, ready_streams, say
from deid_hooks.errors import PluginError
from deid_hooks.plugins import Found, find_commands


class CommandGroup(TyperGroup):
    """Our own commands, and behind them the installed ones.

    Two that claim one name are an error of every command, but for ``plugins``, which shows it.
    """

    @cached_property
    def _installed(self) -> dict[str, Found]:
        return find_commands(self.commands)

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *self._installed]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name != "plugins" and cmd_name in self._installed:
            return _Unloaded(self._installed[cmd_name])
        return super().get_command(ctx, cmd_name)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # `deid-hooks search ... | head` has read enough
            discard_output()
            return None


class _Unloaded(TyperCommand):
    """A command that is imported when it runs, not when it is listed."""

    def __init__(self, found: Found) -> None:
        super().__init__(found.name, short_help=f"From {found.distribution}.")
        self._found = found

    def make_context(self, *words: Any, **options: Any) -> Any:
        return make_command(self._found).make_context(*words, **options)


def make_command(found: Found) -> Any:
    """Import a command. Raises PluginError if it can't be imported, or is none."""
    target = found.load()
    app = typer.Typer(rich_markup_mode=None)
    try:
        if isinstance(target, typer.Typer):
            app.add_typer(target, name=found.name)
        else:
            app.command(found.name)(target)
        return get_group(app).commands[found.name]
    except Exception as error:  # noqa: BLE001 - whatever Typer does with what it can't take
        raise PluginError(
            f"The command {found} is neither a typer.Typer application nor a function that Typer"
            f" can make a command of: {type(error).__name__}. Repair or uninstall it."
        ) from None


app = typer.Typer(
    cls=CommandGroup,
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
    config: Annotated[
        Path | None, typer.Option(help="The settings, instead of the user's own file.")
    ] = None,
) -> None:
    if config is not None:  # the token of a service, too, is looked for beside that file
        from deid_hooks.settings import VARIABLE_OF_FILE

        os.environ[VARIABLE_OF_FILE] = str(config.absolute())
    context.obj = LogSettings(url=url)


_COMMANDS: dict[str, Callable[..., None]] = {
    "check": setup.check,
    "upload": upload.upload,
    "exec": upload.execute,
    "search": search.search,
    "show": show.show,
    "report": report.report,
    "reidentify": reidentify.reidentify,
    "block": withdrawal.block,
    "withdrawn": withdrawal.withdrawn,
    "forget": withdrawal.forget,
    "export": exchange.export,
    "import": exchange.import_,
    "stats": setup.stats,
    "pending": show.pending,
    "copy": exchange.copy,
    "plugins": setup.plugins,
    "config": setup.config,
    "access": access.access,
    "verify": access.verify,
    "rotate": setup.rotate,
    "init": setup.init,
}
for _name, _command in _COMMANDS.items():
    app.command(_name)(_command)


def main() -> None:
    """Run a command. Whatever goes wrong is one message, an exit code, and never a value."""
    ready_streams()
    code, error = _run()
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        discard_output()
    except OSError as unwritten:  # what was done is done, and nobody gets to see all of it
        discard_output()
        if isinstance(error, OSError | Unwritten):  # which is why it ended, in other words
            error = None
        say(str(Unwritten(unwritten)))
        code = code or FAILED
    if error is not None:
        say(describe_error(error))
    say()  # what is left of it: Python itself would end with a code of its own
    sys.exit(code)


def _run() -> tuple[int, Exception | None]:
    """Run the command, and return its exit code and the error that ended it, if one did."""
    try:
        app()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0, None
        error: Exception = RuntimeError()  # some code in our process ended it with a text
    except KeyboardInterrupt:
        return 130, None
    except Exception as raised:  # noqa: BLE001 - its text may hold values
        error = raised
    else:
        return 0, None
    return choose_exit_code(error), error
