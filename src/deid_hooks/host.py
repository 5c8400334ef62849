"""For uploaders with a pluggy manager of their own: ``install(pm)``."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import pluggy

from deid_hooks.errors import UnableToLog, UploadRefused
from deid_hooks.hooks import DeidHooks
from deid_hooks.hookspecs import HOOKS, PostDeid, PostUpload, PreUpload, marked_specs

_Wrapper = Generator[None, list[Any], list[Any]]


def install(pm: pluggy.PluginManager, uploader: str = "", **arguments: Any) -> DeidHooks:
    """Put the hooks and the recorder into a host's plugin manager, whatever its project name.

    From then on ``pm.hook.post_deid``, ``pre_upload`` and ``post_upload`` log, clear and conclude,
    each with ``event=``. A refusal *raises*, UnableToLog or UploadRefused, so that a host which
    ignores what hooks return still can't upload. Plugins of this package are asked as well as the
    host's. Returns the DeidHooks behind it, whose ``acquisition()`` makes the events; arguments are
    those of :meth:`DeidHooks.load`.
    """
    hooks = DeidHooks.load(uploader, **arguments)
    pm.add_hookspecs(marked_specs(pm.project_name))
    recorder = _marked_recorder(pm.project_name, hooks)
    pm.register(recorder, "deid-hooks recorder")

    def before(name: str, implementations: Sequence[Any], arguments: object) -> None:
        # Called outside all wrappers: what it raises, none of them can swallow.
        if name in HOOKS:
            _refuse_wrappers(name, implementations, recorder)

    pm.add_hookcall_monitoring(before, lambda *_: None)
    return hooks


def _marked_recorder(project_name: str, hooks: DeidHooks) -> object:
    first = pluggy.HookimplMarker(project_name)(wrapper=True, tryfirst=True)

    class Recorder:
        """Runs around the host's plugins: first, and last."""

        @first
        def post_deid(self, event: PostDeid) -> _Wrapper:
            if not isinstance(event, PostDeid):
                raise UnableToLog("post_deid was called without the event of an acquisition")
            hooks._log(event, reuse=False)
            return (yield)

        @first
        def pre_upload(self, event: PreUpload) -> _Wrapper:
            if not isinstance(event, PreUpload):
                raise UploadRefused(["pre_upload was called without a PreUpload event"])
            hooks._resolve(event)
            reasons = hooks._reasons(event)
            try:
                answers = yield
            except Exception as error:  # noqa: BLE001 - its text may hold values
                reasons.append(f"a plugin raised {type(error).__name__} in pre_upload")
                answers = []
            hooks._refuse([*reasons, *(_as_reason(a) for a in answers if a is not None)])
            hooks._record_cleared(event)
            return answers

        @first
        def post_upload(self, event: PostUpload) -> _Wrapper:
            asked = PreUpload(event.log_id, event.destination, event.uploader)
            hooks._conclude(asked, event.outcome, event.missing)
            return (yield)

    return Recorder()


def _as_reason(answer: object) -> str:
    return answer if isinstance(answer, str) and answer.strip() else "a plugin refused"


def _refuse_wrappers(name: str, implementations: Sequence[Any], recorder: object) -> None:
    for each in implementations:
        if (each.wrapper or each.hookwrapper) and each.plugin is not recorder:
            cause = f"the plugin {each.plugin_name} wraps {name} and could hide a refusal"
            raise UnableToLog(cause) if name == "post_deid" else UploadRefused([cause])
