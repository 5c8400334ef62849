"""For uploaders with a pluggy manager of their own: ``install(pm)``."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import pluggy

from deid_hooks.errors import PluginError, UnableToLog, UploadRefused
from deid_hooks.gate import Gate
from deid_hooks.hooks import DeidHooks
from deid_hooks.plugins import HOOKS, PostDeid, PostUpload, PreUpload, mark_specs

_NAME = "deid-hooks gate"
_Wrapper = Generator[None, list[Any], list[Any]]


def install(pm: pluggy.PluginManager, uploader: str = "", **arguments: Any) -> DeidHooks:
    """Put the hooks and the gate into a host's plugin manager, whatever its project name.

    From then on ``pm.hook.post_deid``, ``pre_upload`` and ``post_upload`` log, clear and conclude,
    each with ``event=``. A refusal *raises*, UnableToLog or UploadRefused, so that a host which
    ignores what hooks return still can't upload. Plugins of this package are asked as well as the
    host's.

    Returns the DeidHooks behind it, whose ``acquisition()`` makes the events; arguments are those
    of :meth:`DeidHooks.load`. An event may be logged any number of times, also after a failure: it
    leaves one entry. With ``acquisition.event(reuse=True)`` it is that of an equal entry where the
    log holds one, so that a second run leaves no second entry: ``event.log_id`` is its id.

    Raises PluginError if the manager can't take them.
    """
    hooks = DeidHooks.load(uploader, **arguments)
    wrappers = _mark_wrappers(pm.project_name, hooks.gate)
    _register(pm, wrappers)

    def before(name: str, implementations: Sequence[Any], arguments: object) -> None:
        # Called outside all wrappers: what it raises, none of them can swallow.
        if name in ("post_deid", "pre_upload"):
            _refuse_what_could_hide_a_refusal(name, implementations, wrappers)

    pm.add_hookcall_monitoring(before, lambda *_: None)
    return hooks


def _register(pm: pluggy.PluginManager, wrappers: object) -> None:
    try:
        pm.add_hookspecs(mark_specs(pm.project_name))
        name = pm.register(wrappers, _NAME)
    except ValueError:
        raise PluginError(
            f"The host's plugin manager has one of the hooks {', '.join(HOOKS)} already: installed"
            " twice, or of its own."
        ) from None
    except pluggy.PluginValidationError as error:
        raise PluginError(f"A plugin of the host has other arguments than event: {error}") from None
    if name is None:
        raise PluginError(f"The host's plugin manager blocks the plugin {_NAME}.")


def _mark_wrappers(project_name: str, gate: Gate) -> object:
    """Return a plugin that has the gate's rules around the host's plugins."""
    first = pluggy.HookimplMarker(project_name)(wrapper=True, tryfirst=True)

    class Wrappers:
        @first
        def post_deid(self, event: PostDeid) -> _Wrapper:
            yield from gate.log_around(event)
            return []

        @first
        def pre_upload(self, event: PreUpload) -> _Wrapper:
            yield from gate.clear_around(event)
            return []

        @first
        def post_upload(self, event: PostUpload) -> _Wrapper:
            yield from gate.conclude_around(event)
            return []

    return Wrappers()


def _refuse_what_could_hide_a_refusal(
    name: str, implementations: Sequence[Any], wrappers: object
) -> None:
    causes = [
        f"the plugin {each.plugin_name} wraps {name} and could hide a refusal"
        for each in implementations
        if (each.wrapper or each.hookwrapper) and each.plugin is not wrappers
    ]
    if not any(each.plugin is wrappers for each in implementations):
        causes.append(f"the plugin {_NAME} was taken out of {name}")
    if causes:
        raise UnableToLog("; ".join(causes)) if name == "post_deid" else UploadRefused(causes)
