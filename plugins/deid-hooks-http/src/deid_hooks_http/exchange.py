"""Requests to the service and their answers: bounded in time, repeated where that is safe.

A request may always be repeated, because what it writes has ids. What is not known after a reply
was lost is said to be unknown.
"""

from __future__ import annotations

import json
import os
import random
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import httpx

from deid_hooks.deadline import Deadline, NoAnswer, Worker, call_within
from deid_hooks.errors import AppendUnknown, ForkedProcess, LogError, LogUnavailable
from deid_hooks_http.answers import NotWhole, document_of, error_of, is_ours
from deid_hooks_http.token import token

_PAUSES = (0.05, 0.2, 0.8)
_MOST_CONNECTIONS = 32
_WORTH_A_RETRY = (502, 503, 504)
_SECONDS_TO_CLOSE = 1.0

_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


class _Sending:
    """Whether a request is out: told at the one moment at which its sender goes on or gives up."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._abandoned = False
        self.unknown = False
        """Whether an attempt may have been carried out without our hearing of it."""

    def begins(self) -> None:
        with self._lock:
            if self._abandoned:
                raise NoAnswer
            self.unknown = True

    def was_not_sent(self, before: bool) -> None:
        with self._lock:
            self.unknown = before

    def abandon(self) -> bool:
        """Give up; whether an attempt is out of which nothing is known."""
        with self._lock:
            self._abandoned = True
            return self.unknown


class Exchange:
    """One pool of connections to one service. Any thread; not in a forked child."""

    def __init__(self, base: str) -> None:
        self._base = base
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._client: httpx.Client | None = None

    def ask(
        self,
        deadline: Deadline,
        method: str,
        path: str,
        document: Any = None,
        *,
        writes: bool = False,
    ) -> dict[str, Any]:
        """The JSON object that is answered. LogError otherwise, AppendUnknown only if it writes."""
        self._refuse(deadline)
        sending = _Sending()
        try:
            return call_within(
                deadline,
                lambda: self._tried(deadline, method, path, _bytes(document), sending),
            )
        except NoAnswer:
            failure: LogError = _no_answer(deadline)
            unknown = sending.abandon()
        except (LogUnavailable, NotWhole) as error:
            failure, unknown = LogUnavailable(error.cause, error.remedy), sending.abandon()
        if writes and unknown:
            raise AppendUnknown(
                f"{failure.cause}, and whether it was written is unknown", failure.remedy
            ) from None
        raise failure from None

    def lines(
        self, deadline: Deadline, method: str, path: str, document: Any = None
    ) -> Iterator[dict[str, Any]]:
        """The lines of a long answer; each may take as long as the deadline is."""
        self._refuse(deadline)
        worker = Worker("deid-hooks answer")
        response: httpx.Response | None = None
        try:
            response = worker.run(
                deadline,
                lambda: self._opened(deadline, method, path, _bytes(document), _Sending()),
            )
            parts = response.iter_bytes()
            rest, until = b"", Deadline(deadline.seconds)
            while True:
                part = worker.run(until, lambda: _next(parts))
                *lines, rest = (rest + part).split(b"\n")
                for line in lines:
                    row = document_of(line)
                    if "end" in row:
                        return
                    if "problem" in row:
                        raise error_of(HTTPStatus.SERVICE_UNAVAILABLE, row["problem"])
                    yield row
                if not part:
                    raise NotWhole
                if lines:  # not for a line that comes by drops
                    until = Deadline(deadline.seconds)
        except NoAnswer:
            raise _no_answer(deadline) from None
        except NotWhole as error:
            raise LogUnavailable(error.cause, error.remedy) from None
        finally:
            if response is not None:
                with suppress(NoAnswer, httpx.HTTPError):
                    worker.run(Deadline(_SECONDS_TO_CLOSE), response.close)
            worker.stop()

    def close(self) -> None:
        """Close the connections. In a forked child they are the parent's."""
        if os.getpid() == self._process:
            with self._lock:
                client, self._client = self._client, None
            if client is not None:
                client.close()

    def _tried(
        self, deadline: Deadline, method: str, path: str, body: bytes | None, sending: _Sending
    ) -> dict[str, Any]:
        response = self._opened(deadline, method, path, body, sending)
        try:
            answer = document_of(_whole(response, deadline))
        except httpx.HTTPError:
            raise NotWhole from None
        finally:
            response.close()
        sending.was_not_sent(before=False)
        return answer

    def _opened(
        self, deadline: Deadline, method: str, path: str, body: bytes | None, sending: _Sending
    ) -> httpx.Response:
        """A good answer whose body is still to be read, after as many attempts as make sense."""
        pauses = iter(_PAUSES)
        while True:
            error, again = self._attempt(deadline, method, path, body, sending)
            if isinstance(error, httpx.Response):
                return error
            pause = next(pauses, None) if again else None
            if pause is None or deadline.left() < pause:
                raise error
            time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - not a secret

    def _attempt(
        self, deadline: Deadline, method: str, path: str, body: bytes | None, sending: _Sending
    ) -> tuple[httpx.Response | LogError, bool]:
        """A good answer, or what is wrong and whether it is worth another attempt."""
        before = sending.unknown
        sending.begins()
        try:
            response = self._send(deadline, method, path, body)
        except (*_NOT_SENT, httpx.UnsupportedProtocol, LogUnavailable) as error:
            sending.was_not_sent(before)
            if isinstance(error, LogUnavailable):
                return error, False
            return _unreachable(error), True
        except httpx.HTTPError as error:
            return _unreachable(error), True
        if response.status_code == HTTPStatus.OK:
            return response, False
        try:
            problem = _problem(response, deadline)
        finally:
            response.close()
        found = error_of(response.status_code, problem)
        if _says_nothing_was_written(response, problem, found):
            sending.was_not_sent(before)
        again = response.status_code in _WORTH_A_RETRY and (
            "retry-after" in response.headers or response.status_code != 503
        )
        return found, again

    def _send(
        self, deadline: Deadline, method: str, path: str, body: bytes | None
    ) -> httpx.Response:
        headers = {
            "Authorization": f"Bearer {token()}",
            # a little less than there is, so that its answer is here in time
            "Deid-Hooks-Deadline": f"{max(deadline.left() * 0.9, 0.001):.3f}",
        }
        if body is not None:
            headers["Content-Type"] = "application/json"
        client = self._opened_client()
        seconds = max(deadline.left(), 0.001)
        request = client.build_request(
            method, self._base + path, content=body, headers=headers, timeout=seconds
        )
        return client.send(request, stream=True)

    def _opened_client(self) -> httpx.Client:
        with self._lock:
            if self._client is None:
                self._client = httpx.Client(
                    # the certificates that this machine trusts, the CA of a hospital among them
                    verify=ssl.create_default_context(),
                    limits=httpx.Limits(
                        max_connections=_MOST_CONNECTIONS,
                        max_keepalive_connections=_MOST_CONNECTIONS,
                    ),
                    trust_env=False,  # no proxy of the environment reads originals
                )
            return self._client

    def _refuse(self, deadline: Deadline) -> None:
        if os.getpid() != self._process:
            raise ForkedProcess
        if deadline.passed:
            raise LogUnavailable("there was no time left to ask the service of the log")


def _bytes(document: Any) -> bytes | None:
    if document is None:
        return None
    return json.dumps(document, separators=(",", ":")).encode("ascii")


def _whole(response: httpx.Response, deadline: Deadline) -> bytes:
    """The body. One that comes by drops does not keep its thread for ever."""
    parts = []
    for part in response.iter_bytes():
        parts.append(part)
        if deadline.passed:
            raise NotWhole
    return b"".join(parts)


def _problem(response: httpx.Response, deadline: Deadline) -> dict[str, Any]:
    try:
        return document_of(_whole(response, deadline))
    except (NotWhole, httpx.HTTPError):
        return {}


def _says_nothing_was_written(
    response: httpx.Response, problem: dict[str, Any], found: LogError
) -> bool:
    """What stands between may have passed the request on, unless it turns it away itself."""
    if is_ours(problem):
        return not isinstance(found, AppendUnknown)
    return response.has_redirect_location or response.is_client_error


def _next(parts: Iterator[bytes]) -> bytes:
    try:
        return next(parts, b"")
    except httpx.HTTPError:
        raise NotWhole from None


def _unreachable(error: httpx.HTTPError | httpx.UnsupportedProtocol) -> LogUnavailable:
    kinds: dict[type[Exception], str] = {
        httpx.ConnectError: "can't be reached",
        httpx.ConnectTimeout: "did not take the connection in time",
        httpx.ReadTimeout: "gave no answer in time",
    }
    what = kinds.get(type(error), f"was cut off ({type(error).__name__})")
    return LogUnavailable(
        f"the service of the log {what}", "check that it runs, its address and its certificate"
    )


def _no_answer(deadline: Deadline) -> LogUnavailable:
    return LogUnavailable(
        f"the service of the log gave no answer within {deadline.seconds:g} seconds",
        "look whether it runs, and at the store behind it",
    )
