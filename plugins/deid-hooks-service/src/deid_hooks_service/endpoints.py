"""The table of endpoints: method, path, right, body and answer; routing and OpenAPI from it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field, fields
from importlib.metadata import version
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from deid_hooks.errors import UNABLE_TO_LOG, DeidHooksError
from deid_hooks.records.json_codec import describe_list, describe_object
from deid_hooks.records.model import Erasure
from deid_hooks_service import handlers
from deid_hooks_service.flywheel import ELEMENT, PACKFILE
from deid_hooks_service.forms import (
    ENTRY,
    FLAG,
    LOG_ID,
    PATIENTS,
    QUERY,
    RECORDS,
    SCHEMAS,
    SHORT_TEXT,
    STRING,
    TEXT,
    TEXTS,
    TEXTS_OR_NULL,
    AccessBody,
    Body,
    Problem,
    Schema,
    find_problem,
    make_reference,
    read_body,
)
from deid_hooks_service.service import NDJSON, Call, Service, Stream, send_stream
from deid_hooks_service.tokens import Sender

_NOBODY = Sender("", "", "")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What is asked by a method of a path, who may ask it, what is sent and what is answered.

    ``route`` is the method and the path, ``GET /health``; ``answer`` is the JSON Schema of the
    answer. ``right`` is what the sender's role must be allowed to do; without it any token will do,
    and a ``public`` endpoint takes requests without one. ``whole_log`` refuses tokens that are
    limited to projects. ``prefix`` is a sentence that users know, with which the messages of its
    problems begin.
    """

    route: str
    handler: Callable[[Call], Any]
    answer: Schema
    _: KW_ONLY
    right: str | None = None
    public: bool = False
    whole_log: bool = False
    body: Body | AccessBody | None = None
    parameters: tuple[Schema, ...] = ()
    media_type: str = "application/json"
    prefix: str = ""
    waits: bool = field(init=False)
    """Whether the handler waits for the log, and so runs in a thread."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "waits", not inspect.iscoroutinefunction(self.handler))

    async def respond(self, service: Service, request: Request) -> Response:
        """Return the answer to a request; a Problem is answered too, other errors are raised."""
        try:
            return await self._respond(service, request)
        except (Problem, DeidHooksError) as error:
            problem = find_problem(error)
            request.scope["deid_hooks.why"] = problem.cause
            return JSONResponse(
                problem.make_document(self.prefix), problem.status, headers=problem.headers
            )

    async def _respond(self, service: Service, request: Request) -> Response:
        sender = _NOBODY
        if not self.public:
            address = request.client.host if request.client else ""
            sender = await service.senders.find(request.headers.get("authorization"), address)
            request.scope["deid_hooks.sender"] = sender.name
            if self.right is not None:
                sender.require_right(self.right)
            if self.whole_log:
                sender.require_all_projects()
        deadline = service.read_deadline(request)
        body = None
        if self.body is not None:
            body = await read_body(request, self.body, deadline, service.held)
        call = Call(service, request, sender, deadline, body)
        if self.waits:
            answer = await service.ask(deadline, lambda: self.handler(call))
        else:
            answer = await self.handler(call)
        if isinstance(answer, Stream):
            return await send_stream(call, answer)
        return answer if isinstance(answer, Response) else JSONResponse(answer)


def _lines(route: str, handler: Callable[[Call], Any], line: str, **more: Any) -> Endpoint:
    """Return an endpoint that answers in lines of JSON."""
    last = 'and a last one, `{"end": true}`, or `{"problem": ...}` where it broke off.'
    answer = {**STRING, "description": f"{line}, {last}"}
    return Endpoint(route, handler, answer, media_type=NDJSON, **more)


_DONE = describe_object({"done": {"const": True}})
_RECORD = make_reference("Record")
_RECORD_LINES = 'Lines `{"record": ...}`'
_RESOLVED = [{"record": _RECORD}, {"receipt": make_reference("Receipt")}]
_ID_PARAMETER = {"name": "log_id", "in": "path", "required": True, "schema": STRING}
_AFTER = {
    "name": "after",
    "in": "query",
    "description": "The cursor of the page before; 0 for the beginning.",
    "schema": {**STRING, "pattern": "^[0-9]{1,18}$", "default": "0"},
}
_CURSOR = {**STRING, "description": "Give it as `after` to go on.", "pattern": "^[0-9]+$"}
_SENDER = {"name": STRING, "role": STRING, "projects": describe_list(STRING), "key": STRING}

ENDPOINTS = (
    Endpoint(
        "POST /logs",
        handlers.log_packfile,
        describe_object({"id": LOG_ID}),
        right="log packfiles",
        body=PACKFILE,
        prefix=UNABLE_TO_LOG,
    ),
    Endpoint(
        "POST /v1/records",
        handlers.append,
        describe_object({"log_ids": describe_list(STRING)}),
        right="log",
        body=Body({"records": RECORDS}),
    ),
    Endpoint(
        "GET /v1/records",
        handlers.read_records,
        describe_object(
            {"records": describe_list(_RECORD), "seals": describe_list(STRING), "cursor": _CURSOR}
        ),
        right="read the whole log",
        whole_log=True,
        parameters=(_AFTER,),
    ),
    Endpoint(
        "GET /v1/entries/{log_id}",
        handlers.resolve,
        {"anyOf": list(map(describe_object, _RESOLVED))},
        right="resolve",
        parameters=(_ID_PARAMETER,),
    ),
    Endpoint(
        "GET /v1/receipts/{log_id}",
        handlers.read_receipt,
        {"anyOf": list(map(describe_object, _RESOLVED))},
        right="resolve",
        parameters=(_ID_PARAMETER,),
    ),
    _lines(
        "POST /v1/entries",
        handlers.read_entries,
        _RECORD_LINES,
        right="read entries",
        body=Body({"log_ids": TEXTS}, {"reason": SHORT_TEXT}),
    ),
    _lines(
        "POST /v1/search",
        handlers.search,
        'Lines `{"log_id": ...}`',
        right="search",
        body=Body({"query": QUERY}, {"reason": SHORT_TEXT}),
    ),
    Endpoint(
        "POST /v1/equal",
        handlers.find_equal,
        describe_object({"log_id": TEXT}),
        right="log",
        body=Body({"record": ENTRY}),
    ),
    _lines(
        "POST /v1/uploads",
        handlers.read_uploads,
        _RECORD_LINES,
        right="follow uploads",
        body=Body({}, {"log_ids": TEXTS_OR_NULL}),
    ),
    Endpoint(
        "POST /v1/blocks",
        handlers.block,
        _DONE,
        right="block patients",
        body=Body(
            {"patients": PATIENTS, "project": SHORT_TEXT, "reason": SHORT_TEXT, "lift": FLAG}
        ),
    ),
    Endpoint(
        "POST /v1/labels",
        handlers.find_label,
        describe_object({"label": TEXT}),
        right="ask for labels",
        body=Body({"project": SHORT_TEXT, "patient_id": SHORT_TEXT, "issuer": SHORT_TEXT}),
    ),
    Endpoint(
        "POST /v1/keys",
        handlers.derive_key,
        describe_object({"key": {"type": "string", "pattern": "^[0-9a-f]{64}$"}}),
        right="ask for labels",
        body=Body({"project": SHORT_TEXT}),
    ),
    _lines(
        "GET /v1/trail",
        handlers.read_trail,
        _RECORD_LINES,
        right="read who accessed what",
        whole_log=True,
    ),
    Endpoint("POST /v1/access", handlers.add_access, _DONE, right="search", body=AccessBody()),
    Endpoint(
        "POST /v1/erasures",
        handlers.erase,
        _DONE,
        right="erase entries",
        body=Body({"log_ids": TEXTS, **{each.name: SHORT_TEXT for each in fields(Erasure)}}),
    ),
    Endpoint("PUT /v1/store", handlers.create, _DONE, right="make the store"),
    Endpoint("GET /v1/check", handlers.check, describe_object(_SENDER)),
    Endpoint(
        "GET /health",
        handlers.say_alive,
        describe_object({"alive": {"const": True}}),
        public=True,
    ),
    Endpoint("GET /ready", handlers.say_ready, _DONE, public=True),
    Endpoint("GET /metrics", handlers.show_metrics, STRING, media_type="text/plain"),
)

_DESCRIPTION = """\
The de-id log of a site. An id that was answered is durable and resolves.

A request may say within how many seconds it wants its answer, with the header
`Deid-Hooks-Deadline`: a decimal number from 1 to 300, which counts for the nearest of
these. Without it the settings say.
"""

_PROBLEMS = {
    400: "Not JSON",
    401: "No token, or one that is not known",
    403: "The token may not do this",
    404: "There is nothing of that name, or nothing that this token may know of",
    408: "The body did not arrive in time",
    409: "What the log holds is against it: `kind` says what",
    413: "Too large",
    415: "Not application/json",
    422: "JSON of another form",
    429: "Too many wrong tokens from this address, or too many labels for this token",
    500: "The service failed",
    503: "The log gave no answer in time, or can't be read or written",
}


def describe_endpoints() -> dict[str, Any]:
    """Return the OpenAPI document: exactly what each endpoint takes and gives."""
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in ENDPOINTS:
        method, path = endpoint.route.split(" ")
        paths.setdefault(path, {})[method.lower()] = _describe(endpoint)
    flywheel = {
        "type": "apiKey",
        "in": "header",
        "name": "Authorization",
        "description": "`scitran-user HOST:PORT:KEY`, as Flywheel's clients send it.",
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "deid-hooks: the de-id log of a site",
            "description": _DESCRIPTION,
            "version": version("deid-hooks-service"),
        },
        "paths": paths,
        "components": {
            "schemas": {**SCHEMAS, "Element": ELEMENT},
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "flywheel": flywheel,
            },
        },
    }


def _describe(endpoint: Endpoint) -> dict[str, Any]:
    problem = {"application/json": {"schema": make_reference("Problem")}}
    good = {endpoint.media_type: {"schema": endpoint.answer}}
    summary, _, description = (inspect.getdoc(endpoint.handler) or "").partition("\n\n")
    found: dict[str, Any] = {
        "summary": summary.rstrip("."),
        "operationId": endpoint.handler.__name__,
        "responses": {
            "200": {"description": "Done", "content": good},
            **{str(n): {"description": what, "content": problem} for n, what in _PROBLEMS.items()},
        },
    }
    if description:
        found["description"] = description
    if endpoint.parameters:
        found["parameters"] = list(endpoint.parameters)
    if endpoint.body is not None:
        content: Mapping[str, Any] = {"application/json": {"schema": endpoint.body.schema}}
        found["requestBody"] = {"required": True, "content": content}
    if not endpoint.public:
        found["security"] = [{"token": []}, {"flywheel": []}]
    return found
