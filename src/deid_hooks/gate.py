"""Log, clear and conclude an acquisition: the three rules of the product, once.

Each rule is a generator that stops once, where the plugins of a host with a pluggy manager of its
own are called: ``log_around``, ``clear_around`` and ``conclude_around`` are what `install` wraps
around them. ``log``, ``clear`` and ``conclude`` run the same rules for everybody else.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

import pluggy

from deid_hooks.backends.contract import Receipt
from deid_hooks.errors import DeidHooksError, ForkedProcess, LogError, UnableToLog, UploadRefused
from deid_hooks.log import Log, begin_log, make_backend, open_log
from deid_hooks.plugins import Answer, PostDeid, PostUpload, PreUpload, ask_each, load_plugins
from deid_hooks.records.model import OUTCOMES, Entry, UploadEvent, parse_log_id, read_clock
from deid_hooks.settings import Settings, mask_passwords

logger = logging.getLogger("deid_hooks")

T = TypeVar("T")
Rule = Generator[None, Sequence[object], T]
"""Where it stops, it is sent the answers of the host's plugins, or their exception is thrown in."""

BLOCKED = "uploads of this patient are blocked"
NOT_LOGGED = "Logging is switched off (url none:): nothing that is removed can be found again"
NO_OUTCOME = "post_upload was called without a PostUpload event: no outcome was recorded"


class Gate:
    """What every acquisition passes on its way out: the log and the plugins of one process.

    Safe from any thread. In a child forked from the process that made it, everything refuses.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        disabled, allowed = settings.disabled_plugins, settings.allowed_plugins
        self.plugins: pluggy.PluginManager = load_plugins(disabled, allowed)
        self._backend = make_backend(settings.url)
        self._log: Log | None = None
        self._process = os.getpid()
        self._lock = threading.Lock()

    # The three rules. A test removes each of their lines and shows that an upload goes wrong.

    def log_around(self, event: PostDeid) -> Rule[None]:
        """Make the entry durable, then call post_deid of every plugin. Raises UnableToLog."""
        answers: list[Answer] = []
        with _convert_to_unable_to_log():
            if not isinstance(event, PostDeid):
                raise UnableToLog("post_deid was called without the event of an acquisition")
            self._refuse_blocked(event.entry)
            if event.reused:
                self._require_equal(event.entry)
            else:
                self.open_log().append([event.entry])
        _warn_of_what_is_not_kept(event)
        answers += self._ask("post_deid", event)
        answers += yield from _ask_host("post_deid")
        _refuse_failures_and_answers(answers)

    def clear_around(self, event: PreUpload) -> Rule[Entry | Receipt | None]:
        """Resolve the entry, ask every plugin, record that it may leave. Raises UploadRefused.

        Returns what the log holds; None where logging is switched off.
        """
        answers: list[Answer] = []
        event = make_pre_upload(event)
        self._warn_if_off()
        with _convert_to_refusal():
            entry = self._resolve(event.log_id)
            self._refuse_blocked(entry)
        answers += self._ask("pre_upload", event)
        answers += yield from _ask_host("pre_upload")
        _refuse_with_every_reason(answers)
        with _convert_to_refusal():
            self._record(event, "cleared")
        return entry

    def conclude_around(self, event: PostUpload) -> Rule[None]:
        """Record the outcome and call post_upload of every plugin. Raises nothing.

        What was sent was sent: whatever fails is reported to the program's logger.
        """
        answers: list[Answer] = []
        if _is_post_upload(event):
            event = _write_plainly(event)
            self._record_outcome(event)
            answers += self._ask("post_upload", event)
        else:
            logger.error(NO_OUTCOME)
        answers += yield from _ask_host("post_upload")
        _report_failures(event, answers)

    def log(self, event: PostDeid) -> None:
        """Run :meth:`log_around` for an uploader that has no pluggy manager of its own."""
        _run(self.log_around(event))

    def clear(self, event: PreUpload) -> Entry | Receipt | None:
        """Run :meth:`clear_around` for an uploader that has no pluggy manager of its own."""
        return _run(self.clear_around(event))

    def conclude(self, event: PostUpload) -> None:
        """Run :meth:`conclude_around` for an uploader that has no pluggy manager of its own."""
        _run(self.conclude_around(event))

    def reuse(self, event: PostDeid) -> PostDeid:
        """Return the event of an equal entry that the log holds already, else ``event``.

        That it is equal is found out when it is logged. Raises UnableToLog.
        """
        with _convert_to_unable_to_log():
            found = self.open_log().find_equal(event.entry)
        return replace(event, log_id=found.log_id, entry=found, reused=True) if found else event

    def open_log(self) -> Log:
        """Open the log at the first call, and return it.

        On a machine where nothing was ever set up this makes a log and a site secret. Raises
        SettingsError if there is no secret, LogUnavailable if a first log can't be made,
        ForkedProcess in a child of the process that made the gate.
        """
        self._refuse_forked()
        with self._lock:
            if self._log is None:
                self._log = open_log(self._backend, self.settings)
            return self._log

    def begin_log(self) -> None:
        """Make the site secret and the store where there are none. Changes nothing that exists.

        Raises SettingsError or LogUnavailable.
        """
        self._refuse_forked()
        with self._lock:
            self._log = begin_log(self._backend, self.settings)

    def check(self) -> None:
        """Return if an upload could be logged now; raise LogUnavailable or SettingsError if not."""
        self.open_log().check()
        self._warn_if_off()

    def close(self) -> None:
        """Close the log. Idempotent, never raises. A forked child leaves it to its parent."""
        if os.getpid() != self._process:
            return
        try:
            self._backend.close()
        except Exception as error:  # noqa: BLE001 - its text may hold values
            logger.error("The log could not be closed: %s", type(error).__name__)

    def _refuse_blocked(self, entry: Entry | Receipt | None) -> None:
        if entry and self.open_log().is_blocked(entry):
            raise DeidHooksError(BLOCKED)

    def _require_equal(self, entry: Entry) -> None:
        log = self.open_log()
        found = log.resolve(entry.log_id)
        if log.remote is not None:
            self._refuse_blocked(found)  # which the service says of what it holds alone
        elif found.digest != entry.digest:
            raise UnableToLog(
                f"the log named {entry.log_id} as an equal entry, and that is another entry",
                "check the store of the log, and what is between it and this machine",
            )

    def _resolve(self, log_id: str) -> Entry | Receipt | None:
        log = self.open_log()
        return log.resolve(log_id) if self._backend.records else None

    def _record(self, event: PreUpload | PostUpload, what: str) -> None:
        self.open_log().append(
            [UploadEvent(event.log_id, read_clock(), what, event.destination, event.uploader)]
        )

    def _record_outcome(self, event: PostUpload) -> None:
        try:
            self._record(event, event.outcome)
        except DeidHooksError as error:
            logger.error(
                "%s: the outcome %s was not recorded: %s", event.log_id, event.outcome, error
            )

    def _ask(self, hook: str, event: PostDeid | PreUpload | PostUpload) -> list[Answer]:
        if os.getpid() != self._process:  # the parent calls its plugins when it concludes
            return []
        return list(ask_each(self.plugins, hook, event, self.settings.plugin_timeout))

    def _warn_if_off(self) -> None:
        if not self._backend.records:
            logger.warning(NOT_LOGGED)

    def _refuse_forked(self) -> None:
        if os.getpid() != self._process:
            raise ForkedProcess


def make_pre_upload(event: PreUpload) -> PreUpload:
    """Return the event as the log holds it: the id in one spelling, the password masked.

    Raises UploadRefused for what is not an event or names no log id.
    """
    if not isinstance(event, PreUpload):
        raise UploadRefused(["pre_upload was called without a PreUpload event"])
    if parse_log_id(str(event.log_id)) is None:
        raise UploadRefused(["it was asked for by something that is not a de-id log id"])
    return _write_plainly(event)


def _run(rule: Rule[T]) -> T:
    """Run a rule to its end, without plugins of a host."""
    try:
        next(rule)
        rule.send(())
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    raise AssertionError("a rule stops once")


def _ask_host(hook: str) -> Rule[list[Answer]]:
    """Stop for the plugins of the host, and return their answers in the form of our plugins'."""
    who = "a plugin of the host"
    try:
        answers = yield
    except Exception as error:  # noqa: BLE001 - its text may hold values
        return [Answer(who, failure=f"{who} raised {type(error).__name__} in {hook}")]
    return [Answer(who, value) for value in answers]


def _is_post_upload(event: object) -> bool:
    return (
        isinstance(event, PostUpload)
        and event.outcome in OUTCOMES
        and parse_log_id(str(event.log_id)) is not None
    )


E = TypeVar("E", PreUpload, PostUpload)


def _write_plainly(event: E) -> E:
    log_id = parse_log_id(str(event.log_id)) or ""
    return replace(event, log_id=log_id, destination=mask_passwords(str(event.destination)))


def _warn_of_what_is_not_kept(event: PostDeid) -> None:
    for name in event.not_kept:
        logger.warning("%s: %s changed and its original is not in the log", event.log_id, name)


def _refuse_failures_and_answers(answers: Sequence[Answer]) -> None:
    failures = [
        answer.failure or f"{answer.who} answered post_deid, which takes no answer"
        for answer in answers
        if answer.failure or answer.value is not None
    ]
    if failures:
        raise UnableToLog("; ".join(failures), "repair the plugin, or disable it on purpose")


def _refuse_with_every_reason(answers: Sequence[Answer]) -> None:
    reasons = [reason for answer in answers if (reason := _find_reason(answer))]
    if reasons:
        raise UploadRefused(reasons)


def _find_reason(answer: Answer) -> str:
    if answer.failure:
        return answer.failure
    if answer.value is None:
        return ""
    if isinstance(answer.value, str) and (reason := answer.value.strip().rstrip(".")):
        return f"{answer.who} refused: {reason}"
    return f"{answer.who} refused without a reason"


def _report_failures(event: PostUpload, answers: Sequence[Answer]) -> None:
    log_id = parse_log_id(str(getattr(event, "log_id", "")))  # anything else may be a patient's id
    for answer in answers:
        if answer.failure:
            logger.error("%s: %s", log_id or "an upload", answer.failure)


@contextmanager
def _convert_to_unable_to_log() -> Iterator[None]:
    try:
        yield
    except UnableToLog:
        raise
    except LogError as error:
        raise UnableToLog(error.cause, error.remedy) from None
    except DeidHooksError as error:
        raise UnableToLog(str(error)) from None


@contextmanager
def _convert_to_refusal() -> Iterator[None]:
    try:
        yield
    except DeidHooksError as error:
        raise UploadRefused([str(error).rstrip(".")]) from None
