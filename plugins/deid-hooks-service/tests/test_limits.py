"""What one request may be, and that nobody is served who has gone."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from running import Site
from starlette.types import Scope

from deid_hooks.deadline import Deadline
from deid_hooks.errors import LogUnavailable
from deid_hooks.query.json_codec import encode_query
from deid_hooks.query.parser import parse_terms
from deid_hooks_service import application
from deid_hooks_service.forms import Held, Problem, _count_values
from deid_hooks_service.service import Call, Service, Stream, send_stream


def ask(site: Site, *terms: str) -> int:
    query = {"query": encode_query(parse_terms(terms))}
    return site.client(site.token("reidentify")).post("/v1/search", json=query).status_code


def test_a_question_has_a_size_and_a_number_of_conditions(site: Site) -> None:
    assert ask(site, "PatientID=" + "x" * 60_000) == 200
    assert ask(site, "PatientID=" + "x" * 70_000) == 413
    assert ask(site, *(f"PatientID={n}" for n in range(1_000))) == 200
    assert ask(site, *(f"PatientID={n}" for n in range(1_001))) == 422


@pytest.mark.parametrize(
    "body",
    [
        b'{"records":[' + b"[]," * 1_000_000 + b"[]]}",
        b'{"records":["' + b'","' * 2_000_000 + b'"]}',
    ],
    ids=["lists", "texts"],
)
def test_a_body_has_a_number_of_values(site: Site, body: bytes) -> None:
    client = site.client(site.token("upload"))
    answer = client.post("/v1/records", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    assert "1,000,000 values" in answer.json()["cause"]


def test_what_stands_within_a_text_is_no_value() -> None:
    plain = {"a": ["b,c", 1, 2], "d": {"e": 'x"[[[,\\'}}
    assert _count_values(json.dumps(plain).encode()) == 6


def test_bodies_at_once_have_a_size_by_sender_and_in_all() -> None:
    held = Held()
    scopes: list[Scope] = [{"deid_hooks.sender": f"ws{number}"} for number in range(3)]
    held.take(scopes[0], 60 << 20)
    with pytest.raises(Problem, match="too many large requests"):
        held.take(scopes[0], 5 << 20)
    held.release(scopes[0])
    for scope in scopes[:2]:
        held.take(scope, 64 << 20)
    with pytest.raises(Problem, match="too many large requests"):
        held.take(scopes[2], 1 << 20)
    for scope in scopes:
        held.release(scope)
    held.take(scopes[2], 64 << 20)


class Search:
    """A search of a store that takes each step within the seconds of the deadline, for ever."""

    def __init__(self, seconds: float) -> None:
        self.deadline = Deadline(seconds)
        self.ended = False

    def rows(self) -> Iterator[Any]:
        try:
            while not Deadline(self.deadline.seconds).passed:
                time.sleep(0.01)
            raise LogUnavailable("no answer")
            yield
        finally:
            self.ended = True


def send(search: Search, gone: bool) -> None:
    """Send what a search finds to somebody who is there, or gone."""

    async def is_disconnected() -> bool:
        return gone

    async def run() -> None:
        service = SimpleNamespace(_limiters={})
        service.ask = lambda *words: Service.ask(cast(Service, service), *words)
        request = SimpleNamespace(is_disconnected=is_disconnected)
        made = SimpleNamespace(service=service, request=request, deadline=search.deadline)
        await send_stream(cast(Call, made), Stream(search.rows(), 10, lambda rows, first: []))

    with pytest.raises(LogUnavailable):
        asyncio.run(run())


@pytest.mark.parametrize(("seconds", "gone"), [(30, True), (0.1, False)])
def test_a_search_that_nobody_waits_for_ends(seconds: float, gone: bool) -> None:
    search = Search(seconds)
    send(search, gone)
    while not search.ended:
        time.sleep(0.01)


def test_requests_without_a_token_make_some_lines_a_minute_and_then_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("time.monotonic", lambda: 60.0)
    refusals = application._Refusals()
    assert [refusals.may_log() for _ in range(150)] == [True] * 100 + [False] * 50
    monkeypatch.setattr("time.monotonic", lambda: 120.0)
    assert refusals.may_log()
    [line] = caplog.records
    assert line.__dict__["members"] == {"status": 401, "not logged": 50}
