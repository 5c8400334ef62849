"""A service to attack: its application in this process, or the program as it is installed."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import httpx
from running import Site

from deid_hooks.deadline import Deadline
from deid_hooks.log import Log, make_backend
from deid_hooks.records.chain import Verification
from deid_hooks.records.json_codec import encode_record
from deid_hooks.records.keys import compute_content_digest, parse_keyring
from deid_hooks.records.model import AccessRow, Record, Tombstone
from deid_hooks.testing.records import make_entry
from deid_hooks_service.application import Application
from deid_hooks_service.service import Service
from deid_hooks_service.tokens import RIGHTS, Sender, Senders, Tokens

ORIGINAL = "Zyxwvut^Original"


class Served:
    """A service with an ``entry`` in its log. ``said`` is what it answered, and what was logged."""

    def __init__(self, folder: Path, here: bool) -> None:
        self.said = ""
        self._site = None if here else Site(folder).start()
        if self._site:
            self.log, tokens = self._site.recorder, self._site.tokens
        else:
            keyring = parse_keyring("ab" * 32, "a test")
            self.log = Log(make_backend(f"sqlite:///{folder}/log.db"), keyring)
            self.log.create()
            tokens = Tokens(folder / "service-tokens.json")
            self._service = Service(self.log, Senders(tokens))
            self._transport = httpx.ASGITransport(Application(self._service))
        self._tokens = {role: tokens.add(f"the {role}", role) for role in (*RIGHTS, "admin")}
        self._tokens["workstation"] = tokens.add("the workstation", "upload", projects=("TRIAL8",))
        self._tokens["keeper"] = tokens.add("the keeper", "admin", keeps_trail=True)
        root = self.log.keyring.newest
        entry = make_entry(key=root.name, fields={"PatientName": (ORIGINAL,)})
        self.entry = replace(entry, digest=compute_content_digest(entry, root))
        self.log.append([self.entry])

    def ask(self, role: str, method: str, path: str, body: object = None) -> httpx.Response:
        """Return the answer to who has the token of a role, and is named ``the ROLE``."""
        headers = {"Authorization": f"Bearer {self._tokens[role]}"}
        if self._site:
            answer = httpx.request(method, f"{self._site.url}{path}", json=body, headers=headers)
        else:
            answer = asyncio.run(self._ask_here(method, path, body, headers))
        self.said += f"{answer.text}\n"
        return answer

    async def _ask_here(
        self, method: str, path: str, body: object, headers: dict[str, str]
    ) -> httpx.Response:
        async with httpx.AsyncClient(transport=self._transport, base_url="http://here") as client:
            return await client.request(method, path, json=body, headers=headers)

    def append(self, role: str, *records: Record) -> httpx.Response:
        """Send records."""
        return self.ask(role, "POST", "/v1/records", {"records": list(map(encode_record, records))})

    def erase(self, role: str) -> Tombstone | None:
        """Ask for the entry to be erased, in the name of another; return the tombstone."""
        body = {"log_ids": [self.entry.log_id], "at": "1999", "who": "dr-adams", "reason": "r"}
        self.ask(role, "POST", "/v1/erasures", body)
        return self.log.tombstone(self.entry.log_id)

    def read_trail(self) -> list[AccessRow]:
        """Return the access trail, and say who did what."""
        rows = [row for row, _ in self.log.backend.trail(Deadline())]
        self.said += "".join(f"{row.action} by {row.who}\n" for row in rows)
        return rows

    def is_whole(self) -> bool:
        """Return whether verifying finds nothing, and say what it finds."""
        faults = list(self.log.verify(Verification(self.log.sealer)))
        self.said += "".join(f"{fault.what}\n" for fault in faults)
        return not faults

    def stop(self) -> None:
        """End the service."""
        if self._site:
            self._site.stop()
        else:
            self._service.committer.stop(10)
        self.log.close()


async def find_keeper(self: Senders, authorization: str | None, address: str) -> Sender:
    """Find a sender, and believe that it keeps the access trail itself."""
    return replace(await _find(self, authorization, address), keeps_trail=True)


_find = Senders.find
