"""Connections: how many there may be, how long a request may take to arrive, and where it is from.

uvicorn with httptools bounds neither the headers of a request nor the time that they take.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

import uvloop
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from deid_hooks_service.forms import MOST_BYTES
from deid_hooks_service.tokens import find_network

MOST_HEADER_BYTES = 16 * 1024
_MOST_REQUEST_BYTES = MOST_BYTES + 1024 * 1024
_SECONDS_TO_HEADERS = 10.0
_SECONDS_TO_READ = 60.0
"""How long a client may take to read what waits for it, before the connection is cut off."""
_MOST_CONNECTIONS = 800  # of 1,024 descriptors, which is what a process mostly may have
_MOST_OF_AN_ADDRESS = 200
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Proxies:
    """Proxies that are trusted to say whom they forward."""

    def __init__(self, networks: Sequence[Network] = ()) -> None:
        self._networks = networks

    def trusts(self, address: str) -> bool:
        """Return whether this is the address of a proxy."""
        try:
            found = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(found in network for network in self._networks)

    def find_sender(self, scope: Scope) -> str:
        """Return whom a proxy forwards, ``""`` if none does.

        That is the last address of X-Forwarded-For that is no proxy's: those before it are the
        word of whoever sent the request.
        """
        if not self._networks or not self.trusts((scope.get("client") or ("",))[0]):
            return ""
        values = [v.decode("latin-1") for n, v in scope["headers"] if n == b"x-forwarded-for"]
        for text in reversed(",".join(values).split(",")):
            try:
                address = str(ipaddress.ip_address(text.strip()))
            except ValueError:
                return ""
            if not self.trusts(address):
                return address
        return ""


class Connection(HttpToolsProtocol):
    """One connection of a client, with its limits. Make a class of it with ``limit_connections``.

    It is closed when the headers of a request take too long or are too large, when what follows an
    answered request does not end, and when the answer is not read.
    """

    proxies: ClassVar[Proxies]
    open: ClassVar[Counter[str]]
    _address = ""
    _timer: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _request_bytes = 0
    _in_head = True
    _too_large = False

    def connection_made(self, transport: Any) -> None:
        """Count it; close it at once if there are too many."""
        super().connection_made(transport)
        peer = self.client[0] if self.client else ""
        self._address = "" if self.proxies.trusts(peer) else find_network(peer)
        self.open[self._address] += 1
        others = self._address and self.open[self._address] > _MOST_OF_AN_ADDRESS
        if others or self.open.total() > _MOST_CONNECTIONS:
            self._refuse("503 Service Unavailable", "There are too many connections.")
        else:
            self._wait(_SECONDS_TO_HEADERS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Count it no more."""
        self._stop_waiting()
        self.open[self._address] -= 1
        if self.open[self._address] <= 0:
            del self.open[self._address]
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take some bytes, of headers and of a request no more than are allowed."""
        if self.transport.is_closing():
            return
        self._head_bytes += len(data) if self._in_head else 0
        self._request_bytes += len(data)
        super().data_received(data)
        if self._request_bytes > _MOST_REQUEST_BYTES:
            self.transport.close()
        elif self._in_head and self._head_bytes > MOST_HEADER_BYTES:
            self._refuse_head()

    def on_message_begin(self) -> None:
        """Begin to count, and to wait for the headers."""
        super().on_message_begin()
        self._in_head, self._request_bytes = True, 0
        if self._timer is None:
            self._wait(_SECONDS_TO_HEADERS)

    def on_headers_complete(self) -> None:
        """Answer a request whose headers are small enough."""
        self._in_head, self._head_bytes = False, 0
        self._stop_waiting()
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > MOST_HEADER_BYTES:
            self._too_large = True
            raise ValueError  # the parser stops, and has a bad request answered
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no request, or has too large headers."""
        if self._too_large:
            self._refuse_head()
        else:
            super().send_400_response(msg)

    def on_response_complete(self) -> None:
        """Wait for the rest of a request that was answered before it had arrived."""
        super().on_response_complete()
        if self.cycle.more_body and not self.transport.is_closing():
            self._wait(_SECONDS_TO_HEADERS)

    def on_message_complete(self) -> None:
        """Wait no more for the rest of a request."""
        super().on_message_complete()
        if self.cycle.response_complete:
            self._stop_waiting()

    def pause_writing(self) -> None:
        """Wait for the client to read."""
        super().pause_writing()
        self._stop_waiting()
        self._timer = self.loop.call_later(_SECONDS_TO_READ, self.transport.abort)

    def resume_writing(self) -> None:
        """Wait no more for the client."""
        super().resume_writing()
        self._stop_waiting()

    def _wait(self, seconds: float) -> None:
        self._stop_waiting()
        self._timer = self.loop.call_later(seconds, self._end)

    def _end(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()
        else:  # an earlier request of this connection is being answered
            self._wait(_SECONDS_TO_HEADERS)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse_head(self) -> None:
        self._refuse("431 Request Header Fields Too Large", "The headers are too large.")

    def _refuse(self, status: str, text: str) -> None:
        head = f"HTTP/1.1 {status}\r\ncontent-type: text/plain\r\ncontent-length: {len(text)}\r\n"
        more = "retry-after: 1\r\n" if status.startswith("503") else ""
        self.transport.write(f"{head}{more}connection: close\r\n\r\n{text}".encode("ascii"))
        self.transport.close()


class Loop(uvloop.Loop):
    """An event loop whose servers wait for a TLS handshake no longer than for headers."""

    def create_server(self, *arguments: Any, **more: Any) -> Any:
        """Return what awaits a server, as asyncio does."""
        if more.get("ssl") is not None:
            more["ssl_handshake_timeout"] = _SECONDS_TO_HEADERS
        return super().create_server(*arguments, **more)


def limit_connections(proxies: Proxies) -> type[Connection]:
    """Return the protocol of one server, which counts its own connections."""
    return type("Connection", (Connection,), {"proxies": proxies, "open": Counter()})
