"""Serve the log of the settings: the ASGI application, its log lines, its server."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import sys
import time
import traceback
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio.to_thread
import uvicorn
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deid_hooks.destinations import is_loopback
from deid_hooks.errors import DeidHooksError, SettingsError
from deid_hooks.log import Log, make_backend, open_log
from deid_hooks.records.model import read_clock
from deid_hooks.settings import Settings
from deid_hooks_service.connections import Network, Proxies, limit_connections
from deid_hooks_service.endpoints import ENDPOINTS, Endpoint, describe_endpoints
from deid_hooks_service.flywheel import FlywheelUsers
from deid_hooks_service.forms import Problem, find_problem
from deid_hooks_service.service import Call, Service
from deid_hooks_service.tokens import Senders, Tokens

log = logging.getLogger("deid_hooks_service")

_SECONDS_BETWEEN_HEADS = 60.0
_REFUSALS_LOGGED = 100  # a minute
_NO_STORE = (b"cache-control", b"no-store")


class Application:
    """The ASGI application that serves one log: answers every request, measures and logs it."""

    def __init__(self, service: Service, proxies: Proxies | None = None) -> None:
        """``proxies`` are believed whom they forward; of others X-Forwarded-For means nothing."""
        self._proxies = proxies or Proxies()
        document = describe_endpoints()

        async def show_document(call: Call) -> dict[str, Any]:
            return document

        own = Endpoint("GET /openapi.json", show_document, {}, public=True)
        table: dict[str, dict[str, Endpoint]] = {}
        for endpoint in (*ENDPOINTS, own):
            method, path = endpoint.route.split(" ")
            table.setdefault(path, {})[method] = endpoint
        # What the Flywheel CLI makes of a URL that ends in a slash.
        table = {"/logs": table["/logs"], "//logs": table["/logs"], **table}

        @asynccontextmanager
        async def run(_: Any) -> AsyncIterator[None]:
            keeping = asyncio.create_task(_keep_heads(service.log))
            yield
            keeping.cancel()
            await service.close(service.log.seconds)

        self._metrics, self._held = service.metrics, service.held
        self._refusals = _Refusals()
        # A post that goes through the router takes some percent longer.
        self._paths = {path: _Path(service, path, found) for path, found in table.items()}
        self._router: ASGIApp = Router(
            [Route(path, app) for path, app in self._paths.items()],
            redirect_slashes=False,
            default=_answer_not_found,
            lifespan=run,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, whatever goes wrong; ASGI calls this."""
        if scope["type"] != "http":
            await self._router(scope, receive, send)
            return
        began = time.perf_counter()
        status = 0

        async def send_uncached(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                # A proxy that kept an answer would vouch for an entry that is there no more.
                message["headers"] = [*message.get("headers", ()), _NO_STORE]
            await send(message)

        app = self._paths.get(scope["path"], self._router)
        if forwarded := self._proxies.find_sender(scope):
            proxy, port = scope["client"]
            scope["client"] = (f"{forwarded} via {proxy}", port)
        try:
            await app(scope, receive, send_uncached)
        except Exception as error:  # noqa: BLE001 - its text may hold values: its place is logged
            frame = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(frame.filename).name}:{frame.lineno}"
            log.error("", extra={"members": {"error": type(error).__name__, "at": place}})
            if status:
                raise ConnectionResetError from None  # what has begun can't be taken back
            problem = find_problem(error)
            document = problem.make_document(scope.get("deid_hooks.prefix", ""))
            await JSONResponse(document, problem.status)(scope, receive, send_uncached)
        finally:
            self._held.release(scope)
            self._observe(scope, status, time.perf_counter() - began)

    def _observe(self, scope: Scope, status: int, seconds: float) -> None:
        # The route, not the path: a path may hold anything.
        route = scope.get("deid_hooks.route", "none")
        self._metrics.count(route, status, seconds)
        if status == HTTPStatus.UNAUTHORIZED and not self._refusals.may_log():
            return
        if log.isEnabledFor(logging.INFO):
            members = {
                "method": scope["method"],
                "route": route,
                "status": status,
                "ms": round(seconds * 1000, 2),
                "sender": scope.get("deid_hooks.sender", ""),
                "from": (scope.get("client") or ("",))[0],
            }
            if why := scope.get("deid_hooks.why"):
                members["why"] = why
            log.info("", extra={"members": members})


class _Refusals:
    """Bounds how many lines requests without a token make: some a minute, then their number."""

    def __init__(self) -> None:
        self._minute, self._count = 0, 0

    def may_log(self) -> bool:
        """Count one, and return whether it has a line of its own."""
        minute = int(time.monotonic() / 60)
        if minute != self._minute:
            if (more := self._count - _REFUSALS_LOGGED) > 0:
                log.warning("", extra={"members": {"status": 401, "not logged": more}})
            self._minute, self._count = minute, 0
        self._count += 1
        return self._count <= _REFUSALS_LOGGED


async def _keep_heads(site_log: Log) -> None:
    """Compare the end of the log with the head that is kept beside the site secret, every minute.

    From then on that is the newest one. What is wrong is logged, and answered by the check.
    """
    while True:
        try:
            await anyio.to_thread.run_sync(site_log.keep_head)
        except (DeidHooksError, OSError) as error:
            log.error("", extra={"members": {"error": type(error).__name__, "at": "keep_head"}})
        await asyncio.sleep(_SECONDS_BETWEEN_HEADS)


class _Path:
    """The ASGI application of one path: the endpoint of each method."""

    def __init__(self, service: Service, path: str, endpoints: Mapping[str, Endpoint]) -> None:
        self._service = service
        self._path = path
        self._endpoints = endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["deid_hooks.route"] = self._path
        endpoint = self._endpoints.get(scope["method"])
        if endpoint is None:
            status = HTTPStatus.METHOD_NOT_ALLOWED
            headers = {"Allow": ", ".join(sorted(self._endpoints))}
            document = Problem(status, status.description).make_document()
            response: Response = JSONResponse(document, status, headers=headers)
        else:
            scope["deid_hooks.prefix"] = endpoint.prefix
            response = await endpoint.respond(self._service, Request(scope, receive))
        await response(scope, receive, send)


async def _answer_not_found(scope: Scope, receive: Receive, send: Send) -> None:
    problem = Problem(HTTPStatus.NOT_FOUND, "there is no such endpoint")
    await JSONResponse(problem.make_document(), problem.status)(scope, receive, send)


class JSONLines(logging.Formatter):
    """Makes one line of JSON of what is logged; ``extra={"members": ...}`` is a request."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line. The traceback is left out, because it may hold values."""
        members = getattr(record, "members", None) or {"message": record.getMessage()}
        head = {"at": read_clock(), "level": record.levelname.lower(), "logger": record.name}
        return json.dumps({**head, **members})


def log_to_stderr() -> None:
    """Write everything that is logged in this process to standard error, as lines of JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JSONLines())
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    for chatty in ("httpx", "httpcore", "uvicorn.access"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


@dataclass(frozen=True)
class Listening:
    """Where to listen, with which certificate, and whose tokens to take."""

    host: str
    port: int
    tokens: Path
    certificate: Path | None = None
    key: Path | None = None
    plain: bool = False
    flywheel_site: str = ""
    flywheel_projects: tuple[str, ...] = ()
    proxies: tuple[str, ...] = ()


def serve(settings: Settings, listening: Listening) -> None:
    """Serve the log until SIGTERM or SIGINT, and finish what was accepted.

    Raises SettingsError for what can't be served.
    """
    refuse_unsafe(listening)
    log_to_stderr()
    backend = make_backend(settings.url)
    if not backend.records:
        raise SettingsError("Logging is switched off (url none:): there is nothing to serve.")
    site_log = open_log(backend, settings)
    tokens = Tokens(listening.tokens)
    if not tokens.all() and not listening.flywheel_site:
        log.warning("There are no tokens yet: deid-hooks-service token add NAME --role upload")
    users = None
    if listening.flywheel_site:
        users = FlywheelUsers(listening.flywheel_site, listening.flywheel_projects)
    service = Service(site_log, Senders(tokens, users))
    proxies = Proxies(list(map(_parse_network, listening.proxies)))
    uvicorn.run(
        Application(service, proxies),
        http=limit_connections(proxies),
        loop="deid_hooks_service.connections:Loop",
        proxy_headers=False,  # uvicorn believes any of this machine
        host=listening.host,
        port=listening.port,
        ssl_certfile=listening.certificate,
        ssl_keyfile=listening.key,
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=int(settings.deadline) + 1,
    )


def refuse_unsafe(listening: Listening) -> None:
    """Raise SettingsError for plain HTTP that leaves the machine, unless the user insists on it."""
    if (listening.certificate is None) != (listening.key is None):
        raise SettingsError("TLS needs both --tls-certificate and --tls-key.")
    for path in (listening.certificate, listening.key):
        if path is not None and not path.is_file():
            raise SettingsError(f"There is no file {path}.")
    # An access list, as on systemd's credentials, shows in the group's bits.
    if listening.key is not None and listening.key.stat().st_mode & 0o007:
        raise SettingsError(f"Anybody may read the key {listening.key}: chmod o= {listening.key}")
    if listening.certificate is None and not is_loopback(listening.host) and not listening.plain:
        raise SettingsError(
            f"Plain HTTP on {listening.host} would send originals and tokens readable over the"
            " network. Give --tls-certificate and --tls-key, or listen on 127.0.0.1 behind a proxy"
            " that does TLS; --plain-http insists."
        )
    site = urlsplit(listening.flywheel_site)
    if listening.flywheel_site and site.scheme not in ("https", "http"):
        raise SettingsError("--flywheel-site must be a URL, https://...")
    if site.scheme == "http" and not is_loopback(site.hostname or "") and not listening.plain:
        raise SettingsError(
            "Plain HTTP would send the keys of Flywheel's users readable over the network. Let"
            " --flywheel-site be https://...; --plain-http insists."
        )


def _parse_network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        raise SettingsError(
            "--proxy takes the address of a proxy, or a network: 10.1.2.3, 10.1.2.0/24"
        ) from None
