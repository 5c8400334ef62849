"""What went wrong, as it is answered: a status, a sentence, and the kind of error it was.

Nothing that a request held is ever quoted.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from deid_hooks.errors import (
    AppendUnknown,
    DeidHooksError,
    Forgotten,
    IdConflict,
    LogError,
    LogUnavailable,
    NotAllowed,
    TermError,
    TrailMoved,
)

_STATUS: dict[type[DeidHooksError], HTTPStatus] = {
    LogUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    AppendUnknown: HTTPStatus.SERVICE_UNAVAILABLE,
    IdConflict: HTTPStatus.CONFLICT,
    TrailMoved: HTTPStatus.CONFLICT,
    Forgotten: HTTPStatus.CONFLICT,
    NotAllowed: HTTPStatus.FORBIDDEN,
    LogError: HTTPStatus.INTERNAL_SERVER_ERROR,
    TermError: HTTPStatus.UNPROCESSABLE_ENTITY,
}


class Problem(Exception):
    """An answer that is no success. ``cause`` and ``remedy`` are without a value of the request.

    ``kind`` is the name of the error that a client raises for it; ``after`` is the number of
    seconds after which it is worth trying again.
    """

    def __init__(
        self,
        status: HTTPStatus,
        cause: str,
        remedy: str = "",
        *,
        kind: str = "Refused",
        log_id: str = "",
        after: int = 0,
    ) -> None:
        super().__init__(cause)
        self.status, self.cause, self.remedy = status, cause, remedy
        self.kind, self.log_id, self.after = kind, log_id, after

    def document(self, prefix: str = "") -> dict[str, Any]:
        """The body of the answer. ``prefix`` are the words that users know."""
        cause = f"{self.status} {self.status.phrase}: {self.cause}"
        message = str(LogError(f"{prefix}: {cause}" if prefix else cause, self.remedy))
        document = {
            "message": message,
            "kind": self.kind,
            "cause": self.cause,
            "remedy": self.remedy,
        }
        return {**document, "log_id": self.log_id} if self.log_id else document

    @property
    def headers(self) -> dict[str, str]:
        headers = {"Retry-After": str(self.after)} if self.after else {}
        if self.status == HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = "Bearer"
        return headers


def problem_of(error: BaseException) -> Problem:
    """The answer for an error of ours; for any other one only its kind is told."""
    if isinstance(error, Problem):
        return error
    for kind in type(error).__mro__:
        if kind in _STATUS and isinstance(error, DeidHooksError):
            return Problem(
                _STATUS[kind],
                getattr(error, "cause", str(error)),
                getattr(error, "remedy", ""),
                kind=kind.__name__,
                log_id=getattr(error, "log_id", ""),
            )
    return Problem(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        f"the service failed with {type(error).__name__}",
        "tell the administrator of the log, who finds the place in the service's own log",
        kind="LogError",
    )


def wrong(cause: str) -> Problem:
    """The request itself can't be used."""
    return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, cause)


def not_found(cause: str) -> Problem:
    """There is nothing of that name, or nothing that this sender may know of."""
    return Problem(HTTPStatus.NOT_FOUND, cause, kind="NotFound")


def busy(cause: str, after: int = 1) -> Problem:
    """Nothing was written; trying again will help."""
    return Problem(HTTPStatus.SERVICE_UNAVAILABLE, cause, kind="LogUnavailable", after=after)
