"""Exit codes, and what is said of an error.

0 done · 1 nothing found, or failed · 2 wrong use · 3 some acquisitions refused, partial or failed,
the rest done · 69 the log can't be reached, nothing further was sent.
"""

from __future__ import annotations

import os
import traceback
from pathlib import Path

from deid_hooks.errors import (
    DeidHooksError,
    LogError,
    NotAllowed,
    SettingsError,
    TermError,
    UnableToLog,
)

NOTHING_FOUND = 1
FAILED = 1
WRONG_USE = 2
SOME_REFUSED = 3
LOG_UNAVAILABLE = 69


def exit_code_of(error: Exception) -> int:
    if isinstance(error, SettingsError | TermError):
        return WRONG_USE
    if isinstance(error, NotAllowed):
        return FAILED
    if isinstance(error, LogError | UnableToLog):
        return LOG_UNAVAILABLE
    return FAILED


def said_of(error: Exception) -> str:
    """The message of an error of ours; of any other only its kind and place, never its text."""
    if isinstance(error, DeidHooksError):
        text = str(error)
        return text[:1].upper() + text[1:]
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    kind = type(error).__name__
    if isinstance(error, OSError) and error.errno:
        kind += f" ({os.strerror(error.errno).lower()})"
    return (
        f"Internal error: {kind}{place}. Its text is not shown, it may identify a patient."
        " Please report it with what you did."
    )
