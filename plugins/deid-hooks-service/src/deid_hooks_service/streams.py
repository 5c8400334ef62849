"""Answers of any length: lines of JSON (NDJSON), and a last one that says it is whole."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import islice
from typing import Any, TypeVar

from starlette.responses import Response, StreamingResponse

from deid_hooks.deadline import Deadline
from deid_hooks_service.problems import problem_of
from deid_hooks_service.service import Service

T = TypeVar("T")

MEDIA_TYPE = "application/x-ndjson"


async def streamed(
    service: Service,
    deadline: Deadline,
    rows: Iterator[T],
    page: int,
    shown: Callable[[list[T], bool], list[dict[str, Any]]],
) -> Response:
    """The rows, a page at a time, each within the seconds of the deadline.

    ``shown`` makes what is answered of a page and of whether it is the first; it runs before any
    of the page leaves, and in a thread. What goes wrong in the first page is a Problem; later it is
    the last line, ``{"problem": ...}``, in place of ``{"end": true}``.
    """
    state = {"first": True}

    def next_page() -> tuple[list[dict[str, Any]], bool]:
        found = list(islice(rows, page))
        first, state["first"] = state["first"], False
        return shown(found, first) if found or first else [], len(found) == page

    async def ask() -> tuple[list[dict[str, Any]], bool]:
        return await service.ask(Deadline(deadline.seconds), next_page)

    begin = await service.ask(deadline, next_page)

    async def lines() -> AsyncIterator[bytes]:
        documents, more = begin
        try:
            while True:
                if documents:
                    yield b"".join(_line(document) for document in documents)
                if not more:
                    break
                documents, more = await ask()
            yield _line({"end": True})
        except Exception as error:  # noqa: BLE001 - told as the last line, without its text
            yield _line({"problem": problem_of(error).document()})

    return StreamingResponse(lines(), media_type=MEDIA_TYPE)


def _line(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode("ascii") + b"\n"
