"""The site secret, and what is derived from it: digests, keys, pseudonyms and their alphabet.

Plain hashes of names and numbers are guessable; keyed ones are not, as long as the key is kept.

The site secret is a keyring: one root key, and one more after each rotation. The file, and the
variable, hold them from the oldest to the newest, 64 hex digits each; a line ``lost NAME N`` stands
for a root that was lost, and that sealed the records up to ``N``.
"""

from __future__ import annotations

import hmac
import json
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import product
from pathlib import Path

from deid_hooks.errors import SettingsError
from deid_hooks.files import (
    NotPrivate,
    fsync_folder,
    lock_file,
    make_folders,
    put_file,
    read_private,
)
from deid_hooks.records.chain import Sealer
from deid_hooks.records.json_codec import write_canonical_json
from deid_hooks.records.model import Entry

VARIABLE = "DEID_HOOKS_SECRET"
_BYTES = 32


_KEY_BYTES = 32
_TELLING = 4  # characters of a PatientID that give it away within a label
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # without I, L, O and U: nothing to misread
_MOST_CHARACTERS = 51  # as many as five-bit characters go into the 256 bits of a digest

_DIGEST = re.compile(r'"digest":"([0-9a-f]{64})"')
"""Where a large value was in JSON: within a value the quotation marks would be escaped."""


class RootKey:
    """32 bytes of which the keys for every purpose are derived. Never printed."""

    def __init__(self, value: bytes) -> None:
        self._value = value
        self.name = self._keyed("name", b"").hex()[:16]
        """Tells keys apart without telling anything about them."""

    def __repr__(self) -> str:
        return f"RootKey({self.name})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RootKey) and hmac.compare_digest(self._value, other._value)

    __hash__ = None  # type: ignore[assignment]

    def text(self) -> str:
        """Return the key as the file and the environment hold it, for writing it there."""
        return self._value.hex()

    def digest(self, content: bytes) -> str:
        """Return a keyed digest, 64 hex digits of HMAC-SHA256."""
        return self._keyed("digest", content).hex()

    def derive(self, purpose: str) -> bytes:
        """Return a key of 32 bytes for one purpose, from which the root can't be told."""
        return self._keyed("derive", purpose.encode("utf-8", "surrogatepass"))

    def _keyed(self, use: str, content: bytes) -> bytes:
        return hmac.digest(self._value, use.encode() + b"\0" + content, "sha256")


@dataclass(frozen=True, slots=True)
class LostKey:
    """A root key that nobody has any more. It sealed no record after number ``n``."""

    name: str
    n: int


@dataclass(frozen=True)
class Keyring:
    """The root keys of a site, from the oldest to the newest, which all its machines share.

    What is written is written with the newest, which is never a lost one.
    """

    keys: tuple[RootKey | LostKey, ...]

    @property
    def roots(self) -> tuple[RootKey, ...]:
        """The roots that are there, from the oldest to the newest."""
        return tuple(key for key in self.keys if isinstance(key, RootKey))

    @property
    def lost(self) -> tuple[LostKey, ...]:
        """The roots that were lost."""
        return tuple(key for key in self.keys if isinstance(key, LostKey))

    @property
    def newest(self) -> RootKey:
        """The root with which everything new is written."""
        return self.roots[-1]

    def text(self) -> str:
        """Return the keyring as its file holds it."""
        return "".join(
            f"{key.text()}\n" if isinstance(key, RootKey) else f"lost {key.name} {key.n}\n"
            for key in self.keys
        )

    def find(self, name: str) -> RootKey | None:
        """Return the root of this name; None if it is not there."""
        return next((root for root in self.roots if root.name == name), None)

    def knows(self, name: str) -> bool:
        """Return whether a root of this name is, or was, one of the site."""
        return any(key.name == name for key in self.keys)

    def extends(self, other: Keyring) -> bool:
        """Return whether this is ``other`` after one rotation or more."""
        count = len(other.keys)
        return len(self.keys) > count and self.keys[:count] == other.keys

    def is_whole(self, entry: Entry) -> bool:
        """Return whether an entry is what its keyed digest says. False if its root is not here.

        Of an entry whose root was lost nobody can tell.
        """
        root = self.find(entry.key)
        if root is None:
            return self.knows(entry.key)
        return compute_content_digest(entry, root) == entry.digest

    def list_patients(self, entry: Entry) -> set[str]:
        """Return the keyed digests of the patients of an entry, under every root.

        An entry does not say which of several PatientIDs goes with which of several issuers, so
        that of such a one all combinations are there.
        """
        found = set(entry.patients)
        for root in self.roots:
            if root.name != entry.key:
                found.update(compute_patient_digest(*each, root) for each in list_identities(entry))
        return found

    def digest_patient(self, patient_id: str, issuer: str) -> list[str]:
        """Return the keyed digests of a patient's identity, under the oldest root first."""
        return [compute_patient_digest(patient_id, issuer, root) for root in self.roots]


def parse_keyring(text: str, where: str) -> Keyring:
    """Return the keyring that a file or variable holds. Raises SettingsError for any other text."""
    words = iter(text.split())
    keys: list[RootKey | LostKey] = []
    try:
        for word in words:
            if word == "lost":
                keys.append(LostKey(next(words, ""), int(next(words, ""))))
            elif len(value := bytes.fromhex(word)) >= _BYTES:
                keys.append(RootKey(value))
            else:
                raise _make_malformed(where)
    except ValueError:
        raise _make_malformed(where) from None
    names = {key.name for key in keys}
    if not keys or isinstance(keys[-1], LostKey) or len(names) < len(keys):
        raise _make_malformed(where)
    return Keyring(tuple(keys))


def read_keyring(path: Path) -> Keyring | None:
    """Return the keyring of the environment or of the file; None if there is neither.

    Raises SettingsError for one that is malformed or that others may read.
    """
    if text := os.environ.get(VARIABLE):
        return parse_keyring(text, VARIABLE)
    try:
        return parse_keyring(read_private(path).decode("ascii"), str(path))
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


def make_root() -> RootKey:
    """Return a root key that no site has yet. It counts once it is in the file."""
    return RootKey(secrets.token_bytes(_BYTES))


def keep_keyring(keyring: Keyring, path: Path) -> Keyring:
    """Write ``keyring``, readable by its owner only, unless there is one; return what stands.

    Durable when it returns: what is logged under a key that is lost can't be resolved again.
    Raises SettingsError if the file can't be written.
    """
    if (found := read_keyring(path)) is not None:
        return found
    try:
        with suppress(FileExistsError):  # of two that do this at once, one wins
            put_file(path, keyring.text().encode("ascii"))
        fsync_folder(path.parent)
    except OSError as error:
        raise _make_unwritable(path, error) from None
    made = read_keyring(path)
    assert made is not None
    return made


@contextmanager
def changing_keyring(path: Path) -> Iterator[None]:
    """Keep other processes of this machine from rotating the keys at the same time.

    The folder of the keyring is made where it was lost, too. Raises SettingsError where the keyring
    is no file that can be changed.
    """
    if os.environ.get(VARIABLE):
        raise SettingsError(
            f"The site secret comes from {VARIABLE}. Rotate the keys where it is a file, and set"
            " the variable to what the file holds then."
        )
    with ExitStack() as stack:
        try:
            make_folders(path.parent)
            stack.enter_context(lock_file(path.with_suffix(".lock")))
        except OSError as error:
            raise _make_unwritable(path, error) from None
        yield


def replace_keyring(keyring: Keyring, path: Path) -> None:
    """Write ``keyring`` in the place of the one before, whole or not at all.

    Raises SettingsError if that can't be done.
    """
    try:
        put_file(path, keyring.text().encode("ascii"), os.replace)
    except OSError as error:
        raise _make_unwritable(path, error) from None


def _make_malformed(where: str) -> SettingsError:
    return SettingsError(
        f"The site secret in {where} is malformed: a line of 64 hex digits is wanted for each key,"
        " as `deid-hooks init` and `deid-hooks rotate` write them."
    )


def _make_unwritable(path: Path, error: OSError) -> SettingsError:
    return SettingsError(f"The site secret can't be written to {path}: {error.strerror}.")


def compute_content_digest(entry: Entry, root: RootKey) -> str:
    """Return the keyed digest of what an entry says, apart from its id and how it came to be."""
    content = [
        entry.project,
        entry.timestamp,
        {keyword: list(values) for keyword, values in entry.fields.items()},
        {keyword: list(values) for keyword, values in entry.deid.items()},
        entry.originals,
        sorted([i.uid, i.deid_uid, i.originals] for i in entry.instances),
        [list(pair) for pair in entry.uids],
        {digest: root.digest(value) for digest, value in entry.large.items()},
        list(entry.patients),
    ]
    return root.digest(write_canonical_json(content).encode("ascii"))


def compute_patient_digest(patient_id: str, issuer: str, root: RootKey) -> str:
    """Return the keyed digest of a patient's identity, as in :attr:`Entry.patients`."""
    identity = normalise_identity(patient_id, issuer)
    return root.digest(json.dumps(["patient", *identity]).encode("ascii"))


def key_entry(entry: Entry, identities: Iterable[tuple[str, str]], root: RootKey) -> Entry:
    """Return an entry with its keyed digests, of one that has none yet.

    ``identities`` are the (PatientID, issuer) of its instances; ``large`` of the entry has plain
    SHA-256 digests, as the originals have where a large value was.
    """
    keyed = _change_digests(entry, lambda plain: root.digest(plain.encode("ascii")))
    patients = {compute_patient_digest(*each, root) for each in identities if each[0]}
    keyed = replace(keyed, key=root.name, patients=tuple(sorted(patients)))
    return replace(keyed, digest=compute_content_digest(keyed, root))


def change_root(entry: Entry, root: RootKey) -> Entry:
    """Return an entry as it would be if it had been written with another root."""
    if entry.key == root.name:
        return entry
    plain = {digest: sha256(value).hexdigest() for digest, value in entry.large.items()}
    without_key = _change_digests(entry, lambda digest: plain.get(digest, digest))
    return key_entry(without_key, list_identities(entry), root)


def _change_digests(entry: Entry, change: Callable[[str], str]) -> Entry:
    """Return an entry with other digests of large values."""

    def rewrite(text: str) -> str:
        return _DIGEST.sub(lambda found: f'"digest":"{change(found[1])}"', text)

    if '"digest":' not in entry.originals and not any(
        '"digest":' in instance.originals for instance in entry.instances
    ):
        return entry
    return replace(
        entry,
        originals=rewrite(entry.originals),
        instances=tuple(replace(i, originals=rewrite(i.originals)) for i in entry.instances),
        large={change(digest): value for digest, value in entry.large.items()},
    )


def make_sealer(keyring: Keyring) -> Sealer:
    """Return what seals the records of the log, with keys derived from the roots."""
    keys = {
        key.name: key.derive("seal") if isinstance(key, RootKey) else key.n for key in keyring.keys
    }
    return Sealer(keys)


def list_identities(entry: Entry) -> list[tuple[str, str]]:
    """Return every PatientID of an entry with every issuer: normally one pair."""
    ids = entry.fields.get("PatientID", ())
    issuers = entry.fields.get("IssuerOfPatientID") or ("",)
    pairs = (normalise_identity(*pair) for pair in product(ids, issuers))
    return sorted({pair for pair in pairs if pair[0]})


def is_patient(entry: Entry, identities: Iterable[tuple[str, str]], keyring: Keyring) -> bool:
    """Return whether the patients of an entry are among these, as far as the keys tell."""
    root = keyring.find(entry.key)
    if root is None:
        return True
    return {compute_patient_digest(*each, root) for each in identities} >= set(entry.patients)


def normalise_identity(patient_id: str, issuer: str) -> tuple[str, str]:
    """Return a PatientID and its IssuerOfPatientID as they are compared."""
    return patient_id.strip("\0 "), issuer.strip("\0 ")


def reveals(label: str, patient_id: str) -> bool:
    """Return whether a label is the PatientID, or holds it unless that is very short."""
    return label == patient_id or (len(patient_id) >= _TELLING and patient_id in label)


@dataclass(frozen=True, slots=True)
class Pseudonyms:
    """The pseudonyms of one project.

    ``key`` holds 32 bytes, derived from the site secret for this project, with which UIDs, tokens
    and seeds are made, and ``label_key`` 32 others for labels. ``labels`` maps (PatientID,
    IssuerOfPatientID), without spaces at either end, to labels that are given already. Behind a
    service, which makes the labels and keeps their key, each patient's is asked for by
    ``hooks.subject`` and given here; others who are named in a file get one made with ``key``.
    Raises SettingsError for a key of another length.
    """

    project: str
    key: bytes = field(repr=False)
    labels: Mapping[tuple[str, str], str] = field(repr=False, default_factory=dict)
    label_key: bytes = field(repr=False, default=b"")

    def __post_init__(self) -> None:
        if len(self.key) != _KEY_BYTES or len(self.label_key) not in (0, _KEY_BYTES):
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

    def label(self, patient_id: str, issuer: str, characters: int = 10) -> str:
        """Return the label of one person: a PatientID and its IssuerOfPatientID.

        One that stands already, or else ``SUBJ-`` and so many characters. Spaces at either end mean
        nothing (PS3.5, section 6.2). Empty for an empty PatientID: two persons of whom nothing is
        known are not made into one.
        """
        patient_id, issuer = identity = normalise_identity(patient_id, issuer)
        if identity in self.labels:
            return self.labels[identity]
        if not patient_id:
            return ""
        drawn = _draw(self.label_key or self.key, self.project, "label", patient_id, issuer)
        return f"SUBJ-{_spell(characters, drawn)}"

    def token(self, purpose: str, value: str, length: int) -> str:
        """Return ``length`` letters and digits for ``value``; empty for an empty one.

        ``purpose``, normally the keyword, keeps equal values of different attributes apart.
        Raises ValueError for a length over 51.
        """
        value = value.strip("\0 ")
        return _spell(length, self._draw("token", purpose, value)) if value else ""

    def seed(self, purpose: str) -> str:
        """Return 64 hex digits to seed an engine that makes its own pseudonyms."""
        return self._draw("seed", purpose).hex()

    def _draw(self, *parts: str) -> bytes:
        return _draw(self.key, self.project, *parts)


def make_pseudonyms(
    project: str, root: RootKey, labels: Mapping[tuple[str, str], str]
) -> Pseudonyms:
    """Return the pseudonyms of a project that began with this root."""
    keys = derive_project_key(project, root), root.derive(f"labels {project}")
    return Pseudonyms(project, keys[0], labels, keys[1])


def derive_project_key(project: str, root: RootKey) -> bytes:
    """Return the key that makes the UIDs and tokens of a project, and no labels."""
    return root.derive(f"pseudonyms {project}")


def _spell(length: int, drawn: bytes) -> str:
    if not 0 < length <= _MOST_CHARACTERS:
        raise ValueError(f"a pseudonym has 1 to {_MOST_CHARACTERS} characters")
    number = int.from_bytes(drawn)
    return "".join(_ALPHABET[number >> 5 * place & 31] for place in range(length))


def _draw(key: bytes, *parts: str) -> bytes:
    # Each part is preceded by its length, so that no two lists of parts look the same.
    encoded = [part.encode("utf-8", "surrogatepass") for part in parts]
    message = b"".join(b"%d:%b" % (len(part), part) for part in encoded)
    return hmac.digest(key, message, "sha256")
