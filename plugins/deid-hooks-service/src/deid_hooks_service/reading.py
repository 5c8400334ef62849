"""What is read. Whatever may identify a patient is in the access trail before it is answered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from deid_hooks.backends.contract import Receipt
from deid_hooks.query.conditions import Query
from deid_hooks.query.json_codec import decode_query, encode_query
from deid_hooks.records.json_codec import decode_record, encode_record, encode_text
from deid_hooks.records.model import (
    AccessRow,
    Block,
    Entry,
    Record,
    Tombstone,
    UploadEvent,
    parse_log_id,
)
from deid_hooks_service import schemas
from deid_hooks_service.bodies import json_of, members, text, texts
from deid_hooks_service.problems import not_found, wrong
from deid_hooks_service.senders import Sender
from deid_hooks_service.service import Service
from deid_hooks_service.streams import streamed

_MOST_IDS = 10_000
_PAGE = 500
_ENTRIES_AT_ONCE = 100
_LONGEST = 10_000


def routes(service: Service) -> APIRouter:
    """The endpoints that read."""
    router = APIRouter()
    backend = service.recorder.backend

    @router.get(
        "/v1/entries/{log_id}",
        summary="Resolve: what the store holds under this id",
        response_model=None,
        responses=schemas.answers(schemas.RESOLVED),
    )
    async def resolve(request: Request, log_id: str) -> Response:
        """The entry for who may read it; else its keyed digest, which the service vouches for."""
        sender = await service.sender(request, "resolve")
        deadline = service.deadline(request)
        log_id = parse_log_id(log_id) or log_id

        def found() -> dict[str, Any]:
            there = backend.resolve(log_id, deadline)
            if there is None or (isinstance(there, Entry) and not sender.reaches(there.project)):
                raise not_found(
                    f"the log has no entry {log_id}" if parse_log_id(log_id) else _NO_ID
                )
            if isinstance(there, Entry) and sender.may("read entries"):
                service.record_look(sender, deadline, "show", log_id, [log_id])
                return {"record": encode_record(there)}
            if isinstance(there, Tombstone):
                return {"record": _shown(there, sender)}
            service.within(deadline).resolve(log_id)  # whole, or LogUnavailable
            return {"sealed": sealed(there)}

        return JSONResponse(await service.ask(deadline, found))

    @router.post(
        "/v1/entries",
        summary="Read entries",
        response_model=None,
        responses=schemas.stream(schemas.RECORD_LINE),
        openapi_extra=schemas.body(schemas.WANTED),
    )
    async def entries(request: Request) -> Response:
        sender = await service.sender(request, "read entries")
        deadline = service.deadline(request)
        body = members(await json_of(request, deadline), ["log_ids"], ["reason"])
        wanted, reason = texts(body, "log_ids", _MOST_IDS), text(body, "reason")

        def shown(page: list[Entry], first: bool) -> list[dict[str, Any]]:
            mine = [entry for entry in page if sender.reaches(entry.project)]
            ids = [entry.log_id for entry in mine]
            asked = " ".join(i for i in wanted if parse_log_id(i)) if first else ""
            service.record_look(sender, deadline, "show", asked, ids, reason)
            return [{"record": encode_record(entry)} for entry in mine]

        rows = iter(backend.entries(wanted, deadline))
        return await streamed(service, deadline, rows, _ENTRIES_AT_ONCE, shown)

    @router.post(
        "/v1/search",
        summary="Search: the ids of the entries that match, oldest first",
        response_model=None,
        responses=schemas.stream(schemas.ID_LINE),
        openapi_extra=schemas.body(schemas.SEARCH),
    )
    async def search(request: Request) -> Response:
        sender = await service.sender(request, "search")
        deadline = service.deadline(request)
        query, reason = _query(await json_of(request, deadline))
        asked = json.dumps(encode_query(query)["terms"])

        def shown(page: list[str], first: bool) -> list[dict[str, Any]]:
            if sender.projects:
                within = {
                    e.log_id for e in backend.entries(page, deadline) if sender.reaches(e.project)
                }
                page = [log_id for log_id in page if log_id in within]
            service.record_look(sender, deadline, "search", asked, page, reason)
            return [{"log_id": encode_text(log_id)} for log_id in page]

        rows = iter(backend.search(query, deadline))
        return await streamed(service, deadline, rows, _PAGE, shown)

    @router.post(
        "/v1/standing",
        summary="Find the oldest entry of exactly this content",
        response_model=None,
        responses=schemas.answers(schemas.STANDING),
        openapi_extra=schemas.body(schemas.DIGEST),
    )
    async def standing(request: Request) -> Response:
        sender = await service.sender(request, "find by content")
        deadline = service.deadline(request)
        digest = text(members(await json_of(request, deadline), ["digest"]), "digest")

        def found() -> str | None:
            log_id = backend.with_digest(digest, deadline)
            if log_id is not None and sender.projects:
                [*there] = backend.entries([log_id], deadline)
                return log_id if all(sender.reaches(entry.project) for entry in there) else None
            return log_id

        log_id = await service.ask(deadline, found)
        if log_id is None:
            raise not_found("the log has no entry of this content")
        return JSONResponse({"log_id": encode_text(log_id)})

    @router.post(
        "/v1/uploads",
        summary="Upload events, oldest first",
        response_model=None,
        responses=schemas.stream(schemas.RECORD_LINE),
        openapi_extra=schemas.body(schemas.UPLOADS),
    )
    async def uploads(request: Request) -> Response:
        """Of these entries; without ``log_ids`` of all, which uploaders may not ask for."""
        sender = await service.sender(request, "follow uploads")
        deadline = service.deadline(request)
        body = members(await json_of(request, deadline), [], ["log_ids"])
        wanted = None if body.get("log_ids") is None else texts(body, "log_ids", _MOST_IDS)
        if wanted is None:
            sender.must_be_allowed("follow all uploads")

        def shown(page: list[UploadEvent], first: bool) -> list[dict[str, Any]]:
            if sender.projects:
                ids = {event.log_id for event in page}
                within = {
                    e.log_id for e in backend.entries(ids, deadline) if sender.reaches(e.project)
                }
                page = [event for event in page if event.log_id in within]
            return [{"record": encode_record(event)} for event in page]

        rows = iter(backend.uploads(wanted, deadline))
        return await streamed(service, deadline, rows, _PAGE, shown)

    @router.post(
        "/v1/blocks",
        summary="Blocks of patients, by their keyed digests, oldest first",
        response_model=None,
        responses=schemas.answers(schemas.BLOCKS),
        openapi_extra=schemas.body(schemas.PATIENTS),
    )
    async def blocks(request: Request) -> Response:
        sender = await service.sender(request, "ask for blocks")
        deadline = service.deadline(request)
        patients = texts(
            members(await json_of(request, deadline), ["patients"]), "patients", _MOST_IDS
        )
        found = await service.ask(deadline, lambda: list(backend.blocks(patients, deadline)))
        mine = [b for b in found if not b.project or sender.reaches(b.project)]
        return JSONResponse({"records": [_shown(block, sender) for block in mine]})

    @router.post(
        "/v1/subjects",
        summary="The label of a patient within a project, by the keyed digest",
        response_model=None,
        responses=schemas.answers(schemas.LABEL),
        openapi_extra=schemas.body(schemas.SUBJECT),
    )
    async def subject(request: Request) -> Response:
        sender = await service.sender(request, "find by content")
        deadline = service.deadline(request)
        body = members(await json_of(request, deadline), ["project", "patient"])
        project, patient = text(body, "project"), text(body, "patient")
        sender.must_reach(project)
        label = await service.ask(deadline, lambda: backend.subject(project, patient, deadline))
        if label is None:
            raise not_found("the log has no label for it")
        return JSONResponse({"label": encode_text(label)})

    @router.get(
        "/v1/records",
        summary="The records of the log after a cursor, in its order",
        response_model=None,
        responses=schemas.answers(schemas.PAGE),
        openapi_extra={"parameters": [schemas.AFTER]},
    )
    async def read(request: Request) -> Response:
        sender = await service.sender(request, "read the whole log")
        sender.must_reach_everything()
        deadline = service.deadline(request)
        after = _cursor(request)

        def found() -> dict[str, Any]:
            page = backend.read(after, deadline)
            if any(map(_identifies, page.records)):
                ids = [record.log_id for record in page.records if isinstance(record, Entry)]
                service.record_look(sender, deadline, "read", "", ids)
            return {"records": [encode_record(r) for r in page.records], "cursor": str(page.cursor)}

        return JSONResponse(await service.ask(deadline, found))

    @router.get(
        "/v1/trail",
        summary="The access trail, from its beginning",
        response_model=None,
        responses=schemas.stream(schemas.RECORD_LINE),
    )
    async def trail(request: Request) -> Response:
        sender = await service.sender(request, "read the access trail")
        sender.must_reach_everything()
        deadline = service.deadline(request)

        def rows() -> Iterator[AccessRow]:
            head = backend.trail_head(deadline)  # not what comes while it is read
            for row in backend.trail(deadline) if head else ():
                yield row
                if row.seal == head:
                    return

        def shown(page: list[AccessRow], first: bool) -> list[dict[str, Any]]:
            if any(map(_identifies, page)):
                service.record_look(sender, deadline, "access", "", [])
            return [{"record": encode_record(row)} for row in page]

        return await streamed(service, deadline, rows(), _PAGE, shown)

    @router.get(
        "/v1/trail/head",
        summary="The seal of the last row of the access trail, and who writes rows for this token",
        response_model=None,
        responses=schemas.answers(schemas.HEAD),
    )
    async def head(request: Request) -> Response:
        sender = await service.sender(request)
        deadline = service.deadline(request)
        seal = await service.ask(deadline, lambda: backend.trail_head(deadline))
        return JSONResponse(
            {"seal": encode_text(seal), "kept_by": "holder" if sender.keeps_trail else "service"}
        )

    @router.post(
        "/v1/looks",
        summary="Add a row to the access trail: why one looks, in the words of who looks",
        response_model=None,
        responses=schemas.answers(schemas.DONE),
        openapi_extra=schemas.body(schemas.LOOK),
    )
    async def look(request: Request) -> Response:
        """The service knows who looks and from where; what the sender says stands beside."""
        sender = await service.sender(request, "search")
        deadline = service.deadline(request)
        row = _row(await json_of(request, deadline))
        where = f"{sender.address} ({row.who} on {row.where})"

        def record() -> None:
            service.record_look(
                sender, deadline, row.action, row.asked, row.log_ids, row.reason, where
            )

        await service.ask(deadline, record)
        return JSONResponse({"done": True})

    return router


_NO_ID = "that is no log id: 32 hex digits, with or without dashes"


def sealed(entry: Entry | Receipt) -> dict[str, Any]:
    """An entry for who may not read it."""
    return {
        "log_id": entry.log_id,
        "project": encode_text(entry.project),
        "digest": entry.digest,
        "key": entry.key,
        "patients": list(entry.patients),
        "deid_uids": [encode_text(uid) for uid in entry.deid_uids],
    }


def _query(body: Any) -> tuple[Query, str]:
    members(body, ["query"], ["reason"])
    try:
        return decode_query(body["query"]), text(body, "reason")
    except ValueError:
        raise wrong("query is no query of the log") from None


def _cursor(request: Request) -> int:
    text = request.query_params.get("after", "0")
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise wrong("after must be the cursor of a page, or 0")
    return int(text)


def _row(body: Any) -> AccessRow:
    try:
        row = decode_record(body)
    except ValueError:
        row = None
    if not isinstance(row, AccessRow) or parse_log_id(row.id) != row.id.upper():
        raise wrong("this is no row of the access trail")
    texts = (row.at, row.who, row.where, row.action, row.asked, row.reason, *row.log_ids)
    if max(map(len, texts)) > _LONGEST or len(row.log_ids) > _MOST_IDS:
        raise wrong("this row of the access trail is too long")
    return row


def _shown(record: Block | Tombstone, sender: Sender) -> dict[str, Any]:
    """A record with what people wrote about it only for who may read."""
    document = encode_record(record)
    if not sender.may("read entries"):
        document |= {"who": "", "reason": ""}
    return document


def _identifies(record: Record) -> bool:
    """Whether reading it is a look that the access trail must hold.

    Rows about reading records say nothing of a patient: they would have no end otherwise.
    """
    if isinstance(record, AccessRow):
        return bool(record.asked or record.reason)
    return isinstance(record, Entry | Block | Tombstone)
