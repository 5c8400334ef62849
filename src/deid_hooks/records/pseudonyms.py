"""Pseudonyms: labels, UIDs and their alphabet, the same every time within a project of a site.

Whoever has the key can tell whether a guess was right; nobody gets from a pseudonym to the original
without guessing. The way back is the log's.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field

from deid_hooks.errors import SettingsError

_KEY_BYTES = 32
_TELLING = 4  # characters of a PatientID that give it away within a label
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # without I, L, O and U: nothing to misread
_MOST_CHARACTERS = 51  # as many as five-bit characters go into the 256 bits of a digest


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
