"""What is written: the Flywheel CLI's posts, records in batches, erasures, the store itself."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from deid_hooks.deadline import Deadline
from deid_hooks.errors import UNABLE_TO_LOG, DeidHooksError, NotAllowed
from deid_hooks.records.json_codec import decode_record
from deid_hooks.records.keys import compute_content_digest
from deid_hooks.records.model import (
    OUTCOMES,
    AccessRow,
    Block,
    Entry,
    Erasure,
    Record,
    UploadEvent,
)
from deid_hooks_service import schemas
from deid_hooks_service.bodies import json_of, members, text, texts
from deid_hooks_service.flywheel import records_of
from deid_hooks_service.problems import Problem, problem_of, wrong
from deid_hooks_service.senders import Sender
from deid_hooks_service.service import Service

MOST_RECORDS = 10_000
_LOG_ID = re.compile("[0-9A-F]{32}")
_DIGEST = re.compile("[0-9A-Za-z]{1,64}")
_BY_UPLOADERS = ("cleared", *OUTCOMES)


def logs_of(service: Service) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint that every packfile of a site waits for."""

    async def post_logs(request: Request) -> Response:
        """Log one packfile, as the Flywheel CLI does. The id is durable and resolves."""
        try:
            sender = await service.sender(request, "log")
            deadline = service.deadline(request)
            body = await json_of(request, deadline)
            project = _only_project(sender)
            records = records_of(body, project, sender.name, service.recorder.secret)
            [log_id] = await service.committer.write(records, deadline, standing=True)
        except (Problem, DeidHooksError) as error:
            problem = problem_of(error)
            request.scope["deid_hooks.why"] = problem.cause
            return JSONResponse(
                problem.document(UNABLE_TO_LOG), problem.status, headers=problem.headers
            )
        return JSONResponse({"id": log_id})

    return post_logs


def routes(service: Service) -> APIRouter:
    """The endpoints that write."""
    router = APIRouter()
    router.post(
        "/logs",
        summary="Log one packfile, as the Flywheel CLI does",
        response_model=None,
        responses=schemas.answers(schemas.LOGGED),
        openapi_extra=schemas.body(schemas.FLYWHEEL),
    )(logs_of(service))

    @router.post(
        "/v1/records",
        summary="Append records, all or none",
        response_model=None,
        responses=schemas.answers(schemas.APPENDED),
        openapi_extra=schemas.body(schemas.RECORDS),
    )
    async def append(request: Request) -> Response:
        """Durable when it is answered. Repeat it with the same ids if no answer came."""
        sender = await service.sender(request, "log")
        deadline = service.deadline(request)
        records = _records(await json_of(request, deadline))
        if sender.role != "admin":
            _must_be_an_uploaders(records, service)
        if sender.projects:
            await _must_reach(sender, records, service, deadline)
        log_ids = await service.committer.write(records, deadline)
        return JSONResponse({"log_ids": log_ids})

    @router.post(
        "/v1/erasures",
        summary="Erase entries, leaving tombstones",
        response_model=None,
        responses=schemas.answers(schemas.DONE),
        openapi_extra=schemas.body(schemas.ERASURE),
    )
    async def erase(request: Request) -> Response:
        sender = await service.sender(request, "erase entries")
        deadline = service.deadline(request)
        body = members(await json_of(request, deadline), ["log_ids", "at", "who", "reason"])
        log_ids = texts(body, "log_ids", MOST_RECORDS)
        at, who, reason = (text(body, name) for name in ("at", "who", "reason"))
        if not sender.keeps_trail:
            who = f"{sender.name} ({who})" if who else sender.name
        log = service.recorder.backend
        if sender.projects:
            found = await service.ask(deadline, lambda: list(log.entries(log_ids, deadline)))
            for entry in found:
                sender.must_reach(entry.project)
        erasure = Erasure(at, who, reason)
        await service.ask(deadline, lambda: log.erase(log_ids, erasure, deadline))
        return JSONResponse({"done": True})

    @router.put(
        "/v1/store",
        summary="Make the store of the log if there is none",
        response_model=None,
        responses=schemas.answers(schemas.DONE),
    )
    async def create(request: Request) -> Response:
        await service.sender(request, "make the store")
        deadline = service.deadline(request)
        await service.ask(deadline, lambda: service.recorder.backend.create(deadline))
        return JSONResponse({"done": True})

    return router


def _only_project(sender: Sender) -> str:
    """The project of what a Flywheel client logs, which names none itself."""
    if len(sender.projects) > 1:
        raise NotAllowed(
            f"the token {sender.name} is held to several projects, and this request names none",
            "use a token that is held to one",
        )
    return sender.projects[0] if sender.projects else ""


def _records(body: Any) -> list[Record]:
    rows = members(body, ["records"])["records"]
    if not isinstance(rows, list) or len(rows) > MOST_RECORDS:
        raise wrong(f"records must be a list of at most {MOST_RECORDS}")
    try:
        records = [decode_record(row) for row in rows]
    except ValueError:
        raise wrong("records holds what is no record of the log") from None
    if not all(map(_is_sound, records)):
        raise wrong("records holds one whose id, or the digest of a patient, is none")
    return records


def _is_sound(record: Record) -> bool:
    """Whether its ids are ids, which messages name, and its patients digests."""
    if isinstance(record, AccessRow | Block):
        return bool(_LOG_ID.fullmatch(record.id.upper()))
    patients = record.patients if isinstance(record, Entry) else ()
    return bool(_LOG_ID.fullmatch(record.log_id)) and all(map(_DIGEST.fullmatch, patients))


def _must_be_an_uploaders(records: Sequence[Record], service: Service) -> None:
    """Uploaders write entries, sound ones, and what became of them; nothing else."""
    secret = service.recorder.secret
    for record in records:
        if isinstance(record, Entry):
            if record.key != secret.name:
                raise _against(
                    "the log was begun with another site secret than the one it is written with",
                    "copy the secret file from the machine that began the log",
                )
            if record.digest != compute_content_digest(record, secret):
                raise _against("an entry is not what its digest says", "make it again")
        elif not isinstance(record, UploadEvent) or record.event not in _BY_UPLOADERS:
            raise NotAllowed("the role upload may log entries and what became of them only")


def _against(cause: str, remedy: str) -> Problem:
    return Problem(HTTPStatus.CONFLICT, cause, remedy, kind="LogUnavailable")


async def _must_reach(
    sender: Sender, records: Sequence[Record], service: Service, deadline: Deadline
) -> None:
    """A token that is held to projects writes to these only."""
    projects = {r.log_id: r.project for r in records if isinstance(r, Entry)}
    others = {getattr(r, "log_id", "") for r in records if not isinstance(r, Entry)} - set(projects)
    if others:
        log = service.recorder.backend
        found = await service.ask(deadline, lambda: list(log.entries(others, deadline)))
        if len(found) < len(others):
            raise Problem(
                HTTPStatus.FORBIDDEN, "one of the entries is not there", kind="NotAllowed"
            )
        projects |= {entry.log_id: entry.project for entry in found}
    for project in projects.values():
        sender.must_reach(project)
