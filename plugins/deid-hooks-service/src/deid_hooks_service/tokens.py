"""Tokens: who may do what. Kept as hashes, in a file that its owner alone may read."""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from deid_hooks.errors import SettingsError
from deid_hooks.records.model import read_clock
from deid_hooks.settings import find_config_file

ROLES = ("upload", "search", "reidentify", "admin")
FILE_NAME = "service-tokens.json"
_SHORTEST = 20
"""Characters. A token is looked up by a plain hash, so it must be beyond guessing."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token without the token: its hash, and what its holder may do.

    ``projects`` are those it is held to, none for all. ``expires`` and ``revoked`` are moments in
    UTC, ``""`` for never. ``keeps_trail``: its holder is an installation of deid-hooks that records
    every look in the access trail itself, before it shows anything.
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
        return not self.revoked and (not self.expires or read_clock() < self.expires)


def default_path() -> Path:
    """Beside the settings of this machine."""
    named = os.environ.get("DEID_HOOKS_CONFIG")
    return (Path(named) if named else find_config_file()).with_name(FILE_NAME)


def secret_part(text: str) -> str:
    """The key in what a Flywheel user calls the API key: ``HOST:PORT:KEY``; any other is whole."""
    return text.strip().rpartition(":")[2]


class Tokens:
    """The tokens of one file, which are read again when the file has changed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read: tuple[tuple[int, int, int], list[Token]] | None = None

    def all(self) -> list[Token]:
        """Every token, revoked ones too. Raises SettingsError for a file that can't be used."""
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

    def holder(self, text: str) -> Token | None:
        """The valid token that ``text`` is; None if it is none. Takes the same time for all."""
        hashed = _hash(secret_part(text))
        holder: Token | None = None
        for token in self.all():
            if hmac.compare_digest(token.hash, hashed) and token.is_valid():
                holder = token
        return holder

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
        """Make a token, or take in an existing secret; return it. It can't be shown again.

        Raises SettingsError for a name that is taken, a secret that is too short or known, and a
        file that can't be written.
        """
        text = secrets.token_urlsafe(32) if secret is None else secret_part(secret)
        if len(text) < _SHORTEST:
            raise SettingsError(
                f"A token needs at least {_SHORTEST} characters that nobody guesses."
            )
        token = Token(name, role, _hash(text), read_clock(), projects, expires, "", keeps_trail)
        with self._changing() as tokens:
            if any(each.name == name for each in tokens):
                raise SettingsError(f"There is, or was, a token {name} already. Names stay unique.")
            if any(each.hash == token.hash for each in tokens):
                raise SettingsError("There is, or was, a token with this secret already.")
            tokens.append(token)
        return text

    def revoke(self, name: str) -> None:
        """From now on this token is worth nothing. Raises SettingsError if there is none."""
        with self._changing() as tokens:
            if not any(each.name == name for each in tokens):
                raise SettingsError(f"There is no token {name}.")
            tokens[:] = [
                replace(each, revoked=each.revoked or read_clock()) if each.name == name else each
                for each in tokens
            ]

    def _load(self) -> list[Token]:
        try:
            with self.path.open(encoding="utf-8") as file:
                if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                    raise SettingsError(
                        f"Others may read the tokens {self.path}. Make the file the service's"
                        f" alone: chmod 600 {self.path}"
                    )
                rows = json.load(file)
            return [Token(**{**row, "projects": tuple(row["projects"])}) for row in rows]
        except OSError as error:
            raise self._unusable(error) from None
        except (ValueError, TypeError, KeyError):
            raise SettingsError(f"The file of tokens {self.path} is damaged.") from None

    @contextmanager
    def _changing(self) -> Iterator[list[Token]]:
        """The tokens, which are written when the block ends well, whole or not at all."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._locked():
                tokens = list(self.all())
                yield tokens
                self._write(json.dumps([asdict(token) for token in tokens], indent=1))
        except OSError as error:
            raise self._unusable(error) from None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _write(self, text: str) -> None:
        temporary = self.path.with_name(f".{self.path.name}.{secrets.token_hex(8)}")
        try:
            file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(file, "w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(file)
            temporary.replace(self.path)
        finally:
            temporary.unlink(missing_ok=True)

    def _unusable(self, error: OSError) -> SettingsError:
        return SettingsError(f"The file of tokens {self.path} can't be used: {error.strerror}.")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
