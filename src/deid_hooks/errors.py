"""The errors, each with its cause and remedy for the person who reads it.

    DeidHooksError
    ├── SettingsError            a setting, a URL or the site secret is wrong or missing
    ├── PluginError              a plugin can't be loaded or breaks the rules of the hooks
    ├── UnusableDataset          a file that can't be logged, and so can't leave
    ├── TermError                a search term that can't be understood
    ├── UnableToLog              post_deid failed: nothing of this acquisition may leave
    ├── UploadRefused            pre_upload failed: this acquisition was not uploaded
    └── LogError                 what a backend may raise, and nothing else
        ├── LogUnavailable       nothing was read or written
        │   └── ForkedProcess    the log was opened before this process was forked
        ├── AppendUnknown        all of it was written or none, now or later
        ├── IdConflict           the id is known with other content
        ├── Forgotten            the id was erased and must not come back
        └── NotAllowed           the log is there, and its keeper does not let this user do it

No message ever holds an identifying value: it names the keyword, the file or the log id.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

UNABLE_TO_LOG = "Unable to log de-identified data"
UNABLE_TO_RESOLVE = "Unable to resolve de-identification ID. Acquisition was not uploaded"


class DeidHooksError(Exception):
    """The base of everything this package raises on purpose."""


class SettingsError(DeidHooksError):
    """A setting, a URL or the site secret is wrong or missing."""


class PluginError(DeidHooksError):
    """A plugin can't be loaded, or breaks the rules of the hooks. Names it."""


class UnusableDataset(DeidHooksError):
    """A dataset that can't be logged: a DICOMDIR, no SOP Instance UID, unreadable values."""


class TermError(DeidHooksError):
    """A search term that can't be understood. Names the keyword, not the value."""


class UnableToLog(DeidHooksError):
    """``post_deid`` failed: the entry isn't durable, so nothing of the acquisition may leave.

    ``cause`` and ``remedy`` are sentences without a full stop and without identifying values.
    """

    def __init__(self, cause: str, remedy: str = "") -> None:
        self.cause, self.remedy = cause, remedy
        super().__init__(_sentence(f"{UNABLE_TO_LOG}: {cause}", remedy))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.cause, self.remedy)


class UploadRefused(DeidHooksError):
    """``pre_upload`` failed: the acquisition was not uploaded. ``reasons`` holds every reason."""

    def __init__(self, reasons: Iterable[str]) -> None:
        self.reasons = tuple(reasons)
        super().__init__(_sentence(f"{UNABLE_TO_RESOLVE}: {'; '.join(self.reasons)}"))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.reasons,)


class LogError(DeidHooksError):
    """The base of what a backend may raise. ``remedy`` says what to do, or is empty."""

    def __init__(self, cause: str, remedy: str = "") -> None:
        self.cause, self.remedy = cause, remedy
        super().__init__(_sentence(cause, remedy))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.cause, self.remedy)


class LogUnavailable(LogError):
    """The log can't be reached, or isn't ours, or can't be written; nothing was written."""


class ForkedProcess(LogUnavailable):
    """The log was opened before this process was forked; what it wrote here would be lost."""

    def __init__(self) -> None:
        super().__init__(
            "the log was opened before this process was forked",
            "load DeidHooks in the process that uses it",
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()


class AppendUnknown(LogError):
    """All of an append was written or none of it, now or later. Repeat it with the same ids."""


class IdConflict(LogError):
    """The log knows this id with other content."""

    def __init__(self, log_id: str) -> None:
        self.log_id = log_id
        super().__init__(f"the log already holds another entry under {log_id}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.log_id,)


class Forgotten(LogError):
    """The entry was erased; neither an import nor a copy brings it back."""

    def __init__(self, log_id: str) -> None:
        self.log_id = log_id
        super().__init__(f"{log_id} was forgotten and can't be logged again")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.log_id,)


class NotAllowed(LogError):
    """The log is there, and whoever keeps it does not let this user do what was asked."""


def _sentence(cause: str, remedy: str = "") -> str:
    text = cause.rstrip(".") + "."
    return f"{text} {remedy[0].upper()}{remedy[1:].rstrip('.')}." if remedy else text
