"""What nobody foresaw is answered in the words that users know, and without its text."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest
from running import packfile

from deid_hooks.backends.sqlite import SQLiteBackend
from deid_hooks.log import Log
from deid_hooks.records.keys import Keyring, RootKey
from deid_hooks_service.application import Application
from deid_hooks_service.service import Service
from deid_hooks_service.tokens import Senders, Tokens


@pytest.mark.parametrize("path", ["/logs", "//logs"])
def test_a_packfile_that_nobody_foresaw_is_unable_to_be_logged(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("Qxname")

    monkeypatch.setattr("deid_hooks_service.handlers.make_records", fail)
    tokens = Tokens(tmp_path / "service-tokens.json")
    headers = {"Authorization": f"Bearer {tokens.add('ws12', 'upload')}"}
    recorder = Log(SQLiteBackend(f"sqlite:///{tmp_path}/log.db"), Keyring((RootKey(bytes(32)),)))

    async def post() -> httpx.Response:
        service = Service(recorder, Senders(tokens))
        transport = httpx.ASGITransport(Application(service))
        async with httpx.AsyncClient(transport=transport, headers=headers) as client:
            answer = await client.post(f"http://log{path}", json=packfile(PatientID="4711"))
        await service.close(5)
        return answer

    answer = asyncio.run(post())
    assert answer.status_code == 500
    assert answer.json()["message"].startswith(
        "Unable to log de-identified data: 500 Internal Server Error: the service failed with"
        " ZeroDivisionError."
    )
    assert "Qxname" not in answer.text
