"""The site secret, and what is derived from it: digests, keys, pseudonyms and their alphabet.

Plain hashes of names and numbers are guessable; keyed ones are not, as long as the key is kept.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from deid_hooks.errors import SettingsError
from deid_hooks.files import NotPrivate, fsync_folder, put_file, read_private
from deid_hooks.records.chain import Sealer
from deid_hooks.records.json_codec import write_canonical_json
from deid_hooks.records.model import Entry

VARIABLE = "DEID_HOOKS_SECRET"
_BYTES = 32


_KEY_BYTES = 32
_TELLING = 4  # characters of a PatientID that give it away within a label
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # without I, L, O and U: nothing to misread
_MOST_CHARACTERS = 51  # as many as five-bit characters go into the 256 bits of a digest


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


def compute_patient_digest(patient_id: str, issuer: str, secret: SiteSecret) -> str:
    """Return the keyed digest of a patient's identity, as in :attr:`Entry.patients`."""
    identity = normalise_identity(patient_id, issuer)
    return secret.digest(json.dumps(["patient", *identity]).encode("ascii"))


def make_sealer(secret: SiteSecret) -> Sealer:
    """Return what seals the records of the log, with a key derived from the site secret."""
    return Sealer(secret.derive("seal"), secret.name)


def normalise_identity(patient_id: str, issuer: str) -> tuple[str, str]:
    """Return a PatientID and its IssuerOfPatientID as they are compared."""
    return patient_id.strip("\0 "), issuer.strip("\0 ")


def reveals(label: str, patient_id: str) -> bool:
    """Return whether a label is the PatientID, or holds it unless that is very short."""
    return label == patient_id or (len(patient_id) >= _TELLING and patient_id in label)


@dataclass(frozen=True, slots=True)
class Pseudonyms:
    """The pseudonyms of one project.

    ``key`` holds the 32 bytes that were derived from the site secret for this project. ``labels``
    maps (PatientID, IssuerOfPatientID), without spaces at either end, to labels that stand already.
    Raises SettingsError for a key of another length.
    """

    project: str
    key: bytes = field(repr=False)
    labels: Mapping[tuple[str, str], str] = field(repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.key) != _KEY_BYTES:
            raise SettingsError(f"the key of pseudonyms must have {_KEY_BYTES} bytes")

    def uid(self, original: str) -> str:
        """Return the UID that stands for ``original``; empty for an empty one.

        A UUID of version 8 (RFC 9562, section 5.8) as a decimal number under 2.25
        (PS3.5, section B.2).
        """
        original = original.strip("\0 ")
        if not original:
            return ""
        number = int.from_bytes(self._draw("uid", original)[:16])
        number = number & ~(0xF << 76) | 0x8 << 76  # the version
        number = number & ~(0x3 << 62) | 0x2 << 62  # the variant
        return f"2.25.{number}"

    def label(self, patient_id: str, issuer: str) -> str:
        """Return the label of one person: a PatientID and its IssuerOfPatientID.

        One that stands already, or else ``SUBJ-`` and ten characters. Spaces at either end mean
        nothing (PS3.5, section 6.2). Empty for an empty PatientID: two persons of whom nothing is
        known are not made into one.
        """
        patient_id, issuer = identity = normalise_identity(patient_id, issuer)
        if identity in self.labels:
            return self.labels[identity]
        return f"SUBJ-{self._spell(10, 'label', patient_id, issuer)}" if patient_id else ""

    def token(self, purpose: str, value: str, length: int) -> str:
        """Return ``length`` letters and digits for ``value``; empty for an empty one.

        ``purpose``, normally the keyword, keeps equal values of different attributes apart.
        Raises ValueError for a length over 51.
        """
        value = value.strip("\0 ")
        return self._spell(length, "token", purpose, value) if value else ""

    def seed(self, purpose: str) -> str:
        """Return 64 hex digits to seed an engine that makes its own pseudonyms."""
        return self._draw("seed", purpose).hex()

    def _spell(self, length: int, *parts: str) -> str:
        if not 0 < length <= _MOST_CHARACTERS:
            raise ValueError(f"a pseudonym has 1 to {_MOST_CHARACTERS} characters")
        number = int.from_bytes(self._draw(*parts))
        return "".join(_ALPHABET[number >> 5 * place & 31] for place in range(length))

    def _draw(self, *parts: str) -> bytes:
        # Each part is preceded by its length, so that no two lists of parts look the same.
        encoded = [part.encode("utf-8", "surrogatepass") for part in (self.project, *parts)]
        message = b"".join(b"%d:%b" % (len(part), part) for part in encoded)
        return hmac.digest(self.key, message, "sha256")
