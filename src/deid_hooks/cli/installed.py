"""Commands of other distributions: entry points of the group ``deid_hooks.commands``."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_group

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
