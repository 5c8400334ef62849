"""The facade that uploaders call: load once, check, log each acquisition, upload it."""

from __future__ import annotations

import logging
import os
from types import TracebackType
from typing import Any
from urllib.parse import unquote

import pluggy

from deid_hooks.acquisition import Acquisition
from deid_hooks.backend import LogBackend
from deid_hooks.entry import Entry, UploadEvent, now, parse_log_id
from deid_hooks.errors import (
    DeidHooksError,
    ForkedProcess,
    LogError,
    PluginError,
    SettingsError,
    UnableToLog,
    UploadRefused,
)
from deid_hooks.hookspecs import PostDeid, PostUpload, PreUpload
from deid_hooks.plugins import BACKENDS, ask_each, found, load_plugins, nearest, register
from deid_hooks.pseudonyms import Pseudonyms
from deid_hooks.recorder import Recorder
from deid_hooks.secret import SiteSecret, create_secret, read_secret
from deid_hooks.settings import Settings, load_settings, masked
from deid_hooks.uploading import Upload

log = logging.getLogger("deid_hooks")

NOT_LOGGED = "Logging is switched off (url none:): nothing that is removed can be found again"


class DeidHooks:
    """The hooks of one process, with the log behind them. Use it as a context manager.

    Safe from any thread, several acquisitions at once. It remembers its process: in a forked child
    it refuses, with that said.
    """

    def __init__(self, settings: Settings, uploader: str = "") -> None:
        self.settings = settings
        self.uploader = uploader
        self.manager: pluggy.PluginManager = load_plugins(settings.disabled_plugins)
        self._backend = _backend(settings.url)
        self._recorder: Recorder | None = None
        self._process = os.getpid()

    @classmethod
    def load(
        cls, uploader: str = "", *, settings: Settings | None = None, **arguments: Any
    ) -> DeidHooks:
        """Read the settings, load every plugin and find the backend.

        ``uploader`` is how the program stands in the log: ``"sender/1.2"``. Keyword arguments are
        settings (``url="sqlite:////srv/log.db"``). Raises SettingsError or PluginError. The log
        itself is opened by the first call that needs it.
        """
        return cls(settings or load_settings(**arguments), uploader)

    @property
    def recorder(self) -> Recorder:
        """The log behind the hooks, for programs that search it.

        Raises SettingsError if there is no site secret, LogUnavailable if a first log can't be
        made, ForkedProcess in a child of the process that loaded the hooks.
        """
        if os.getpid() != self._process:
            raise ForkedProcess
        if self._recorder is None:
            secret = read_secret(self.settings.secret_file)
            if secret is None:
                secret = self._first_secret()
            self._recorder = Recorder(self._backend, secret, self.settings.deadline)
        return self._recorder

    def init(self) -> None:
        """Make the site secret and the store where there are none. Touches nothing that exists.

        Raises SettingsError or LogUnavailable.
        """
        secret = create_secret(self.settings.secret_file)
        recorder = Recorder(self._backend, secret, self.settings.deadline)
        recorder.create()
        self._recorder = recorder

    def check(self) -> None:
        """Return if an upload could be logged now; LogUnavailable or SettingsError otherwise.

        Call it before a file is touched.
        """
        self.recorder.check()
        self._warn_if_off()

    def register(self, plugin: object, name: str) -> None:
        """Add a plugin of the uploader's own, verified like any other, or raise PluginError."""
        register(self.manager, plugin, name)

    def acquisition(self, project: str = "") -> Acquisition:
        """Open an acquisition; its ``log_id`` exists from here. A context manager."""
        return Acquisition(
            project,
            self.uploader,
            self.recorder.secret,
            self.settings.fields,
            "identifying" if self.settings.policy == "identifying" else "all",
            self.settings.mixed_patients == "refuse",
            self._log,
        )

    def uploading(self, log_id: str, destination: str) -> Upload:
        """Clear an acquisition to be sent, and take reports of what became of it.

        Takes only the id: in another process, another hour, more than once. Entering raises
        UploadRefused with every reason. ``destination`` is how it stands in the log; never put a
        password there.
        """
        plain = parse_log_id(log_id)
        if plain is None:
            raise UploadRefused([f"{log_id!r} is no de-id log id"])
        asked = PreUpload(plain, masked(destination), self.uploader)
        return Upload(plain, lambda: self._clear(asked), lambda *told: self._conclude(asked, *told))

    def outcome(self, log_id: str, destination: str) -> str | None:
        """What is known of this acquisition at this destination.

        ``uploaded``, ``partial``, ``failed``, ``pending``, or None if it was never cleared there.
        """
        return self.recorder.outcome(log_id, masked(destination))

    def pseudonyms(self, project: str) -> Pseudonyms:
        """What engines make stable pseudonyms and UIDs with; differs from project to project."""
        return Pseudonyms(project, self.recorder.secret.derive(f"pseudonyms {project}"))

    def close(self) -> None:
        """Let go of the log. Idempotent, never raises."""
        self._backend.close()

    def __enter__(self) -> DeidHooks:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # The three moments, also called by `install` on behalf of a host.

    def _log(self, event: PostDeid, reuse: bool) -> str:
        """post_deid: the entry is made durable, then every plugin hears of it."""
        try:
            standing = self.recorder.standing(event.entry) if reuse else None
            if standing is not None:
                return standing
            self.recorder.append([event.entry])
        except LogError as error:
            raise UnableToLog(error.cause, error.remedy) from None
        except DeidHooksError as error:
            raise UnableToLog(str(error)) from None
        for name in event.not_kept:
            log.warning("%s: %s changed and is too large to keep", event.log_id, name)
        failures = [
            answer.failure
            or f"the plugin {answer.plugin} answered post_deid, which takes no answer"
            for answer in ask_each(self.manager, "post_deid", event, self.settings.plugin_timeout)
            if answer.failure or answer.value is not None
        ]
        if failures:
            raise UnableToLog("; ".join(failures), "repair the plugin, or disable it on purpose")
        return event.log_id

    def _clear(self, asked: PreUpload) -> Entry | None:
        """pre_upload: resolved, every plugin agrees, and that it may leave is in the log."""
        entry = self._resolve(asked)
        self._refuse(self._reasons(asked))
        self._record_cleared(asked)
        return entry

    def _resolve(self, asked: PreUpload) -> Entry | None:
        self._warn_if_off()
        if not self._backend.records:
            return None
        try:
            return self.recorder.resolve(asked.log_id)
        except LogError as error:
            raise UploadRefused([_one_line(error)]) from None
        except DeidHooksError as error:
            raise UploadRefused([str(error).rstrip(".")]) from None

    def _reasons(self, asked: PreUpload) -> list[str]:
        answers = ask_each(self.manager, "pre_upload", asked, self.settings.plugin_timeout)
        return [reason for answer in answers if (reason := _reason(answer))]

    def _refuse(self, reasons: list[str]) -> None:
        if reasons:
            raise UploadRefused(reasons)

    def _record_cleared(self, asked: PreUpload) -> None:
        event = UploadEvent(asked.log_id, now(), "cleared", asked.destination, asked.uploader)
        try:
            self.recorder.append([event])
        except LogError as error:
            raise UploadRefused([_one_line(error)]) from None

    def _conclude(self, asked: PreUpload, outcome: str, missing: tuple[str, ...]) -> None:
        """post_upload: what happened has happened; nothing that goes wrong here is raised."""
        self._record_outcome(asked, outcome)
        event = PostUpload(asked.log_id, asked.destination, asked.uploader, outcome, missing)
        for answer in ask_each(self.manager, "post_upload", event, self.settings.plugin_timeout):
            if answer.failure:
                log.error("%s: %s", asked.log_id, answer.failure)

    def _record_outcome(self, asked: PreUpload, outcome: str) -> None:
        event = UploadEvent(asked.log_id, now(), outcome, asked.destination, asked.uploader)
        try:
            self.recorder.append([event])
        except DeidHooksError as error:
            log.error("%s: the outcome %s was not recorded: %s", asked.log_id, outcome, error)

    def _warn_if_off(self) -> None:
        if not self._backend.records:
            log.warning(NOT_LOGGED)

    def _first_secret(self) -> SiteSecret:
        """On a machine where nothing was ever set up, begin; elsewhere never begin in silence."""
        settings = self.settings
        untouched = all(settings.origins.get(key) == "default" for key in ("url", "secret_file"))
        if self._backend.records and not (untouched and not self._backend.exists()):
            raise SettingsError(
                f"There is no site secret at {settings.secret_file}, and the log needs the one it"
                " was begun with. Copy it from the machine that began the log, or begin a new log:"
                " deid-hooks init"
            )
        secret = create_secret(settings.secret_file)
        Recorder(self._backend, secret, settings.deadline).create()
        if self._backend.records:
            log.warning("A new log was begun at %s", unquote(masked(settings.url)))
        return secret


def _backend(url: str) -> LogBackend:
    scheme, colon, _ = url.partition(":")
    known = found(BACKENDS)
    if not colon or scheme not in known:
        raise SettingsError(
            f"No backend for {scheme!r} in the url of the log{nearest(scheme, known)}."
            f" Installed are {', '.join(known)}."
        )
    backend_class = known[scheme].load()
    if not (isinstance(backend_class, type) and issubclass(backend_class, LogBackend)):
        raise PluginError(f"The backend {known[scheme]} is not a subclass of LogBackend.")
    return backend_class(url)


def _reason(answer: Any) -> str:
    if answer.failure:
        return str(answer.failure)
    if answer.value is None:
        return ""
    if isinstance(answer.value, str) and answer.value.strip():
        return f"the plugin {answer.plugin} refused: {answer.value.strip().rstrip('.')}"
    return f"the plugin {answer.plugin} refused without a reason"


def _one_line(error: LogError) -> str:
    return f"{error.cause}. {error.remedy}".rstrip(". ") if error.remedy else error.cause
