"""Requests to the service and their answers: bounded in time, repeated where that is safe.

A request may always be repeated, because what it writes has ids. Where a reply was lost after which
nobody knows whether something was written, the error says that.
"""

from __future__ import annotations

import json
import os
import random
import ssl
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx

from deid_hooks import find_config_file
from deid_hooks.backends import (
    AppendUnknown,
    Deadline,
    Forgotten,
    ForkedProcess,
    IdConflict,
    LogError,
    LogUnavailable,
    NoAnswer,
    NotAllowed,
    NotPrivate,
    SettingsError,
    Worker,
    call_within,
    read_private,
)

_VARIABLE = "DEID_HOOKS_TOKEN"
_FILE_NAME = "token"

_PAUSES = (0.05, 0.2, 0.8)
_MOST_CONNECTIONS = 32
_WORTH_A_RETRY = (502, 503, 504)
_SECONDS_TO_CLOSE = 1.0

_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_FAILURES: dict[type[Exception], str] = {
    httpx.ConnectError: "can't be reached",
    httpx.ConnectTimeout: "did not take the connection in time",
    httpx.ReadTimeout: "gave no answer in time",
}
_KINDS: dict[str, Callable[[str, str], LogError]] = {
    "LogUnavailable": LogUnavailable,
    "AppendUnknown": AppendUnknown,
    "NotAllowed": NotAllowed,
    "LogError": LogError,
}


class NotFound(LogError):
    """The service answers that there is nothing of that name."""


class NotWhole(LogError):
    """What came as 200 OK is not a whole answer of a service of the log."""

    def __init__(self) -> None:
        super().__init__(
            "200 OK: the answer of the service of the log is not whole, or of something else",
            "check its address, and what is between here and there",
        )


def read_token() -> str:
    """Return this user's token: of the environment, or of a file that its owner alone may read.

    Raises LogUnavailable, which names the place, if there is none to use.
    """
    if text := os.environ.get(_VARIABLE, "").strip():
        return _check_token(text, _VARIABLE)
    named = os.environ.get("DEID_HOOKS_CONFIG")
    path = (Path(named) if named else find_config_file()).with_name(_FILE_NAME)
    try:
        return _check_token(read_private(path).decode("ascii").strip(), str(path))
    except NotPrivate:
        raise LogUnavailable(
            f"others may read the token {path}", f"make it yours alone: chmod 600 {path}"
        ) from None
    except FileNotFoundError:
        raise LogUnavailable(
            "there is no token for the service of the log",
            f"set {_VARIABLE}, or write it to {path}",
        ) from None
    except (OSError, UnicodeDecodeError):
        raise LogUnavailable(f"the token {path} can't be read") from None


@dataclass(frozen=True, slots=True)
class AccessFile:
    """What one file gives a workstation: the address of a service, its certificate, a token.

    ``certificate`` is PEM, ``""`` where the certificates that this machine trusts count.
    """

    path: Path
    url: str
    certificate: str = ""
    token: str = field(repr=False, default="")


def read_access_file(path: Path) -> AccessFile:
    """Return what a file of ``deid-hooks-service token add --output`` holds.

    Raises SettingsError for one that can't be read, that others may read, or that is none.
    """
    again = "Ask the administrator of the log for a new one."
    try:
        values = tomllib.loads(read_private(path).decode())
        texts = {name: values.pop(name) for name in ("url", "token", "certificate")}
        if values or not all(isinstance(text, str) for text in texts.values()):
            raise ValueError
        if not texts["url"].startswith(("deidlog+https://", "deidlog+http://")):
            raise ValueError
    except NotPrivate:
        raise SettingsError(
            f"Others may read {path}, which holds a token. Make it yours alone: chmod 600 {path}"
        ) from None
    except OSError as error:
        raise SettingsError(f"{path} can't be read: {error.strerror}.") from None
    except (ValueError, KeyError):
        raise SettingsError(f"{path} gives no access to a service of the log. {again}") from None
    return AccessFile(path, texts["url"], texts["certificate"], texts["token"].strip())


def _check_token(text: str, where: str) -> str:
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise LogUnavailable(f"the text in {where} is no token", "copy it again, whole")
    return text


@dataclass(slots=True, repr=False)
class _Request:
    """One request, and whether an attempt may have been carried out without our hearing of it.

    The thread that sends and the one that waits decide under one lock who comes first: the request
    goes out, or it is given up.
    """

    deadline: Deadline
    method: str
    path: str
    body: bytes | None
    unknown: bool = False
    _given_up: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin_attempt(self) -> None:
        """Note that an attempt goes out; raise NoAnswer if the request was given up."""
        with self._lock:
            if self._given_up:
                raise NoAnswer
            self.unknown = True

    def end_attempt(self, unknown: bool) -> None:
        """Note whether an earlier attempt may still have been carried out."""
        with self._lock:
            self.unknown = unknown

    def give_up(self) -> bool:
        """Let no further attempt out; return whether one may have been carried out."""
        with self._lock:
            self._given_up = True
            return self.unknown


class Exchange:
    """One pool of connections to one service. Any thread; not in a forked child."""

    def __init__(self, base: str, access: AccessFile | None = None) -> None:
        """``access`` has the token and the certificate; without it they are those of the user."""
        self._base = base
        self._access = access
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
        """Return the JSON object that is answered.

        Raises LogError; AppendUnknown only if it ``writes``.
        """
        request = self._make_request(deadline, method, path, document)
        try:
            return call_within(deadline, lambda: self._fetch(request))
        except NoAnswer:
            failure: LogError = _make_no_answer(deadline)
        except (LogUnavailable, NotWhole) as error:
            failure = LogUnavailable(error.cause, error.remedy)
        if request.give_up() and writes:
            raise AppendUnknown(
                f"{failure.cause}, and whether it was written is unknown", failure.remedy
            ) from None
        raise failure from None

    def read_lines(
        self, deadline: Deadline, method: str, path: str, document: Any = None
    ) -> Iterator[dict[str, Any]]:
        """Yield the lines of a long answer; each may take as long as the deadline is."""
        request = self._make_request(deadline, method, path, document)
        worker = Worker("deid-hooks answer")
        response: httpx.Response | None = None
        try:
            response = worker.run(deadline, lambda: self._open(request))
            parts = response.iter_bytes()
            rest, until = b"", Deadline(deadline.seconds)
            while True:
                part = worker.run(until, lambda: _read_part(parts))
                *lines, rest = (rest + part).split(b"\n")
                for line in lines:
                    row = _parse(line)
                    if "end" in row:
                        return
                    if "problem" in row:
                        raise make_error(HTTPStatus.SERVICE_UNAVAILABLE, row["problem"])
                    yield row
                if not part:
                    raise NotWhole
                if lines:  # not for a line that comes by drops
                    until = Deadline(deadline.seconds)
        except NoAnswer:
            raise _make_no_answer(deadline) from None
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

    def _make_request(self, deadline: Deadline, method: str, path: str, document: Any) -> _Request:
        if os.getpid() != self._process:
            raise ForkedProcess
        if deadline.passed:
            raise LogUnavailable("there was no time left to ask the service of the log")
        body = None
        if document is not None:
            body = json.dumps(document, separators=(",", ":")).encode("ascii")
        return _Request(deadline, method, path, body)

    def _fetch(self, request: _Request) -> dict[str, Any]:
        response = self._open(request)
        try:
            answer = _parse(_read_whole(response, request.deadline))
        except httpx.HTTPError:
            raise NotWhole from None
        finally:
            response.close()
        return answer

    def _open(self, request: _Request) -> httpx.Response:
        """Return a good answer whose body is still to be read, after as many attempts as help."""
        pauses = iter(_PAUSES)
        while True:
            found, again = self._attempt(request)
            if isinstance(found, httpx.Response):
                return found
            pause = next(pauses, None) if again else None
            if pause is None or request.deadline.left() < pause:
                raise found
            time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - not a secret

    def _attempt(self, request: _Request) -> tuple[httpx.Response | LogError, bool]:
        """Return a good answer, or what is wrong and whether it is worth another attempt."""
        before = request.unknown
        request.begin_attempt()
        try:
            response = self._send(request)
        except LogUnavailable as error:
            request.end_attempt(before)
            return error, False
        except (httpx.HTTPError, httpx.UnsupportedProtocol) as error:
            if isinstance(error, (*_NOT_SENT, httpx.UnsupportedProtocol)):
                request.end_attempt(before)
            what = _FAILURES.get(type(error), f"was cut off ({type(error).__name__})")
            return LogUnavailable(
                f"the service of the log {what}",
                "check that it runs, its address and its certificate",
            ), True
        status = response.status_code
        if status == HTTPStatus.OK:
            return response, False
        try:
            problem = _parse(_read_whole(response, request.deadline))
        except (NotWhole, httpx.HTTPError):
            problem = {}
        finally:
            response.close()
        found = make_error(status, problem)
        # A proxy in between may have passed the request on, unless it refuses it itself.
        if _is_ours(problem):
            nothing_written = not isinstance(found, AppendUnknown)
        else:
            nothing_written = response.has_redirect_location or response.is_client_error
        if nothing_written:
            request.end_attempt(before)
        return found, status in _WORTH_A_RETRY and (
            "retry-after" in response.headers or status != 503
        )

    def _send(self, request: _Request) -> httpx.Response:
        left = request.deadline.left()
        headers = {
            "Authorization": f"Bearer {self._read_token()}",
            # a little less than there is, so that its answer is here in time
            "Deid-Hooks-Deadline": f"{max(left * 0.9, 0.001):.3f}",
        }
        if request.body is not None:
            headers["Content-Type"] = "application/json"
        client = self._open_client()
        prepared = client.build_request(
            request.method,
            self._base + request.path,
            content=request.body,
            headers=headers,
            timeout=max(left, 0.001),
        )
        return client.send(prepared, stream=True)

    def _read_token(self) -> str:
        if self._access is None:
            return read_token()
        return _check_token(self._access.token, str(self._access.path))

    def _make_context(self) -> ssl.SSLContext:
        """Trust what this machine trusts, the CA of a hospital among it; or one certificate only.

        Raises LogUnavailable if that is none.
        """
        if self._access is None or not self._access.certificate:
            return ssl.create_default_context()
        try:
            return ssl.create_default_context(cadata=self._access.certificate)
        except (ssl.SSLError, ValueError):
            raise LogUnavailable(f"the certificate in {self._access.path} is none") from None

    def _open_client(self) -> httpx.Client:
        with self._lock:
            if self._client is None:
                self._client = httpx.Client(
                    verify=self._make_context(),
                    limits=httpx.Limits(
                        max_connections=_MOST_CONNECTIONS,
                        max_keepalive_connections=_MOST_CONNECTIONS,
                    ),
                    trust_env=False,  # no proxy of the environment reads originals
                )
            return self._client


def make_error(status: int, problem: Any) -> LogError:
    """Return the error of an answer that is no success. It names the status.

    Only the service itself is quoted: others may repeat what was sent to them.
    """
    found = problem if isinstance(problem, dict) and _is_ours(problem) else {}
    kind, log_id = found.get("kind"), str(found.get("log_id", ""))
    if kind == "IdConflict":
        return IdConflict(log_id)
    if kind == "Forgotten":
        return Forgotten(log_id)
    cause = str(found.get("cause") or "what answered says no more, it may be no service of the log")
    if kind == "NotFound":
        return NotFound(cause)
    try:
        answered = f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        answered = str(status)
    make = _KINDS.get(str(kind), LogUnavailable)
    return make(f"{answered}: {cause}", str(found.get("remedy", "")))


def _is_ours(problem: dict[str, Any]) -> bool:
    """Return whether the service of the log made it, and not a proxy in between."""
    return isinstance(problem.get("kind"), str)


def _parse(body: bytes) -> dict[str, Any]:
    """Return the JSON object that ``body`` is; raise NotWhole if it is none."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise NotWhole from None
    if not isinstance(document, dict):
        raise NotWhole
    return document


def _read_whole(response: httpx.Response, deadline: Deadline) -> bytes:
    """Return the body; raise NotWhole at the deadline, so that one that drips ends."""
    parts = []
    for part in response.iter_bytes():
        parts.append(part)
        if deadline.passed:
            raise NotWhole
    return b"".join(parts)


def _read_part(parts: Iterator[bytes]) -> bytes:
    try:
        return next(parts, b"")
    except httpx.HTTPError:
        raise NotWhole from None


def _make_no_answer(deadline: Deadline) -> LogUnavailable:
    return LogUnavailable(
        f"the service of the log gave no answer within {deadline.seconds:g} seconds",
        "check that it runs, and the store behind it",
    )
