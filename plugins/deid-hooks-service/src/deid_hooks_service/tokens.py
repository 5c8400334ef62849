"""Tokens: what their roles may do, and the sender of a request, found by its token.

Tokens are kept as hashes, in a file that its owner alone may read.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import json
import logging
import os
import secrets
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deid_hooks.errors import NotAllowed, SettingsError
from deid_hooks.files import NotPrivate, lock_file, put_file, read_private
from deid_hooks.records.model import read_clock
from deid_hooks.settings import find_config_file

if TYPE_CHECKING:
    from deid_hooks_service.flywheel import FlywheelUsers

log = logging.getLogger("deid_hooks_service")

FILE_NAME = "service-tokens.json"
_SHORTEST = 20
"""Characters. A token is looked up by a plain hash, so it must be beyond guessing."""

_LOOK_UP = ("search", "resolve", "follow uploads", "follow all uploads")
RIGHTS = {
    "post": frozenset(("log packfiles",)),
    "upload": frozenset(("log packfiles", "log", "resolve", "ask for labels", "follow uploads")),
    "search": frozenset(_LOOK_UP),
    "reidentify": frozenset((*_LOOK_UP, "search by parts of values", "read entries")),
    "auditor": frozenset(("read who accessed what",)),
}
"""What each role may do, in the words of its refusal; ``admin`` may do everything."""

_IPV6_NETWORK = 64
"""Bits: whoever has one address of IPv6 has all of such a network (RFC 6177)."""
_FREE_MISTAKES = 3
_WINDOW = 60.0
_LONGEST_DELAY = 2.0
_SENDERS_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class Token:
    """What the file keeps of a token: its hash, and what its holder may do.

    ``projects`` are those it is limited to, none for all. ``expires`` and ``revoked`` are moments
    in UTC, ``""`` for never. ``keeps_trail``: its holder is an installation of deid-hooks that
    records every access in the access trail itself, before it shows anything.
    """

    name: str
    role: str
    hash: str
    created: str
    projects: tuple[str, ...] = ()
    expires: str = ""
    revoked: str = ""
    keeps_trail: bool = False

    def is_valid(self) -> bool:
        """Return whether it is neither revoked nor expired."""
        return not self.revoked and (not self.expires or read_clock() < self.expires)


def default_path() -> Path:
    """Return the file of tokens beside the settings of this machine."""
    named = os.environ.get("DEID_HOOKS_CONFIG")
    return (Path(named) if named else find_config_file()).with_name(FILE_NAME)


def find_network(address: str) -> str:
    """Return what counts as one address: an IPv4 address, the /64 of an IPv6 address.

    What is no address counts as itself.
    """
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is None:
            return str(ipaddress.ip_network((found, _IPV6_NETWORK), strict=False))
        found = found.ipv4_mapped
    return str(found)


def extract_secret(text: str) -> str:
    """Return the key in a Flywheel API key, ``HOST:PORT:KEY``, and any other text whole."""
    return text.strip().rpartition(":")[2]


def write_token(path: Path, secret: str, address: str = "", certificate: str = "") -> None:
    """Write a token, and with an address all that a workstation needs, to a file of mode 0600.

    That is address, token and certificate (PEM). Raises SettingsError for a file that can't be
    written.
    """
    values = {"url": f"deidlog+{address.rstrip('/')}", "token": secret, "certificate": certificate}
    lines = [f"{name} = {json.dumps(text)}\n" for name, text in values.items()]
    try:
        put_file(path, "".join(lines if address else [f"{secret}\n"]).encode("ascii"))
    except OSError as error:
        raise SettingsError(f"{path} can't be written: {error.strerror}.") from None


class Tokens:
    """The tokens of one file, which are read again when the file has changed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read: tuple[tuple[int, int, int], list[Token]] | None = None

    def all(self) -> list[Token]:
        """Return every token, revoked ones too; raise SettingsError if the file can't be used."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise self._unusable(error) from None
        version = (found.st_ino, found.st_mtime_ns, found.st_size)
        if self._read is None or self._read[0] != version:
            self._read = version, self._load()
        return self._read[1]

    def find(self, text: str) -> Token | None:
        """Return the valid token that ``text`` is; None if it is none.

        It takes the same time for all, so that the time tells nothing about the hashes.
        """
        hashed = _hash_secret(extract_secret(text))
        found: Token | None = None
        for token in self.all():
            if hmac.compare_digest(token.hash, hashed) and token.is_valid():
                found = token
        return found

    def was_known(self, text: str) -> bool:
        """Return whether ``text`` is, or was, a token: one that was revoked or expired too."""
        hashed = _hash_secret(extract_secret(text))
        return any(hmac.compare_digest(token.hash, hashed) for token in self.all())

    def add(
        self,
        name: str,
        role: str,
        *,
        projects: tuple[str, ...] = (),
        expires: str = "",
        keeps_trail: bool = False,
        secret: str | None = None,
    ) -> str:
        """Make a token, or take an existing secret; return it. It can't be shown again.

        Raises SettingsError for a name that is taken, a secret that is too short or known, and a
        file that can't be written.
        """
        text = secrets.token_urlsafe(32) if secret is None else extract_secret(secret)
        if len(text) < _SHORTEST:
            raise SettingsError(
                f"A token needs at least {_SHORTEST} characters that nobody guesses."
            )
        token = Token(
            name, role, _hash_secret(text), read_clock(), projects, expires, "", keeps_trail
        )
        with self._changing() as tokens:
            if any(each.name == name for each in tokens):
                raise SettingsError(f"There is, or was, a token {name} already. Names stay unique.")
            if any(each.hash == token.hash for each in tokens):
                raise SettingsError("There is, or was, a token with this secret already.")
            tokens.append(token)
        return text

    def revoke(self, name: str) -> None:
        """Make a token worthless from now on; raise SettingsError if there is none."""
        with self._changing() as tokens:
            if not any(each.name == name for each in tokens):
                raise SettingsError(f"There is no token {name}.")
            tokens[:] = [
                replace(each, revoked=each.revoked or read_clock()) if each.name == name else each
                for each in tokens
            ]

    def _load(self) -> list[Token]:
        try:
            rows = json.loads(read_private(self.path))
            return [Token(**{**row, "projects": tuple(row["projects"])}) for row in rows]
        except NotPrivate:
            raise SettingsError(
                f"Others may read the tokens {self.path}. Make the file the service's alone:"
                f" chmod 600 {self.path}"
            ) from None
        except OSError as error:
            raise self._unusable(error) from None
        except (ValueError, TypeError, KeyError):
            raise SettingsError(f"The file of tokens {self.path} is damaged.") from None

    @contextmanager
    def _changing(self) -> Iterator[list[Token]]:
        """Give the tokens, and write them when the block ends well, whole or not at all."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with lock_file(self.path.with_suffix(".lock")):
                tokens = list(self.all())
                yield tokens
                text = json.dumps([asdict(token) for token in tokens], indent=1)
                put_file(self.path, text.encode(), os.replace)
        except OSError as error:
            raise self._unusable(error) from None

    def _unusable(self, error: OSError) -> SettingsError:
        return SettingsError(f"The file of tokens {self.path} can't be used: {error.strerror}.")


def _hash_secret(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sent a request: the name and role of the token, and the address."""

    name: str
    role: str
    address: str
    projects: tuple[str, ...] = ()
    keeps_trail: bool = False

    def may(self, right: str) -> bool:
        """Return whether its role has this right."""
        return self.role == "admin" or right in RIGHTS[self.role]

    def require_right(self, right: str) -> None:
        """Raise NotAllowed if its role does not have this right."""
        if not self.may(right):
            able = [role for role in RIGHTS if right in RIGHTS[role]] or ["admin"]
            raise NotAllowed(
                f"the token {self.name} has the role {self.role}, which may not {right}",
                f"ask the administrator of the log for one with the role {' or '.join(able)}",
            )

    def reaches(self, project: str) -> bool:
        """Return whether its token is for what belongs to this project."""
        return not self.projects or project in self.projects

    def require_project(self, project: str) -> None:
        """Raise NotAllowed if its token is not for this project."""
        if not self.reaches(project):
            raise NotAllowed(f"the token {self.name} is held to other projects")

    def require_all_projects(self) -> None:
        """Raise NotAllowed if its token is limited to projects."""
        if self.projects:
            raise NotAllowed(
                f"the token {self.name} is held to projects, and this concerns the whole log"
            )


class Senders:
    """Finds the sender of a request by its token, and slows down whoever guesses tokens."""

    def __init__(self, tokens: Tokens, users: FlywheelUsers | None = None) -> None:
        self._tokens = tokens
        self._users = users
        self._mistakes: dict[str, deque[float]] = {}

    async def find(self, authorization: str | None, address: str) -> Sender:
        """Return the sender, by ``Bearer TOKEN`` or ``scitran-user HOST:...:TOKEN``.

        ``address`` is where it is, and behind a space which proxy says so. Raises Problem 401 if
        there is no such token, 503 if the tokens can't be read.
        """
        scheme, _, text = (authorization or "").partition(" ")
        if scheme.lower() in ("bearer", "scitran-user") and extract_secret(text):
            token = self._find_token(text)
            if token is not None:
                return Sender(token.name, token.role, address, token.projects, token.keeps_trail)
            # A key of Flywheel alone is shown to its site, and never a token of ours.
            if self._users is not None and self._users.is_key(scheme, text, self._tokens):
                if not self._users.knew(authorization or ""):
                    self._refuse_guessing(address)
                user = await self._users.find_name(authorization or "")
                if user:
                    return Sender(user, "post", address, self._users.projects)
        await self._slow_down(address)
        raise _make_problem(
            HTTPStatus.UNAUTHORIZED,
            "the service does not know this token" if text else "the service needs a token",
            "check that it is complete, not revoked and not expired",
            kind="NotAllowed",
        )

    async def close(self) -> None:
        """Close the connections to the Flywheel site."""
        if self._users is not None:
            await self._users.close()

    def _find_token(self, text: str) -> Token | None:
        try:
            return self._tokens.find(text)
        except SettingsError as error:
            log.error("%s", error)  # the path is for the operator's log alone
            raise _make_problem(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "the service can't read its tokens",
                "tell the administrator of the log: the service's own log says why",
                kind="LogUnavailable",
            ) from None

    async def _slow_down(self, address: str) -> None:
        """Wait, the longer the more wrong tokens came from this address lately."""
        if len(self._mistakes) > _SENDERS_REMEMBERED:
            self._mistakes.clear()
        mistakes = self._mistakes.setdefault(_find_guesser(address), deque(maxlen=100))
        mistakes.append(time.monotonic())
        over = self._count_mistakes(address) - _FREE_MISTAKES
        if over > 0:
            await asyncio.sleep(min(0.1 * 2 ** min(over, 10), _LONGEST_DELAY))

    def _refuse_guessing(self, address: str) -> None:
        """Raise Problem 429 after many wrong tokens, or the site locks its users out."""
        if self._count_mistakes(address) > 5 * _FREE_MISTAKES:
            raise _make_problem(
                HTTPStatus.TOO_MANY_REQUESTS,
                "too many wrong tokens came from this address",
                "wait a minute, and check the token",
                kind="NotAllowed",
                after=int(_WINDOW),
            )

    def _count_mistakes(self, address: str) -> int:
        since = time.monotonic() - _WINDOW
        mistakes = self._mistakes.get(_find_guesser(address), ())
        return sum(moment > since for moment in mistakes)


def _find_guesser(address: str) -> str:
    return find_network(address.partition(" ")[0])


def _make_problem(status: HTTPStatus, cause: str, remedy: str, **more: Any) -> Exception:
    # imported here, because the commands for tokens do not need what it imports
    from deid_hooks_service.forms import Problem

    return Problem(status, cause, remedy, **more)
