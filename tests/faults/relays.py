"""What stands between the uploader and the service, and passes on something else now and then."""

from __future__ import annotations

import http.client
import itertools
import threading
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SECONDS_OF_SILENCE = 4


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, whole."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


FOREIGN = {
    "answers with a page": Answer(200, b"<html>welcome</html>"),
    "answers with nothing": Answer(200, b""),
    "answers with any JSON": Answer(200, b'{"status": "ok"}'),
    "accepts": Answer(202, b"{}"),
    "answers without content": Answer(204, b""),
    "sends elsewhere": Answer(302, b"", (("Location", "/elsewhere"),)),
    "breaks down": Answer(500, b"oops"),
    "gives up": Answer(504, b""),
}
"""What is said although the service did what was asked."""

OWN = (
    "cuts requests off",
    "loses answers",
    "cuts answers off",
    "closes after answers",
    "says nothing",
    "sends requests twice",
    "gives an earlier answer",
)
MISDEEDS = (*OWN, *FOREIGN)


class Relay:
    """Passes requests on to a port of loopback, and does ``misdeed`` at those of these numbers."""

    def __init__(self, port: int, misdeed: str, numbers: Collection[int]) -> None:
        self._to, self.misdeed, self._numbers = port, misdeed, numbers
        self._count = itertools.count(1)
        self.injected = 0
        self.last = Answer(404, b"")
        relay = self

        class Handler(_Handler):
            by = relay

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def behave(self) -> None:
        """Pass everything on as it is from now on."""
        self._numbers = ()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def misbehaves_now(self) -> bool:
        """Whether it is the turn of a misdeed; asked once for each request."""
        turn = next(self._count) in self._numbers
        self.injected += turn
        return turn

    def ask(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        """What the service answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self._to)
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        kept = [(n, v) for n, v in answer.getheaders() if n.lower() in ("content-type", "etag")]
        connection.close()
        return Answer(answer.status, content, tuple(kept))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    by: Relay

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        misdeed = self.by.misdeed if self.by.misbehaves_now() else ""
        if misdeed == "cuts requests off":
            self.close_connection = True
            return
        headers = {n: v for n, v in self.headers.items() if n.lower() != "content-length"}
        answer = self.by.ask(self.command, self.path, headers, body)
        if misdeed == "sends requests twice":
            answer = self.by.ask(self.command, self.path, headers, body)
        elif misdeed == "gives an earlier answer":
            answer = self.by.last
        elif misdeed in FOREIGN:
            answer = FOREIGN[misdeed]
        elif misdeed == "says nothing":
            time.sleep(SECONDS_OF_SILENCE)
        if misdeed in ("loses answers", "says nothing"):
            self.close_connection = True
            return
        if not misdeed:
            self.by.last = answer
        self._send(answer, half=misdeed == "cuts answers off")
        if misdeed == "closes after answers":
            self.close_connection = True

    do_GET = do_POST = do_PUT = _pass_on

    def _send(self, answer: Answer, half: bool) -> None:
        with suppress(OSError):  # nobody waits for it any more
            self.send_response(answer.status)
            for name, value in answer.headers:
                self.send_header(name, value)
            if answer.status != 204:
                self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body[: len(answer.body) // 2] if half else answer.body)
            self.close_connection = self.close_connection or half

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is said on standard error."""
