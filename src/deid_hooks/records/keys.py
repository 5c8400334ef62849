"""The site secret, and what is derived from it: digests of content and patients, keys.

Plain hashes of names and numbers are guessable; keyed ones are not, as long as the key is kept.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
from contextlib import suppress
from pathlib import Path

from deid_hooks.errors import SettingsError
from deid_hooks.files import NotPrivate, fsync_folder, put_file, read_private
from deid_hooks.records.chain import _PURPOSE
from deid_hooks.records.model import Entry
from deid_hooks.records.pseudonyms import normalise_identity

VARIABLE = "DEID_HOOKS_SECRET"
_BYTES = 32


class SiteSecret:
    """32 bytes that all machines of a site share. Never printed."""

    def __init__(self, value: bytes) -> None:
        self._value = value
        self.name = self._keyed("name", b"").hex()[:16]
        """Tells secrets apart without telling anything about them."""

    def __repr__(self) -> str:
        return f"SiteSecret({self.name})"

    def text(self) -> str:
        """Return the secret as the file and the environment hold it, for writing it there."""
        return self._value.hex()

    def digest(self, content: bytes) -> str:
        """Return a keyed digest, 64 hex digits of HMAC-SHA256."""
        return self._keyed("digest", content).hex()

    def derive(self, purpose: str) -> bytes:
        """Return a key of 32 bytes for one purpose, from which the secret can't be told."""
        return self._keyed("derive", purpose.encode("utf-8", "surrogatepass"))

    def _keyed(self, use: str, content: bytes) -> bytes:
        return hmac.digest(self._value, use.encode() + b"\0" + content, "sha256")


def read_secret(path: Path) -> SiteSecret | None:
    """Return the secret of the environment or of the file; None if there is neither.

    Raises SettingsError for one that is malformed or that others may read.
    """
    if text := os.environ.get(VARIABLE):
        return SiteSecret(_parse(text, VARIABLE))
    try:
        return SiteSecret(_parse(read_private(path).decode("ascii"), str(path)))
    except FileNotFoundError:
        return None
    except NotPrivate:
        raise SettingsError(
            f"Others may read the site secret {path}. Make it yours alone: chmod 600 {path}"
        ) from None
    except UnicodeDecodeError:
        raise _make_malformed(str(path)) from None
    except OSError as error:
        raise SettingsError(f"The site secret {path} can't be read: {error.strerror}.") from None


def make_secret() -> SiteSecret:
    """Return a secret that no site has yet. It counts once :func:`keep_secret` has written it."""
    return SiteSecret(secrets.token_bytes(_BYTES))


def keep_secret(secret: SiteSecret, path: Path) -> SiteSecret:
    """Write ``secret``, readable by its owner only, unless there is one; return what stands.

    Durable when it returns: what is logged under a secret that is lost can't be resolved again.
    Raises SettingsError if the file can't be written.
    """
    if (found := read_secret(path)) is not None:
        return found
    try:
        with suppress(FileExistsError):  # of two that do this at once, one wins
            put_file(path, secret.text().encode("ascii") + b"\n")
        fsync_folder(path.parent)
    except OSError as error:
        raise SettingsError(
            f"The site secret can't be written to {path}: {error.strerror}."
        ) from None
    made = read_secret(path)
    assert made is not None
    return made


def _parse(text: str, where: str) -> bytes:
    try:
        value = bytes.fromhex(text.strip())
    except ValueError:
        raise _make_malformed(where) from None
    if len(value) < _BYTES:
        raise _make_malformed(where)
    return value


def _make_malformed(where: str) -> SettingsError:
    return SettingsError(
        f"The site secret in {where} is malformed: 64 hex digits are wanted, as `deid-hooks init`"
        " writes them."
    )


def compute_content_digest(entry: Entry, secret: SiteSecret) -> str:
    """Return the keyed digest of what an entry says, apart from its id and how it came to be."""
    content = [
        entry.project,
        entry.timestamp,
        {keyword: list(values) for keyword, values in entry.fields.items()},
        {keyword: list(values) for keyword, values in entry.deid.items()},
        entry.originals,
        sorted([i.uid, i.deid_uid, i.originals] for i in entry.instances),
        [list(pair) for pair in entry.uids],
        {digest: secret.digest(value) for digest, value in entry.large.items()},
        list(entry.patients),
    ]
    return secret.digest(write_canonical_json(content).encode("ascii"))


def write_canonical_json(value: object) -> str:
    """Canonical JSON: sorted keys, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def compute_patient_digest(patient_id: str, issuer: str, secret: SiteSecret) -> str:
    """Return the keyed digest of a patient's identity, as in :attr:`Entry.patients`."""
    identity = normalise_identity(patient_id, issuer)
    return secret.digest(json.dumps(["patient", *identity]).encode("ascii"))


def derive_trail_key(secret: SiteSecret) -> bytes:
    """Derive the key of the trail from the site secret."""
    return secret.derive(_PURPOSE)
