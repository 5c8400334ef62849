"""Reading what was sent: bounded in size and time, strictly of its form, never quoted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import anyio
import anyio.to_thread
from starlette.requests import ClientDisconnect, Request

from deid_hooks.deadline import Deadline
from deid_hooks.records.json_codec import decode_text
from deid_hooks_service.problems import Problem, wrong

MOST_BYTES = 64 * 1024 * 1024
_SMALL = 64 * 1024
"""Up to here reading JSON holds up nobody else."""


async def json_of(request: Request, deadline: Deadline) -> Any:
    """The JSON that was sent. Raises Problem 400, 408, 413 or 415."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Problem(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "the body must be JSON (Content-Type: application/json)",
        )
    body = await _body(request, deadline)
    if len(body) <= _SMALL:
        return _parsed(body)
    return await anyio.to_thread.run_sync(_parsed, body)


def members(
    document: Any, required: Sequence[str], optional: Sequence[str] = ()
) -> Mapping[str, Any]:
    """A JSON object of exactly these members; Problem 422 for anything else."""
    if not isinstance(document, dict):
        raise wrong("the body must be a JSON object")
    for name in required:
        if name not in document:
            raise wrong(f"the body has no member {name}")
    if len(document.keys() - {*required, *optional}):
        known = ", ".join((*required, *optional))
        raise wrong(f"the body has members other than {known}")
    return document


def text(document: Mapping[str, Any], name: str, most: int = 10_000) -> str:
    """A member that is a text; ``""`` if it isn't there."""
    value = document.get(name, "")
    try:
        found = decode_text(value)
    except (TypeError, ValueError):
        raise wrong(f"{name} must be a text") from None
    if len(found) > most:
        raise wrong(f"{name} is longer than {most} characters")
    return found


def texts(document: Mapping[str, Any], name: str, most: int) -> list[str]:
    """A member that is a list of texts."""
    values = document.get(name)
    if not isinstance(values, list) or len(values) > most:
        raise wrong(f"{name} must be a list of at most {most} texts")
    try:
        return [decode_text(value) for value in values]
    except (TypeError, ValueError):
        raise wrong(f"{name} must be a list of at most {most} texts") from None


async def _body(request: Request, deadline: Deadline) -> bytes:
    announced = request.headers.get("content-length", "0")
    if announced.isascii() and announced.isdigit() and int(announced) > MOST_BYTES:
        raise _too_large()
    parts: list[bytes] = []
    size = 0
    try:
        with anyio.fail_after(deadline.left()):
            async for part in request.stream():
                size += len(part)
                if size > MOST_BYTES:
                    raise _too_large()
                parts.append(part)
    except TimeoutError:
        raise Problem(
            HTTPStatus.REQUEST_TIMEOUT, "the body did not arrive in time", kind="LogUnavailable"
        ) from None
    except ClientDisconnect:
        raise Problem(HTTPStatus.BAD_REQUEST, "the sender went away") from None
    return b"".join(parts)


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise Problem(HTTPStatus.BAD_REQUEST, "the body is not JSON") from None


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def _too_large() -> Problem:
    return Problem(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"the body has more than {MOST_BYTES // 1024 // 1024} MiB",
        "send fewer records at once",
    )
