"""The facade that uploaders call: load once, check, log each acquisition, upload it."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pluggy

from deid_hooks.acquisition import Upload
from deid_hooks.backends.contract import Receipt
from deid_hooks.errors import (
    DeidHooksError,
    ForkedProcess,
    LogError,
    UnableToLog,
    UploadRefused,
)
from deid_hooks.hookspecs import PostDeid, PostUpload, PreUpload
from deid_hooks.log import Log, begin_log, make_backend, open_log
from deid_hooks.plugins import ask_each, load_plugins, register
from deid_hooks.records.keys import compute_patient_digest
from deid_hooks.records.model import Entry, UploadEvent, parse_log_id, read_clock
from deid_hooks.records.pseudonyms import Pseudonyms, reveals
from deid_hooks.settings import Settings, load_settings, mask_passwords

if TYPE_CHECKING:
    from deid_hooks.acquisition import Acquisition

log = logging.getLogger("deid_hooks")

BLOCKED = "uploads of this patient are blocked"

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
        self._backend = make_backend(settings.url)
        self._recorder: Log | None = None
        self._process = os.getpid()
        self._lock = threading.Lock()

    @classmethod
    def load(
        cls, uploader: str = "", *, settings: Settings | None = None, **arguments: Any
    ) -> DeidHooks:
        """Read the settings, load every plugin and find the backend.

        ``uploader`` is how the program stands in the log: ``"sender/1.2"``. Keyword arguments are
        settings (``url="sqlite:////srv/log.db"``), unless ``settings`` holds them all. Raises
        SettingsError or PluginError. The log itself is opened by the first call that needs it.
        """
        if settings is not None and arguments:
            raise TypeError("load takes settings or single settings as arguments, not both")
        return cls(settings or load_settings(**arguments), uploader)

    @property
    def recorder(self) -> Log:
        """The log behind the hooks, for programs that search it.

        Raises SettingsError if there is no site secret, LogUnavailable if a first log can't be
        made, ForkedProcess in a child of the process that loaded the hooks.
        """
        self._refuse_forked()
        with self._lock:
            if self._recorder is None:
                self._recorder = open_log(self._backend, self.settings)
            return self._recorder

    def init(self) -> None:
        """Make the site secret and the store where there are none. Touches nothing that exists.

        Raises SettingsError or LogUnavailable.
        """
        self._refuse_forked()
        with self._lock:
            self._recorder = begin_log(self._backend, self.settings)

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
        from deid_hooks.acquisition import Acquisition  # and with it pydicom

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
        asked = make_pre_upload(log_id, destination, self.uploader)
        return Upload(
            asked.log_id, lambda: self._clear(asked), lambda *told: self._conclude(asked, *told)
        )

    def outcome(self, log_id: str, destination: str) -> str | None:
        """What is known of this acquisition at this destination.

        ``uploaded``, ``partial``, ``failed``, ``pending``, ``withdrawn`` (deleted there: not to be
        sent again unasked), or None if it was never cleared there.
        """
        return self.recorder.outcome(parse_log_id(log_id) or "", mask_passwords(destination))

    def subject(self, project: str, patient_id: str, issuer: str = "") -> str | None:
        """The label that a patient has in this project already, on any machine of this log.

        Raises LogUnavailable. None if the log knows of none, or of one that gives the PatientID
        away, as after an engine that kept it: nobody is to be sent under that again.
        """
        digest = compute_patient_digest(patient_id, issuer, self.recorder.secret)
        label = self.recorder.subject(project, digest)
        return None if label is None or reveals(label, patient_id.strip("\0 ")) else label

    def pseudonyms(
        self, project: str, labels: Mapping[tuple[str, str], str] | None = None
    ) -> Pseudonyms:
        """What engines make stable pseudonyms and UIDs with; differs from project to project.

        ``labels`` maps (PatientID, IssuerOfPatientID) to labels that stand already.
        """
        key = self.recorder.secret.derive(f"pseudonyms {project}")
        return Pseudonyms(project, key, labels or {})

    def close(self) -> None:
        """Let go of the log. Idempotent, never raises. In a forked child it is the parent's."""
        if os.getpid() != self._process:
            return
        try:
            self._backend.close()
        except Exception as error:  # noqa: BLE001 - its text may hold values
            log.error("The log could not be closed: %s", type(error).__name__)

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
            if self.recorder.blocked(event.entry.patients, event.project):
                raise UnableToLog(BLOCKED)
            standing = self.recorder.standing(event.entry) if reuse else None
            if standing is None:
                self.recorder.append([event.entry])
            elif self.recorder.resolve(standing).digest != event.entry.digest:
                raise UnableToLog(
                    f"the log says that this stands in it as {standing}, and that is another entry",
                    "look at the store of the log, and at what stands between",
                )
            else:  # the plugins are told again: it may be that one stopped the first attempt
                entry = replace(event.entry, log_id=standing)
                event = replace(event, log_id=standing, entry=entry)
        except LogError as error:
            raise UnableToLog(error.cause, error.remedy) from None
        except UnableToLog:
            raise
        except DeidHooksError as error:
            raise UnableToLog(str(error)) from None
        for name in event.not_kept:
            log.warning("%s: %s changed and its original is not in the log", event.log_id, name)
        failures = [
            answer.failure
            or f"the plugin {answer.plugin} answered post_deid, which takes no answer"
            for answer in ask_each(self.manager, "post_deid", event, self.settings.plugin_timeout)
            if answer.failure or answer.value is not None
        ]
        if failures:
            raise UnableToLog("; ".join(failures), "repair the plugin, or disable it on purpose")
        return event.log_id

    def _clear(self, asked: PreUpload) -> Entry | Receipt | None:
        """pre_upload: resolved, every plugin agrees, and that it may leave is in the log."""
        entry = self._resolve(asked)
        self._refuse(self._reasons(asked))
        self._record_cleared(asked)
        return entry

    def _resolve(self, asked: PreUpload) -> Entry | Receipt | None:
        self._warn_if_off()
        if not self._backend.records:
            return None
        try:
            entry = self.recorder.resolve(asked.log_id)
            blocked = self.recorder.blocked(entry.patients, entry.project)
        except DeidHooksError as error:
            raise UploadRefused([str(error).rstrip(".")]) from None
        if blocked:
            raise UploadRefused([BLOCKED])
        return entry

    def _reasons(self, asked: PreUpload) -> list[str]:
        answers = ask_each(self.manager, "pre_upload", asked, self.settings.plugin_timeout)
        return [reason for answer in answers if (reason := _reason(answer))]

    def _refuse(self, reasons: list[str]) -> None:
        if reasons:
            raise UploadRefused(reasons)

    def _record_cleared(self, asked: PreUpload) -> None:
        event = UploadEvent(
            asked.log_id, read_clock(), "cleared", asked.destination, asked.uploader
        )
        try:
            self.recorder.append([event])
        except DeidHooksError as error:
            raise UploadRefused([str(error).rstrip(".")]) from None

    def _conclude(self, asked: PreUpload, outcome: str, missing: tuple[str, ...]) -> None:
        """post_upload: what happened has happened; nothing that goes wrong here is raised."""
        self._record_outcome(asked, outcome)
        if os.getpid() != self._process:
            return
        event = PostUpload(asked.log_id, asked.destination, asked.uploader, outcome, missing)
        for answer in ask_each(self.manager, "post_upload", event, self.settings.plugin_timeout):
            if answer.failure:
                log.error("%s: %s", asked.log_id, answer.failure)

    def _record_outcome(self, asked: PreUpload, outcome: str) -> None:
        event = UploadEvent(asked.log_id, read_clock(), outcome, asked.destination, asked.uploader)
        try:
            self.recorder.append([event])
        except DeidHooksError as error:
            log.error("%s: the outcome %s was not recorded: %s", asked.log_id, outcome, error)

    def _warn_if_off(self) -> None:
        if not self._backend.records:
            log.warning(NOT_LOGGED)

    def _refuse_forked(self) -> None:
        if os.getpid() != self._process:
            raise ForkedProcess


def make_pre_upload(log_id: str, destination: str, uploader: str) -> PreUpload:
    """The event as it stands in the log: the id in one spelling, the password masked."""
    plain = parse_log_id(str(log_id))
    if plain is None:
        raise UploadRefused(["it was asked for by something that is no de-id log id"])
    return PreUpload(plain, mask_passwords(str(destination)), uploader)


def _reason(answer: Any) -> str:
    if answer.failure:
        return str(answer.failure)
    if answer.value is None:
        return ""
    if isinstance(answer.value, str) and answer.value.strip():
        return f"the plugin {answer.plugin} refused: {answer.value.strip().rstrip('.')}"
    return f"the plugin {answer.plugin} refused without a reason"
