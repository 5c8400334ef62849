"""The hooks that a plugin may implement; loading, verifying and calling plugins in bounded time.

In a log that must miss nothing, a plugin that silently doesn't run is an unlogged upload. So a
plugin that can't be loaded, or would never be called, is an error that names it and its
distribution.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from importlib.metadata import EntryPoint, entry_points
from types import FunctionType
from typing import Any

import pluggy

from deid_hooks.deadline import Deadline, NoAnswer, call_within
from deid_hooks.errors import DeidHooksError, PluginError, SettingsError
from deid_hooks.records.model import Entry

PROJECT_NAME = "deid_hooks"
HOOKS = ("post_deid", "pre_upload", "post_upload")

hookimpl = pluggy.HookimplMarker(PROJECT_NAME)


@dataclass(frozen=True, slots=True)
class PostDeid:
    """An acquisition was de-identified. ``entry`` holds originals and is hidden from ``repr``.

    ``not_kept`` names what changed and is not in the log: pixel data, values too large to keep.
    ``reused`` says that the log held this entry already, from an earlier attempt.
    """

    log_id: str
    project: str
    uploader: str
    entry: Entry = field(repr=False)
    not_kept: tuple[str, ...] = ()
    reused: bool = False


@dataclass(frozen=True, slots=True)
class PreUpload:
    """An acquisition is about to be sent to ``destination``."""

    log_id: str
    destination: str
    uploader: str


@dataclass(frozen=True, slots=True)
class PostUpload:
    """An acquisition was sent: its outcome is ``uploaded``, ``partial`` or ``failed``.

    ``missing`` holds the de-identified SOP Instance UIDs that were not delivered.
    """

    log_id: str
    destination: str
    uploader: str
    outcome: str
    missing: tuple[str, ...] = ()


class Hookspecs:
    """The three hooks of an upload."""

    def post_deid(self, event: PostDeid) -> None:
        """An acquisition was de-identified and its entry is durable. Raise to stop the upload."""

    def pre_upload(self, event: PreUpload) -> str | None:
        """An acquisition is about to be sent. Return a reason to refuse, or None.

        Every reason is collected; anything but None refuses, and so does any exception.
        """

    def post_upload(self, event: PostUpload) -> None:
        """An acquisition was sent. A notification: an exception is reported, never raised."""


GROUP = "deid_hooks"
BACKENDS = "deid_hooks.backends"
ENGINES = "deid_hooks.engines"
DESTINATIONS = "deid_hooks.destinations"
COMMANDS = "deid_hooks.commands"
KINDS = {
    GROUP: "plugin",
    BACKENDS: "backend",
    ENGINES: "engine",
    DESTINATIONS: "destination",
    COMMANDS: "command",
}
"""What the entry points of each group are called in messages."""


@dataclass(frozen=True, slots=True)
class Found:
    """An entry point: where a plugin, a backend, an engine, a destination or a command is."""

    name: str
    distribution: str
    entry_point: EntryPoint

    def __str__(self) -> str:
        return f"{self.name} ({self.distribution})"

    def load(self) -> Any:
        """Import it. Raises PluginError, naming it, whatever goes wrong."""
        try:
            return self.entry_point.load()
        except (Exception, SystemExit) as error:
            kind = KINDS[self.entry_point.group]
            without = "; to go on without it, name it in disabled_plugins"
            raise PluginError(
                f"The {kind} {self} can't be imported: {type(error).__name__}."
                f" Repair or uninstall it{without if kind == 'plugin' else ''}."
            ) from error

    def make(self, *arguments: object) -> Any:
        """Import it and return what it makes of the arguments.

        Raises what the factory raises of our own errors, and PluginError for anything else: its
        text, which may hold a password or a patient's label, is not repeated.
        """
        factory = self.load()
        try:
            return factory(*arguments)
        except DeidHooksError:
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 - see above
            raise PluginError(
                f"The {KINDS[self.entry_point.group]} {self} can't be made: {type(error).__name__}."
                " Look at its argument, or repair it."
            ) from None


@dataclass(frozen=True, slots=True)
class Answer:
    """What one plugin returned for one event, or how it failed, in words.

    ``who`` names the plugin within a sentence: ``the plugin quota``.
    """

    who: str
    value: object = None
    failure: str = ""


def find_installed(group: str) -> dict[str, Found]:
    """Return the entry points of a group by name, sorted.

    Raises PluginError if a name is claimed twice: one of the two would never run.
    """
    by_name: dict[str, Found] = {}
    for each in find_all(group):
        other = by_name.get(each.name)
        if other is not None:
            raise PluginError(
                f"The name {each.name} in {group} is claimed twice, by {other.distribution}"
                f" and by {each.distribution}. Uninstall one of them."
            )
        by_name[each.name] = each
    return by_name


def find_all(group: str) -> list[Found]:
    """Return every entry point of a group, also those that claim the same name."""
    points = [
        Found(point.name, _name_distribution(point), point) for point in entry_points(group=group)
    ]
    return sorted(points, key=lambda each: (each.name, each.distribution))


def find_commands(own: Collection[str]) -> dict[str, Found]:
    """Return the installed commands by name; ``own`` are those that deid-hooks has itself.

    Raises PluginError if a name is claimed twice.
    """
    found = find_installed(COMMANDS)
    for name in found.keys() & own:
        raise PluginError(
            f"The command {name} is claimed twice, by deid-hooks itself and by"
            f" {found[name].distribution}. Uninstall that one."
        )
    return found


def load_plugins(
    disabled: Collection[str] = (), allowed: Collection[str] | None = None
) -> pluggy.PluginManager:
    """Verify every plugin that is installed and not disabled, and return a manager that has them.

    Raises PluginError for one that can't be imported, breaks the rules or is not ``allowed`` (None
    allows all), SettingsError for a disabled name that is not the name of a plugin.
    """
    manager = pluggy.PluginManager(PROJECT_NAME)
    manager.add_hookspecs(mark_specs(PROJECT_NAME))
    plugins = find_installed(GROUP)
    for name in disabled:
        if name not in plugins:
            raise SettingsError(
                f"disabled_plugins names {name}, which is not installed"
                f"{suggest_nearest(name, plugins)}."
            )
    for name, each in plugins.items():
        if name not in disabled:
            refuse_plugin(each, allowed)
            register(manager, each.load(), name, each.distribution)
    return manager


def refuse_plugin(plugin: Found, allowed: Collection[str] | None) -> None:
    """Raise PluginError if the settings allow other plugins only. None allows all."""
    if allowed is not None and plugin.name not in allowed:
        raise PluginError(
            f"The plugin {plugin} is installed, and allowed_plugins doesn't name it. Uninstall it,"
            " or have the administrator of this machine allow it."
        )


def register(
    manager: pluggy.PluginManager, plugin: object, name: str, distribution: str = ""
) -> None:
    """Register one plugin, or raise PluginError for what would never be called as it should."""
    title = f"The plugin {name} ({distribution})" if distribution else f"The plugin {name}"
    if inspect.isclass(plugin):
        try:
            plugin = plugin()
        except (Exception, SystemExit) as error:
            raise PluginError(
                f"{title} is a class that can't be made without arguments: {type(error).__name__}."
            ) from error
    problem = find_problem(manager, plugin)
    if problem:
        raise PluginError(f"{title} {problem}.")
    try:
        manager.register(plugin, name)
    except ValueError:
        raise PluginError(f"{title} is registered already.") from None


def find_problem(manager: pluggy.PluginManager, plugin: object) -> str:
    """Return what is wrong with a plugin, as the end of a sentence; empty if nothing is."""
    hooks = 0
    for name in dir(plugin):
        options = manager.parse_hookimpl_opts(plugin, name)
        if options is None:
            if name in HOOKS:
                return f"has a function {name} that is not marked with @hookimpl"
            continue
        hook = options.get("specname") or name
        function = getattr(plugin, name)
        if hook not in HOOKS:
            return f"has an unknown hook {hook}{suggest_nearest(hook, HOOKS)}"
        if options.get("wrapper") or options.get("hookwrapper"):
            return f"wraps {hook}: a wrapper could turn a refusal into an approval"
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            return f"has an async {hook}, which nobody would await: use def"
        if inspect.isgeneratorfunction(function):
            return f"has a generator as {hook}, which would never run: use return"
        if not _takes_event(function):
            return f"must take exactly one argument in {hook}, called event and without a default"
        hooks += 1
    return "" if hooks else f"has none of the hooks {', '.join(HOOKS)}"


def ask_each(
    manager: pluggy.PluginManager,
    hook: str,
    event: PostDeid | PreUpload | PostUpload,
    seconds: float,
) -> Iterator[Answer]:
    """Call the hook of one plugin after the other, and yield their answers.

    Each is called by itself, so that none hides another and each is named. Each gets an event of
    its own: what a plugin does to it changes nothing of what is logged.
    """
    for implementation in reversed(getattr(manager.hook, hook).get_hookimpls()):
        yield _ask_one(implementation, hook, replace(event), seconds)


def suggest_nearest(name: str, known: Iterable[str]) -> str:
    """Return `` (did you mean X?)`` for a misspelt name, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _ask_one(implementation: Any, hook: str, event: object, seconds: float) -> Answer:
    who = f"the plugin {implementation.plugin_name}"

    def call() -> Answer:
        # Caught in the plugin's thread: a Ctrl-C while we wait is the user's, not the plugin's.
        try:
            return Answer(who, implementation.function(event))
        except SystemExit:
            return Answer(who, failure=f"{who} called exit in {hook}")
        except BaseException as error:  # noqa: BLE001 - its text may hold values, its kind does not
            return Answer(who, failure=f"{who} raised {type(error).__name__} in {hook}")

    try:
        return call_within(Deadline(seconds), call)
    except NoAnswer:
        return Answer(who, failure=f"{who} did not answer {hook} within {seconds:g} s")
    except RuntimeError:
        return Answer(who, failure=f"{who} could not be asked {hook}: no thread could be started")


def _takes_event(function: Any) -> bool:
    parameters = list(inspect.signature(function).parameters.values())
    return (
        len(parameters) == 1
        and parameters[0].name == "event"
        and parameters[0].default is inspect.Parameter.empty
        and parameters[0].kind
        in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    )


def _name_distribution(point: EntryPoint) -> str:
    distribution = point.dist
    return f"{distribution.name} {distribution.version}" if distribution else "unknown"


def mark_specs(project_name: str) -> type[Hookspecs]:
    """Return the specs, marked for a plugin manager of this project name."""
    marker = pluggy.HookspecMarker(project_name)
    members = {name: marker(_copy_function(getattr(Hookspecs, name))) for name in HOOKS}
    return type("Hookspecs", (Hookspecs,), members)


def _copy_function(function: FunctionType) -> FunctionType:
    """Copy a function: a marker writes on it, so each project name needs one of its own."""
    return FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__
    )
