"""Who is on the network may answer in the place of the service, and connect to it."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from running import Site as Served

from deid_hooks.query.json_codec import encode_query
from deid_hooks.query.parser import parse_terms
from tests.adversaries.programs import weaken
from tests.commands import run_command
from tests.whole.site import PROGRAM, Site

CAUSE = "closed\x1b]0;owned\x07\nThe log can be written: sqlite:////srv/log.db"


class Rogue(BaseHTTPRequestHandler):
    """Answers like the service, with commands for the terminal and a line that is not its own."""

    def do_GET(self) -> None:
        body = json.dumps({"kind": "LogUnavailable", "cause": CAUSE, "remedy": ""}).encode()
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def rogue() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Rogue)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"deidlog+http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def check(site: Site, url: str, program: Path = PROGRAM) -> str:
    environment = {**site.environment, "DEID_HOOKS_TOKEN": "x" * 40, "DEID_HOOKS_URL": url}
    return run_command([program, "check"], env=environment, cwd=site.folder).stderr


def test_a_rogue_service_commands_no_terminal(rogue: str, tmp_path: Path) -> None:
    said = check(Site(tmp_path, begun=False), rogue)
    assert "closed" in said
    assert not {"\x1b", "\x07"} & set(said)
    assert not any(line.startswith("The log can be written") for line in said.splitlines())


def test_twin_without_the_streams_a_rogue_service_commands_the_terminal(
    rogue: str, tmp_path: Path
) -> None:
    patch = (
        "import deid_hooks.cli.output as output\n"
        "output._Plain.write = lambda self, text: self._stream.write(text)\n"
    )
    assert "\x1b" in check(Site(tmp_path, begun=False), rogue, weaken(tmp_path, patch))


# The service, its times and numbers made small

SMALL = """
import deid_hooks_service.connections as connections
connections._SECONDS_TO_HEADERS = 0.5
connections._MOST_OF_AN_ADDRESS = 5
"""
NO_LIMITS = """
import deid_hooks_service.application as application
application.limit_connections = lambda proxies: "httptools"
"""
BELIEVING = """
import deid_hooks_service.application as application
run = application.uvicorn.run
application.uvicorn.run = lambda *a, **k: run(*a, **{**k, "proxy_headers": True})
"""


def serve(folder: Path, patch: str, *options: str) -> Served:
    folder.mkdir()
    program = weaken(folder, patch, "deid_hooks_service.cli")
    return Served(folder).start(*options, program=program)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    site = serve(tmp_path_factory.mktemp("served") / "site", SMALL)
    yield site
    site.stop()


@pytest.fixture(scope="module")
def unlimited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    site = serve(tmp_path_factory.mktemp("unlimited") / "site", SMALL + NO_LIMITS)
    yield site
    site.stop()


def connect(site: Served, sent: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", site.port))
    connection.settimeout(2)
    connection.sendall(sent)
    return connection


def read_answer(connection: socket.socket) -> str | None:
    """The first line of what comes, "" if the connection is closed; None if nothing comes."""
    try:
        return connection.recv(65536).partition(b"\r\n")[0].decode()
    except ConnectionError:
        return ""
    except TimeoutError:
        return None
    finally:
        connection.close()


HALF = b"GET /health HTTP/1.1\r\nHost: x\r\n"
TOO_LARGE = HALF + b"".join(b"X-%d: %s\r\n" % (n, b"x" * 100) for n in range(400))


def test_headers_are_kept_up_to_a_size(served: Served) -> None:
    for sent in (TOO_LARGE, TOO_LARGE + b"\r\n"):
        assert read_answer(connect(served, sent)) == "HTTP/1.1 431 Request Header Fields Too Large"


def test_twin_without_limits_any_headers_are_kept(unlimited: Served) -> None:
    assert read_answer(connect(unlimited, TOO_LARGE + b"\r\n")) == "HTTP/1.1 200 OK"


def test_a_request_that_does_not_arrive_is_waited_for_some_seconds(served: Served) -> None:
    idle, half = connect(served), connect(served, HALF)
    body = connect(served, b"POST /logs HTTP/1.1\r\nContent-Length: 9\r\n\r\n")
    assert (read_answer(idle), read_answer(half)) == ("", "")
    answered = b"".join(iter(lambda: body.recv(4096), b""))  # to the end of the connection
    assert answered.startswith(b"HTTP/1.1 401")
    body.close()


def test_twin_without_limits_half_a_request_never_ends(unlimited: Served) -> None:
    assert read_answer(connect(unlimited, HALF)) is None


def test_one_address_has_some_connections(served: Served) -> None:
    some = [connect(served) for _ in range(5)]
    assert read_answer(connect(served)) == "HTTP/1.1 503 Service Unavailable"
    for each in some:
        each.close()
    while read_answer(connect(served, HALF + b"\r\n")) != "HTTP/1.1 200 OK":
        time.sleep(0.01)  # until it has seen that they are closed


def test_twin_without_limits_one_address_has_any_number(unlimited: Served) -> None:
    some = [connect(unlimited) for _ in range(50)]
    assert read_answer(connect(unlimited, HALF + b"\r\n")) == "HTTP/1.1 200 OK"
    for each in some:
        each.close()


def search_as(site: Served, forwarded: str) -> str:
    """Search through the service with this X-Forwarded-For, and return where the trail has it."""
    query = {"query": encode_query(parse_terms(["PatientID=4711"]))}
    with site.client(site.token("search")) as client:
        answer = client.post("/v1/search", json=query, headers={"X-Forwarded-For": forwarded})
    assert answer.status_code == 200
    return list(site.recorder.trail())[-1][0].where


def test_nobody_is_believed_whom_they_forward(served: Served) -> None:
    assert search_as(served, "10.1.2.3") == "127.0.0.1"


def test_twin_uvicorn_believes_whoever_is_on_this_machine(tmp_path: Path) -> None:
    site = serve(tmp_path / "site", BELIEVING)
    assert search_as(site, "10.1.2.3") == "10.1.2.3"
    site.stop()


@pytest.mark.ci
def test_a_proxy_that_is_named_is_believed_and_both_are_recorded(tmp_path: Path) -> None:
    site = serve(tmp_path / "site", "", "--proxy", "127.0.0.1")
    assert search_as(site, "6.6.6.6, 10.1.2.3") == "10.1.2.3 via 127.0.0.1"
    assert search_as(site, "nobody") == "127.0.0.1"
    site.stop()
