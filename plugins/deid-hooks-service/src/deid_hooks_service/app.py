"""The application: every endpoint, what is answered when something is wrong, and its OpenAPI."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Match
from starlette.types import ASGIApp

from deid_hooks.deadline import Deadline
from deid_hooks.errors import DeidHooksError
from deid_hooks_service import reading, schemas, writing
from deid_hooks_service.observing import Observed
from deid_hooks_service.problems import Problem, problem_of, wrong
from deid_hooks_service.service import Service

_READY_SECONDS = 1.0
"""How long one proof that the store takes a write is worth."""


def application(service: Service) -> ASGIApp:
    """The ASGI application that serves this log."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await service.close(service.recorder.seconds)

    app = FastAPI(
        title="deid-hooks: the de-id log of a site",
        version=version("deid-hooks-service"),
        docs_url=None,  # its pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.include_router(writing.routes(service))
    app.include_router(reading.routes(service))
    _add_operations(app, service)
    for kind in (Problem, DeidHooksError):
        app.add_exception_handler(kind, _answer)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(HTTPException, _answer_http)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    logs = writing.logs_of(service)
    # Past FastAPI, which costs a post a sixth of its time. A base URL with a slash at its
    # end gives the second.
    direct = {("POST", "/logs"): logs, ("POST", "//logs"): logs}
    return Observed(app, service.metrics, direct)


def _add_operations(app: FastAPI, service: Service) -> None:
    proof = asyncio.Lock()
    proven: list[tuple[float, Exception | None]] = [(-_READY_SECONDS, None)]

    @app.get(
        "/health", summary="Alive", response_model=None, responses=schemas.answers(schemas.ALIVE)
    )
    async def health() -> Response:
        return JSONResponse({"alive": True})

    @app.get(
        "/ready",
        summary="Whether the log takes a write now",
        response_model=None,
        responses=schemas.answers(schemas.DONE),
    )
    async def ready() -> Response:
        """Not kept from anyone, so the store is asked once a second at the most."""
        async with proof:
            at, error = proven[0]
            if time.monotonic() - at >= _READY_SECONDS:
                error = None
                try:
                    deadline = Deadline(service.recorder.seconds)
                    await service.ask(deadline, lambda: service.recorder.backend.check(deadline))
                except DeidHooksError as failure:
                    error = failure
                proven[0] = time.monotonic(), error
        if error is not None:
            problem = problem_of(error)
            # Where the log is, its administrators know.
            return JSONResponse(
                Problem(problem.status, "the log can't be written", kind=problem.kind).document(),
                problem.status,
            )
        return JSONResponse({"done": True})

    @app.get(
        "/v1/check",
        summary="Whether the log takes a write now, and who asks",
        response_model=None,
        responses=schemas.answers(schemas.ME),
    )
    async def check(request: Request) -> Response:
        """``key`` names the site secret that the log is served with."""
        sender = await service.sender(request)
        deadline = service.deadline(request)
        await service.ask(deadline, lambda: service.recorder.backend.check(deadline))
        return JSONResponse(
            {
                "name": sender.name,
                "role": sender.role,
                "projects": list(sender.projects),
                "key": service.recorder.secret.name,
            }
        )

    @app.get(
        "/metrics",
        summary="Metrics for Prometheus",
        response_model=None,
        responses=schemas.answers({"type": "string"}, "text/plain"),
    )
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")


async def _answer(request: Request, error: Exception) -> Response:
    problem = problem_of(error)
    request.scope["deid_hooks.why"] = problem.cause
    return JSONResponse(problem.document(), problem.status, headers=problem.headers)


async def _answer_invalid(request: Request, error: Exception) -> Response:
    # FastAPI's own answer would repeat what was sent.
    return await _answer(request, wrong("the request is not of the form that this endpoint takes"))


async def _answer_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    problem = Problem(status, "there is no such endpoint" if status == 404 else status.description)
    headers = {**problem.headers, **(error.headers or {})}
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(sorted(_methods(request)))
    return JSONResponse(problem.document(), status, headers=headers)


def _methods(request: Request) -> set[str]:
    """What this path may be asked with, by all of its routes together."""
    return {
        method
        for route in request.app.routes
        if route.matches(request.scope)[0] != Match.NONE
        for method in getattr(route, "methods", None) or ()
    }


def _openapi(app: FastAPI) -> dict[str, Any]:
    from fastapi.openapi.utils import get_openapi

    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            description=schemas.DESCRIPTION,
            routes=app.routes,
        )
        components = document.setdefault("components", {})
        components["schemas"] = (
            schemas.SCHEMAS
        )  # those of FastAPI describe answers that it replaces
        components["securitySchemes"] = {
            "token": {"type": "http", "scheme": "bearer"},
            "flywheel": {
                "type": "apiKey",
                "in": "header",
                "name": "Authorization",
                "description": "`scitran-user HOST:PORT:KEY`, as Flywheel's clients send it.",
            },
        }
        for path, methods in document["paths"].items():
            for operation in methods.values():
                if path.startswith(("/v1", "/logs")):
                    operation["security"] = [{"token": []}, {"flywheel": []}]
        app.openapi_schema = document
    return app.openapi_schema
