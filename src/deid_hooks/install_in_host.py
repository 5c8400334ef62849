"""For uploaders with a pluggy manager of their own: ``install(pm)``."""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from typing import Any

import pluggy

from deid_hooks.errors import PluginError, UnableToLog, UploadRefused
from deid_hooks.hooks import DeidHooks, make_pre_upload
from deid_hooks.hookspecs import HOOKS, PostDeid, PostUpload, PreUpload
from deid_hooks.plugins import mark_specs
from deid_hooks.records.model import OUTCOMES

log = logging.getLogger("deid_hooks")

_NAME = "deid-hooks recorder"
_Wrapper = Generator[None, list[Any], list[Any]]


def install(pm: pluggy.PluginManager, uploader: str = "", **arguments: Any) -> DeidHooks:
    """Put the hooks and the recorder into a host's plugin manager, whatever its project name.

    From then on ``pm.hook.post_deid``, ``pre_upload`` and ``post_upload`` log, clear and conclude,
    each with ``event=``. A refusal *raises*, UnableToLog or UploadRefused, so that a host which
    ignores what hooks return still can't upload. Plugins of this package are asked as well as the
    host's. Returns the DeidHooks behind it, whose ``acquisition()`` makes the events; arguments are
    those of :meth:`DeidHooks.load`. Raises PluginError if the manager can't take them.
    """
    hooks = DeidHooks.load(uploader, **arguments)
    recorder = _marked_recorder(pm.project_name, hooks)
    _register(pm, recorder)

    def before(name: str, implementations: Sequence[Any], arguments: object) -> None:
        # Called outside all wrappers: what it raises, none of them can swallow.
        if name in ("post_deid", "pre_upload"):
            _refuse_what_could_hide_a_refusal(name, implementations, recorder)

    pm.add_hookcall_monitoring(before, lambda *_: None)
    return hooks


def _register(pm: pluggy.PluginManager, recorder: object) -> None:
    try:
        pm.add_hookspecs(mark_specs(pm.project_name))
        name = pm.register(recorder, _NAME)
    except ValueError:
        raise PluginError(
            f"The host's plugin manager has one of the hooks {', '.join(HOOKS)} already: installed"
            " twice, or of its own."
        ) from None
    except pluggy.PluginValidationError as error:
        raise PluginError(f"A plugin of the host has other arguments than event: {error}") from None
    if name is None:
        raise PluginError(f"The host's plugin manager blocks the plugin {_NAME}.")


def _marked_recorder(project_name: str, hooks: DeidHooks) -> object:
    first = pluggy.HookimplMarker(project_name)(wrapper=True, tryfirst=True)

    class Recorder:
        """Runs around the host's plugins: first, and last."""

        @first
        def post_deid(self, event: PostDeid) -> _Wrapper:
            if not isinstance(event, PostDeid):
                raise UnableToLog("post_deid was called without the event of an acquisition")
            hooks._log(event, reuse=False)
            try:
                answers = yield
            except Exception as error:  # noqa: BLE001 - its text may hold values
                raise UnableToLog(f"a plugin raised {type(error).__name__} in post_deid") from None
            if answers:
                raise UnableToLog("a plugin answered post_deid, which takes no answer")
            return answers

        @first
        def pre_upload(self, event: PreUpload) -> _Wrapper:
            if not isinstance(event, PreUpload):
                raise UploadRefused(["pre_upload was called without a PreUpload event"])
            asked = make_pre_upload(event.log_id, event.destination, event.uploader)
            hooks._resolve(asked)
            reasons = hooks._reasons(asked)
            answers: list[Any] = []
            try:
                answers = yield
            except Exception as error:  # noqa: BLE001 - its text may hold values
                reasons.append(f"a plugin raised {type(error).__name__} in pre_upload")
            hooks._refuse([*reasons, *map(_as_reason, answers)])
            hooks._record_cleared(asked)
            return answers

        @first
        def post_upload(self, event: PostUpload) -> _Wrapper:
            try:
                asked = make_pre_upload(event.log_id, event.destination, event.uploader)
                if event.outcome not in OUTCOMES:
                    raise ValueError
                hooks._conclude(asked, event.outcome, event.missing)
            except Exception as error:  # noqa: BLE001 - a wrong event; it is too late to refuse
                log.error("post_upload got no PostUpload event: %s", type(error).__name__)
            try:
                return (yield)
            except Exception as error:  # noqa: BLE001 - its text may hold values
                log.error("a plugin raised %s in post_upload", type(error).__name__)
                return []

    return Recorder()


def _as_reason(answer: object) -> str:
    return answer if isinstance(answer, str) and answer.strip() else "a plugin refused"


def _refuse_what_could_hide_a_refusal(
    name: str, implementations: Sequence[Any], recorder: object
) -> None:
    causes = [
        f"the plugin {each.plugin_name} wraps {name} and could hide a refusal"
        for each in implementations
        if (each.wrapper or each.hookwrapper) and each.plugin is not recorder
    ]
    if not any(each.plugin is recorder for each in implementations):
        causes.append(f"the plugin {_NAME} was taken out of {name}")
    if causes:
        raise UnableToLog("; ".join(causes)) if name == "post_deid" else UploadRefused(causes)
