"""Measure how many single posts and batches the service takes a second, beside a bare endpoint.

    python -m benchmarks.service [FOLDER] [--seconds 5]

The bare endpoint is Starlette under the same server: it parses the body, answers with an id and
keeps nothing. The log is SQLite in FOLDER, or in a temporary folder; its disk decides what a commit
costs. The log of another backend is measured too if DEID_HOOKS_BENCHMARK_URL names an empty one.
Clients are connections that are kept open, all in one process beside the server's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from deid_hooks.records.json_codec import encode_record
from deid_hooks.testing.records import make_entry
from deid_hooks_service.tokens import Tokens

CLIENTS = (1, 8, 32)
BATCH = 200
BIN = Path(sys.executable).parent

BARE = """
import sys, uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

async def log(request: Request) -> JSONResponse:
    await request.json()
    return JSONResponse({"id": "65774D086757457C9DCF96E762803606"})

app = Starlette(routes=[Route("/logs", log, methods=["POST"])])
uvicorn.run(app, port=int(sys.argv[1]), access_log=False, log_level="warning")
"""


class Measured(NamedTuple):
    """Answers a second, and how long they took, in milliseconds."""

    rate: float
    p50: float
    p99: float


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--seconds", type=float, default=5.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        bare: dict[int, Measured] = {}
        with _process([sys.executable, "-c", BARE], {}) as port:
            for clients in CLIENTS:
                bare[clients] = _load(port, clients, given.seconds, lambda: _post("-", _packfile()))
                _print("bare endpoint, single posts", clients, bare[clients])
        urls = {"SQLite": f"sqlite:///{folder / 'log.db'}"}
        if other := os.environ.get("DEID_HOOKS_BENCHMARK_URL"):
            urls[other.partition(":")[0]] = other
        for store, url in urls.items():
            _measure(store, url, folder, given.seconds, bare)


def _measure(store: str, url: str, folder: Path, seconds: float, bare: dict[int, Measured]) -> None:
    settings = folder / f"{store}.toml"
    settings.write_text(f'url = "{url}"\nsecret_file = "{folder}/secret"\n')
    settings.chmod(0o600)
    environment = {"DEID_HOOKS_CONFIG": str(settings)}
    subprocess.run(
        [BIN / "deid-hooks", "init"],
        env={**os.environ, **environment},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    tokens = Tokens(folder / "service-tokens.json")
    token = tokens.add(store, "upload")
    batch = _batches()
    with _process([BIN / "deid-hooks-service", "serve", "--port"], environment) as port:
        for clients in CLIENTS:
            found = _load(port, clients, seconds, lambda: _post(token, _packfile()))
            ratio = found.rate / bare[clients].rate
            _print(f"{store}, single posts", clients, found, f"{ratio:5.2f} of bare")
        for clients in CLIENTS:
            found = _load(port, clients, seconds, lambda: _post(token, batch(), "/v1/records"))
            _print(
                f"{store}, batches of {BATCH}",
                clients,
                found,
                f"{found.rate * BATCH:7.0f} entries/s",
            )


def _print(what: str, clients: int, found: Measured, more: str = "") -> None:
    numbers = f"{found.rate:8.0f}/s  p50 {found.p50:7.2f} ms  p99 {found.p99:7.2f} ms"
    print(f"{what:<28} {clients:>3} clients  {numbers}  {more}".rstrip(), flush=True)


def _packfile() -> bytes:
    number = uuid.uuid4().hex
    fields = {
        "AccessionNumber": number[:12],
        "PatientBirthDate": "19500101",
        "PatientID": number,
        "PatientName": "Doe^John",
        "StudyInstanceUID": f"1.2.840.113619.2.55.{number[:8]}",
        "StudyID": "1",
        "StudyDate": "20060815",
        "StudyTime": "101500",
        "StudyDescription": "CHEST",
        "SeriesInstanceUID": f"1.2.840.113619.2.55.3.{number[:8]}",
        "SeriesDate": "20060815",
        "SeriesTime": "101700",
        "SeriesDescription": "AXIAL",
    }
    return json.dumps({"indexed_fields": fields, "deidentified_tags": {}}).encode()


def _batches() -> Callable[[], bytes]:
    """Return what makes bodies of entries with two instances, each entry under an id of its own."""
    entry = make_entry(digest="", key="")
    before, after = json.dumps(encode_record(entry)).split(entry.log_id, 1)

    def body() -> bytes:
        entries = (before + uuid.uuid4().hex.upper() + after for _ in range(BATCH))
        return ('{"records": [' + ",".join(entries) + "]}").encode()

    return body


def _post(token: str, body: bytes, path: str = "/logs") -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body


def _load(port: int, clients: int, seconds: float, request: Callable[[], bytes]) -> Measured:
    times: list[float] = []

    async def one(until: float) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < until:
            prepared = request()
            began = time.perf_counter()
            writer.write(prepared)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            answer = await reader.readexactly(length)
            if not head.startswith(b"HTTP/1.1 200"):
                raise SystemExit(answer.decode())
            times.append(time.perf_counter() - began)
        writer.close()

    async def all_of_them(seconds: float) -> float:
        began = time.perf_counter()
        await asyncio.gather(*(one(began + seconds) for _ in range(clients)))
        return time.perf_counter() - began

    asyncio.run(all_of_them(min(1.0, seconds)))  # to warm up
    times.clear()
    took = asyncio.run(all_of_them(seconds))
    times.sort()
    rank = (len(times) // 2, int(len(times) * 0.99))
    return Measured(len(times) / took, *(times[at] * 1000 for at in rank))


@contextmanager
def _process(command: list[object], environment: dict[str, str]) -> Iterator[int]:
    """Run a server in a process of its own; give the port that it listens on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    process = subprocess.Popen(
        [*map(str, command), str(port)],
        env={**os.environ, **environment},
        stderr=subprocess.DEVNULL,
    )
    try:
        while True:
            assert process.poll() is None, "the server did not start"
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
