"""Users of a Flywheel site, who upload with their own API keys: the site says whose key it is."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
import time
from typing import Any

import httpx

from deid_hooks_service.problems import busy

_KNOWN_SECONDS = 60.0
_UNKNOWN_SECONDS = 10.0
_MOST_REMEMBERED = 10_000


class FlywheelUsers:
    """Asks ``GET /api/auth/status`` of the site, and remembers the answer for a short while."""

    def __init__(self, site: str, seconds: float = 5.0) -> None:
        # the certificates that this machine trusts, the CA of a hospital among them
        trusted = ssl.create_default_context()
        self._client = httpx.AsyncClient(base_url=site.rstrip("/"), timeout=seconds, verify=trusted)
        self._seconds = seconds
        self._remembered: dict[bytes, tuple[float, str]] = {}

    async def name_of(self, authorization: str) -> str:
        """``flywheel:`` and the user whose key this is; ``""`` if the site knows no such key.

        Raises Problem 503 if the site does not answer: nobody is turned away for that.
        """
        key = hashlib.sha256(authorization.encode("utf-8", "surrogatepass")).digest()
        until, name = self._remembered.get(key, (0.0, ""))
        if time.monotonic() >= until:
            name = await self._ask(authorization)
            if len(self._remembered) > _MOST_REMEMBERED:
                self._remembered.clear()
            seconds = _KNOWN_SECONDS if name else _UNKNOWN_SECONDS
            self._remembered[key] = time.monotonic() + seconds, name
        return name

    async def close(self) -> None:
        await self._client.aclose()

    async def _ask(self, authorization: str) -> str:
        headers = {"Authorization": authorization}
        try:
            async with asyncio.timeout(self._seconds):  # httpx allows as much for each byte
                answer = await self._client.get("/api/auth/status", headers=headers)
            if answer.status_code in (401, 403):
                return ""
            return _user_in(answer.raise_for_status().json())
        except (httpx.HTTPError, TimeoutError, ValueError, RecursionError):
            raise busy("the Flywheel site that knows this key gave no usable answer") from None


def _user_in(status: Any) -> str:
    """The user of an answer of the site; devices and jobs are no users."""
    origin = status.get("origin") if isinstance(status, dict) else None
    if not isinstance(origin, dict) or origin.get("type") != "user":
        return ""
    user = origin.get("id")
    return f"flywheel:{user}" if user and isinstance(user, str) else ""
