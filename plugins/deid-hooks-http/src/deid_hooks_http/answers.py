"""What the service answers, in the words of the log."""

from __future__ import annotations

import json
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from deid_hooks.errors import (
    AppendUnknown,
    Forgotten,
    IdConflict,
    LogError,
    LogUnavailable,
    NotAllowed,
)

_KINDS: dict[str, Callable[[str, str], LogError]] = {
    "LogUnavailable": LogUnavailable,
    "AppendUnknown": AppendUnknown,
    "NotAllowed": NotAllowed,
    "LogError": LogError,
}


class NotFound(LogError):
    """The service says that there is nothing of that name."""


class NotWhole(LogError):
    """What came as 200 OK is not a whole answer of a service of the log."""

    def __init__(self) -> None:
        super().__init__(
            "200 OK: the answer of the service of the log is not whole, or of something else",
            "check its address, and what stands between",
        )


def document_of(body: bytes) -> dict[str, Any]:
    """The JSON object that ``body`` is; NotWhole if it is none."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise NotWhole from None
    if not isinstance(document, dict):
        raise NotWhole
    return document


def is_ours(problem: dict[str, Any]) -> bool:
    """Whether it is the service of the log that says so, and nothing that stands between."""
    return isinstance(problem.get("kind"), str)


def error_of(status: int, problem: Any) -> LogError:
    """The error of an answer that is no success. It names the status.

    Only the service itself is quoted: others may repeat what was sent to them.
    """
    said = problem if isinstance(problem, dict) and is_ours(problem) else {}
    kind, log_id = said.get("kind"), str(said.get("log_id", ""))
    if kind == "IdConflict":
        return IdConflict(log_id)
    if kind == "Forgotten":
        return Forgotten(log_id)
    try:
        answered = f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        answered = str(status)
    cause = str(said.get("cause") or "what answered says no more, it may be no service of the log")
    if kind == "NotFound":
        return NotFound(cause)
    if kind == "NotAllowed":
        return NotAllowed(f"{answered}: {cause}", str(said.get("remedy", "")))
    make = _KINDS.get(str(kind), LogUnavailable)
    return make(f"{answered}: {cause}", str(said.get("remedy", "")))
