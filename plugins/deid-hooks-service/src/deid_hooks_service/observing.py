"""What operators see: metrics, and a line of JSON for each request, without a patient's values."""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deid_hooks.errors import UNABLE_TO_LOG
from deid_hooks.records.model import read_clock
from deid_hooks_service.problems import problem_of

log = logging.getLogger("deid_hooks_service")

_KEEP_NOTHING = (b"cache-control", b"no-store")
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Counters for Prometheus. Labels are routes, statuses and roles, nothing that was sent."""

    def __init__(self, waiting: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        name = "deid_hooks_service"
        self.requests = Counter(
            f"{name}_requests", "Requests answered", ["route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            f"{name}_seconds",
            "Seconds from request to answer",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        gauge = Gauge(
            f"{name}_waiting", "Requests that wait for a transaction", registry=self.registry
        )
        gauge.set_function(waiting)

    def text(self) -> bytes:
        """All of it in the text format of Prometheus."""
        return generate_latest(self.registry)


class Observed:
    """Around the application: measures, logs, and answers for what nobody else caught."""

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        direct: Mapping[tuple[str, str], Callable[[Request], Awaitable[Response]]],
    ) -> None:
        """``direct`` has the endpoints that log, by method and path, answered without ``app``."""
        self._app = app
        self._direct = direct
        self._metrics = metrics
        self._children: dict[tuple[str, int], tuple[Any, Any]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status = 0

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                # A proxy that kept an answer would vouch for an entry that is there no more.
                message["headers"] = [*message.get("headers", ()), _KEEP_NOTHING]
            await send(message)

        endpoint = self._direct.get((scope["method"], scope["path"]))
        try:
            if endpoint is None:
                await self._app(scope, receive, noting)
            else:
                response = await endpoint(Request(scope, receive))
                await response(scope, receive, noting)
        except Exception as error:  # noqa: BLE001 - its text may hold values: only its place is told
            frame = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(frame.filename).name}:{frame.lineno}"
            log.error("", extra={"said": {"error": type(error).__name__, "at": place}})
            if status:
                raise ConnectionResetError from None  # what has begun can't be taken back
            problem = problem_of(error)
            document = problem.document(UNABLE_TO_LOG if endpoint is not None else "")
            await JSONResponse(document, problem.status)(scope, receive, noting)
        finally:
            self._note(scope, status, time.perf_counter() - began)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        # The route, not the path: a path may hold anything.
        known = (scope["method"], scope["path"]) in self._direct
        route = scope["path"] if known else getattr(scope.get("route"), "path", "") or "none"
        children = self._children.get((route, status))
        if children is None:
            children = (
                self._metrics.requests.labels(route, status),
                self._metrics.seconds.labels(route),
            )
            self._children[route, status] = children
        children[0].inc()
        children[1].observe(seconds)
        if log.isEnabledFor(logging.INFO):
            said = {
                "method": scope["method"],
                "route": route,
                "status": status,
                "ms": round(seconds * 1000, 2),
                "sender": scope.get("deid_hooks.sender", ""),
                "from": (scope.get("client") or ("",))[0],
            }
            if why := scope.get("deid_hooks.why"):
                said["why"] = why
            log.info("", extra={"said": said})


class JSONLines(logging.Formatter):
    """A log record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        said = getattr(record, "said", None) or {"message": record.getMessage()}
        head = {"at": read_clock(), "level": record.levelname.lower(), "logger": record.name}
        return json.dumps({**head, **said})


def log_to_stderr() -> None:
    """Everything that is logged in this process, as lines of JSON on standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JSONLines())
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    for chatty in ("httpx", "httpcore", "uvicorn.access"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
