"""A stand-in for the platform that the Flywheel CLI uploads to: it takes files and keeps them.

It is ours and no part of Flywheel: it answers what the CLI was seen to ask for, and nothing more.
"""

from __future__ import annotations

import json
import threading
from email import policy
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "a1b2c3d4e5f6a7b8c9d0e1f2"
USER = "alice@site.example"


class Platform:
    """A site on loopback. ``stored`` holds the files it was given: name, metadata, content."""

    def __init__(self, log_url: str) -> None:
        self.log_url = log_url
        self.stored: list[tuple[str, dict[str, Any], bytes]] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def packfiles(self) -> list[tuple[str, dict[str, Any], bytes]]:
        """What was stored of images: the audit of the CLI is no image."""
        return [each for each in self.stored if not each[0].endswith(".csv")]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def _handler(platform: Platform) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            if path == "/api/config":
                site = {"deid_log_url": platform.log_url, "api_url": self._url("/api")}
                self._answer({"site": site, "features": {"deid_log": True}})
            elif path == "/api/version":
                self._answer({"release": "19.0.0", "flywheel_release": "19.0.0"})
            elif path == "/api/auth/status":
                if self.headers.get("Authorization", "").endswith(KEY):
                    origin = {"type": "user", "id": USER}
                    self._answer({"origin": origin, "user_is_admin": True, "is_device": False})
                else:
                    self._answer({"message": "no"}, 401)
            else:
                self._answer({"message": "not here"}, 404)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.path.split("?")[0].endswith("/files"):
                self._store(body)
                self._answer([{"name": "stored"}])
            elif self.path.startswith("/api/lookup"):
                self._answer({"message": "not found"}, 404)
            else:
                self._answer({"_id": "5f" * 12})

        def _store(self, body: bytes) -> None:
            head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
            message = BytesParser(policy=policy.HTTP).parsebytes(head + body)
            metadata: dict[str, Any] = {}
            files: list[tuple[str, bytes]] = []
            for part in message.iter_parts():
                content = part.get_payload(decode=True)
                assert isinstance(content, bytes)
                name = part.get_param("name", header="content-disposition")
                if name == "metadata":
                    metadata = json.loads(content)
                else:
                    files.append((str(part.get_filename()), content))
            platform.stored += [(name, metadata, content) for name, content in files]

        def _url(self, path: str) -> str:
            return f"http://127.0.0.1:{platform.port}{path}"

        def _answer(self, document: Any, status: int = 200) -> None:
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler
