"""A TCP proxy before a server, that cuts or holds what passes when a word comes by."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress


class Proxy:
    """Forwards to a port on loopback until told otherwise.

    ``before``: the connection is cut before the server gets what holds the word; ``after``: the
    server gets it, and its reply is lost; ``hold``: neither hears of the other again.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.word, self.how = b"", ""
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def when(self, word: bytes, how: str) -> None:
        """What to do when this word comes by, once."""
        self.word, self.how = word, how

    def close(self) -> None:
        for each in (self._listener, *self._sockets):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._port))
            self._sockets += [client, server]
            lost = threading.Event()
            for job in (
                lambda c=client, s=server, lost=lost: self._requests(c, s, lost),
                lambda c=client, s=server, lost=lost: self._replies(c, s, lost),
            ):
                threading.Thread(target=job, daemon=True).start()

    def _requests(
        self, client: socket.socket, server: socket.socket, lost: threading.Event
    ) -> None:
        with suppress(OSError):
            while data := client.recv(1 << 20):
                if self.word and self.word in data:
                    how, self.word = self.how, b""
                    if how == "before":
                        break
                    lost.set()
                    if how == "hold":
                        return
                server.sendall(data)
        for each in (client, server):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _replies(self, client: socket.socket, server: socket.socket, lost: threading.Event) -> None:
        with suppress(OSError):
            while data := server.recv(1 << 20):
                if lost.is_set():
                    break
                client.sendall(data)
            if self.how != "hold":
                client.shutdown(socket.SHUT_RDWR)
