"""Who asks: the sender of a request, by its token, and what its role lets it do."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from dataclasses import dataclass
from http import HTTPStatus

from deid_hooks.errors import NotAllowed, SettingsError
from deid_hooks_service.flywheel_users import FlywheelUsers
from deid_hooks_service.problems import Problem
from deid_hooks_service.tokens import Token, Tokens, secret_part

log = logging.getLogger("deid_hooks_service")

RIGHTS = {
    "upload": frozenset(("log", "resolve", "find by content", "follow uploads", "ask for blocks")),
    "search": frozenset(("search", "resolve", "follow uploads", "follow all uploads")),
    "reidentify": frozenset(
        ("search", "read entries", "resolve", "follow uploads", "follow all uploads")
    ),
}
"""What each role may do, in the words of its refusal; ``admin`` may do everything."""

_FREE_MISTAKES = 3
_WINDOW = 60.0
_LONGEST_DELAY = 2.0
_SENDERS_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class Sender:
    """Whoever sent this request: its token's name and role, and where it is."""

    name: str
    role: str
    address: str
    projects: tuple[str, ...] = ()
    keeps_trail: bool = False

    def may(self, do: str) -> bool:
        return self.role == "admin" or do in RIGHTS[self.role]

    def must_be_allowed(self, do: str) -> None:
        """Raise NotAllowed if its role may not do that."""
        if not self.may(do):
            able = [role for role in RIGHTS if do in RIGHTS[role]] or ["admin"]
            raise NotAllowed(
                f"the token {self.name} has the role {self.role}, which may not {do}",
                f"ask the administrator of the log for one with the role {' or '.join(able)}",
            )

    def reaches(self, project: str) -> bool:
        """Whether its token reaches what belongs to this project."""
        return not self.projects or project in self.projects

    def must_reach(self, project: str) -> None:
        if not self.reaches(project):
            raise NotAllowed(f"the token {self.name} is held to other projects")

    def must_reach_everything(self) -> None:
        if self.projects:
            raise NotAllowed(
                f"the token {self.name} is held to projects, and this concerns the whole log"
            )


class Senders:
    """Finds the sender of a request by its token, and slows down who guesses."""

    def __init__(self, tokens: Tokens, users: FlywheelUsers | None = None) -> None:
        self._tokens = tokens
        self._users = users
        self._mistakes: dict[str, deque[float]] = {}

    async def sender(self, authorization: str | None, address: str) -> Sender:
        """The sender, by ``Bearer TOKEN`` or ``scitran-user HOST:...:TOKEN``; else Problem.

        401 for a token that is none, 503 if the tokens can't be read.
        """
        scheme, _, text = (authorization or "").partition(" ")
        if scheme.lower() in ("bearer", "scitran-user") and secret_part(text):
            token = self._holder(text)
            if token is not None:
                self._mistakes.pop(address, None)
                return Sender(token.name, token.role, address, token.projects, token.keeps_trail)
            if self._users is not None:
                self._refuse_to_ask_the_site(address)
                user = await self._users.name_of(authorization or "")
                if user:
                    return Sender(user, "upload", address)
        await self._slow_down(address)
        raise Problem(
            HTTPStatus.UNAUTHORIZED,
            "the service does not know this token" if text else "the service needs a token",
            "check that it is complete, not revoked and not expired",
            kind="NotAllowed",
        )

    async def close(self) -> None:
        if self._users is not None:
            await self._users.close()

    def _holder(self, text: str) -> Token | None:
        try:
            return self._tokens.holder(text)
        except SettingsError as error:
            log.error("%s", error)  # where the file is concerns who runs the service
            raise Problem(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "the service can't read its tokens",
                "tell the administrator of the log: the service's own log says why",
                kind="LogUnavailable",
            ) from None

    async def _slow_down(self, address: str) -> None:
        """Wait, the longer the more wrong tokens came from there. Good ones never wait."""
        if len(self._mistakes) > _SENDERS_REMEMBERED:
            self._mistakes.clear()
        mistakes = self._mistakes.setdefault(address, deque(maxlen=100))
        mistakes.append(time.monotonic())
        over = self._recent(address) - _FREE_MISTAKES
        if over > 0:
            await asyncio.sleep(min(0.1 * 2 ** min(over, 10), _LONGEST_DELAY))

    def _refuse_to_ask_the_site(self, address: str) -> None:
        """Its users are not to be locked out there by what is guessed here: Problem 429."""
        if self._recent(address) > 5 * _FREE_MISTAKES:
            raise Problem(
                HTTPStatus.TOO_MANY_REQUESTS,
                "too many wrong tokens came from this address",
                "wait a minute, and check the token",
                kind="NotAllowed",
                after=int(_WINDOW),
            )

    def _recent(self, address: str) -> int:
        since = time.monotonic() - _WINDOW
        return sum(moment > since for moment in self._mistakes.get(address, ()))
