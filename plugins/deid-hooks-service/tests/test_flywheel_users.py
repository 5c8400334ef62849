"""The site that knows whose key it is may answer anything: an answer of ours, in time."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest

from deid_hooks_service.flywheel import FlywheelUsers
from deid_hooks_service.forms import Problem
from deid_hooks_service.tokens import Tokens


def name_from(head: str, *parts: bytes, pause: float = 0.0) -> str:
    """The user that is found when the site answers so, part by part."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {head}\r\nconnection: close\r\n\r\n".encode())
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause)
        writer.close()

    async def ask() -> str:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        users = FlywheelUsers(f"http://127.0.0.1:{port}", seconds=0.5)
        try:
            return await users.find_name("scitran-user site:key")
        finally:
            await users.close()
            server.close()

    return asyncio.run(ask())


def test_a_user_is_named_by_the_site() -> None:
    status = {"origin": {"type": "user", "id": "alice@example.org"}}
    assert name_from("200 OK", json.dumps(status).encode()) == "flywheel:alice@example.org"


@pytest.mark.parametrize("origin", [None, {}, {"type": "job", "id": "1"}, {"type": "user"}])
def test_whoever_else_has_a_key_is_no_user(origin: object) -> None:
    assert name_from("200 OK", json.dumps({"origin": origin}).encode()) == ""
    assert name_from("401 Unauthorized") == ""


def test_a_user_whose_id_is_no_text_is_no_user() -> None:
    status = {"origin": {"type": "user", "id": {"PatientName": "Qxname"}}}
    assert name_from("200 OK", json.dumps(status).encode()) == ""


@pytest.mark.parametrize(
    ("head", "body"),
    [
        ("200 OK", b"<html>"),
        ("200 OK", b"[" * 100_000),
        ("200 OK\r\ncontent-encoding: gzip", b"{}"),
        ("302 Found\r\nlocation: /login", b""),
        ("500 Internal Server Error", b"{}"),
    ],
    ids=["HTML", "too deep", "no gzip", "moved", "failed"],
)
def test_an_answer_that_is_none_turns_nobody_away_for_good(head: str, body: bytes) -> None:
    with pytest.raises(Problem, match="gave no usable answer") as caught:
        name_from(head, body)
    assert caught.value.status == 503


def test_an_answer_that_comes_by_drops_keeps_nobody_waiting() -> None:
    began = time.monotonic()
    with pytest.raises(Problem, match="gave no usable answer"):
        name_from("200 OK", *[b" "] * 100, pause=0.1)
    assert time.monotonic() - began < 5


def test_only_keys_of_flywheel_are_shown_to_its_site(tmp_path: Path) -> None:
    tokens = Tokens(tmp_path / "tokens.json")
    good, revoked = tokens.add("ws1", "upload"), tokens.add("ws2", "upload")
    tokens.revoke("ws2")
    users = FlywheelUsers("http://127.0.0.1:1")
    assert users.is_key("scitran-user", "site.example:443:key", tokens)
    assert not users.is_key("bearer", "site.example:443:key", tokens)
    assert not users.is_key("scitran-user", "key", tokens)
    assert not any(users.is_key("scitran-user", f"site:{t}", tokens) for t in (good, revoked))
