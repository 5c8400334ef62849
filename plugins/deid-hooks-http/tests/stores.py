"""A process for the tests: the real service, once for each store that a path names.

``/NAME/...`` is served from ``sqlite:///FOLDER/NAME.db``, so that every test has a log of its own
without a start of the service of its own.
"""

from __future__ import annotations

import sys
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from deid_hooks.log import Log, make_backend
from deid_hooks.records.keys import Keyring, RootKey
from deid_hooks_service.application import Application
from deid_hooks_service.service import Service
from deid_hooks_service.tokens import Senders, Tokens


class Stores:
    """Makes an application for each name, when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[str, ASGIApp] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        _, name, rest = scope["path"].split("/", 2)
        if name not in self._made:
            backend = make_backend(f"sqlite:///{self._folder / name}.db")
            recorder = Log(backend, Keyring((RootKey(bytes(32)),)))
            senders = Senders(Tokens(self._folder / "tokens.json"))
            self._made[name] = Application(Service(recorder, senders))
        path = f"/{rest}"
        await self._made[name]({**scope, "path": path, "raw_path": path.encode()}, receive, send)


if __name__ == "__main__":
    uvicorn.run(Stores(Path(sys.argv[1])), port=int(sys.argv[2]), lifespan="off", log_config=None)
