"""The chain over all records of the log: what is changed, swapped, removed or cut off is found.

Each record has a leaf (a digest of what it says), a link (a digest of its leaf and the link before)
and a tag (a keyed digest of both). Links need no key: whoever has an export can follow them. Tags
need one: who has the store and not the key can't make them. What may have to be erased stands in
the leaf as a digest with a salt, so that the chain holds without it and tells nothing of it.

    digest(x, ...)  SHA-256 of each text as UTF-8, each after its length in 8 bytes, big-endian
    private         digest("deid-hooks 1 private", salt, JSON of what may be erased)
    leaf            digest("deid-hooks 1 leaf", kind, id, JSON of what is kept, private)
    link            digest("deid-hooks 1 link", link before, n, kind, id, leaf)
    tag             HMAC-SHA-256 of ("deid-hooks 1 tag", n, kind, id, leaf, link, control, key name)

``n`` counts from 0 without gaps. Before the first link comes the genesis, 32 random bytes, which
tell this log from every other one. ``control`` is the ``n`` of the newest block before the record,
so that the last record of the log tells which blocks there must be. JSON is canonical: sorted
members, no spaces, ASCII. Digests are written as hex.
"""

from __future__ import annotations

import hmac
import json
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256

from deid_hooks.records.json_codec import (
    WRONG_FORM,
    decode_text,
    encode_record,
    encode_text,
    write_canonical_json,
)
from deid_hooks.records.model import AccessRow, Block, Entry, Erased, Record, Tombstone, get_id

_NONE = -1
"""The ``control`` of a record before which there is no block."""

_SALT_BYTES = 32


@dataclass(frozen=True, slots=True)
class Seal:
    """The seal of one record. ``key`` names the key of the tag; ``genesis`` only the first has.

    ``salt`` is that of an entry, until it is erased.
    """

    n: int
    kind: str
    id: str
    leaf: str
    link: str
    control: int
    key: str
    tag: str
    salt: str = ""
    genesis: str = ""

    def __str__(self) -> str:
        """Return the seal as stores keep it: a JSON list in ASCII."""
        id_ = write_canonical_json(encode_text(self.id))
        return (  # JSON without a JSON writer: all but the id is ours
            f'[{self.n},"{self.kind}",{id_},"{self.leaf}","{self.link}",{self.control},'
            f'"{self.key}","{self.tag}","{self.salt}","{self.genesis}"]'
        )

    @property
    def newest_control(self) -> int:
        """The ``n`` of the newest block up to this record; -1 if there is none."""
        return self.n if self.kind == "block" else self.control


def parse_seal(text: str) -> Seal | None:
    """Return the seal that a store keeps as ``text``; None for anything else."""
    try:
        n, kind, id_, leaf, link, control, key, tag, salt, genesis = json.loads(text)
        texts = (kind, leaf, link, key, tag, salt, genesis)
        if type(n) is not int or type(control) is not int or set(map(type, texts)) != {str}:
            return None
        return Seal(n, kind, decode_text(id_), leaf, link, control, key, tag, salt, genesis)
    except WRONG_FORM:
        return None


@dataclass(frozen=True, slots=True)
class Leaf:
    """What a seal says of a record apart from its place."""

    kind: str
    id: str
    digest: str
    salt: str = ""


def make_leaf(record: Record, salt: str | None = None) -> Leaf:
    """Return the leaf of a record, an entry's with this salt or with a new one."""
    document = encode_record(record)
    kind, id_ = document["record"], get_id(record)
    private = ""
    if isinstance(record, Entry):
        salt = secrets.token_hex(_SALT_BYTES) if salt is None else salt
        private, document = _digest("private", salt, write_canonical_json(document)), {}
    elif isinstance(record, AccessRow):
        for name in ("asked", "reason", "salt"):  # which the commitment stands for
            del document[name]
    kept = write_canonical_json(document) if document else ""
    return Leaf(kind, id_, _digest("leaf", kind, id_, kept, private), salt or "")


def commit_terms(row: AccessRow) -> AccessRow:
    """Return a new row with a salt, and the commitment that covers what was asked and why."""
    salted = replace(row, salt=secrets.token_hex(_SALT_BYTES))
    return replace(salted, commitment=_compute_commitment(salted))


def erase_terms(row: AccessRow) -> AccessRow:
    """Return ``row`` without what was asked and why. Its seal still holds."""
    return replace(row, asked="", reason="", salt="")


def erase_salt(seal: str) -> str:
    """Return the seal of an entry without its salt, as it is kept once the entry is erased."""
    found = parse_seal(seal)
    return seal if found is None else str(replace(found, salt=""))


def make_erased(seal: str) -> Erased | None:
    """Return what stands in the place of a record of which only the seal is left."""
    found = parse_seal(seal)
    return None if found is None else Erased(found.kind, found.id)


class Sealer:
    """Seals records with the newest key, and checks records against their seals.

    ``keys`` are those of the log, 32 bytes each, by the names that tell them apart, from the oldest
    to the newest. In the place of one that nobody has any more is the number of the last record
    that it may have sealed: such a seal is taken as it is.
    """

    def __init__(self, keys: Mapping[str, bytes | int]) -> None:
        self._keys = dict(keys)
        self.name = list(keys)[-1]
        self._last: tuple[str, Seal | None] = "", None  # what was made last is what follows mostly

    def __repr__(self) -> str:
        return f"Sealer({self.name})"

    def seal(self, head: str, leaves: Iterable[Leaf]) -> list[str]:
        """Return the seals of records that follow ``head``, the last seal of the log or ``""``."""
        text, last = head, self.recall(head) or parse_seal(head)
        seals = []
        for leaf in leaves:
            last = self._follow(last, leaf)
            text = str(last)
            seals.append(text)
        self._last = text, last
        return seals

    def recall(self, head: str) -> Seal | None:
        """Return the seal that was made here last, if the log still ends with it; else None."""
        text, seal = self._last
        return seal if head == text else None

    def find_fault(self, record: Record, seal: str) -> str:
        """Return what is wrong with a record, given its seal; ``""`` if it is what was written."""
        found = parse_seal(seal)
        if found is None:
            return "it has no seal"
        return self.find_forgery(found) or find_difference(record, found)

    def find_forgery(self, seal: Seal) -> str:
        """Return whether somebody without the key made this seal: in words, ``""`` if not."""
        key = self._keys.get(seal.key)
        if key is None:
            return "it was sealed with another key"
        if isinstance(key, int):
            return "" if seal.n <= key else "it was sealed with a key that was lost before"
        place = seal.n, seal.kind, seal.id, seal.leaf, seal.link, seal.control
        same = hmac.compare_digest(_make_tag(key, seal.key, *place).encode(), seal.tag.encode())
        return "" if same else "its seal was changed"

    def copy_keys(self, other: Sealer) -> None:
        """Use the keys of another sealer from now on, as after a rotation."""
        self._keys, self.name = other._keys, other.name

    def knows(self, name: str) -> bool:
        """Return whether a key of this name seals, or once sealed, records of this log."""
        return name in self._keys

    def is_lost(self, seal: Seal) -> bool:
        """Return whether nobody has the key of this seal any more."""
        return isinstance(self._keys.get(seal.key), int)

    def get_place(self, name: str) -> int:
        """Return the place of a key among those of the log, oldest first; -1 of an unknown one."""
        return list(self._keys).index(name) if name in self._keys else -1

    def _follow(self, last: Seal | None, leaf: Leaf) -> Seal:
        kind, id_, digest, salt = leaf.kind, leaf.id, leaf.digest, leaf.salt
        if last is None:
            genesis = secrets.token_hex(32)
            n, before, control = 0, genesis, _NONE
        else:
            genesis, n, before, control = "", last.n + 1, last.link, last.newest_control
        link = compute_link(before, n, kind, id_, digest)
        key = self._keys[self.name]
        assert isinstance(key, bytes)
        tag = _make_tag(key, self.name, n, kind, id_, digest, link, control)
        return Seal(n, kind, id_, digest, link, control, self.name, tag, salt, genesis)


def _make_tag(
    key: bytes, name: str, n: int, kind: str, id_: str, leaf: str, link: str, control: int
) -> str:
    texts = (str(n), kind, id_, leaf, link, str(control), name)
    return hmac.digest(key, _join("tag", *texts), "sha256").hex()


def compute_link(before: str, n: int, kind: str, id_: str, leaf: str) -> str:
    """Return the link of a record that follows the link ``before``."""
    return _digest("link", before, str(n), kind, id_, leaf)


def find_difference(record: Record, seal: Seal) -> str:
    """Return how a record differs from what its seal covers; ``""`` if it does not."""
    leaf = make_leaf(record, seal.salt)
    if (leaf.kind, leaf.id) != (seal.kind, seal.id):
        return "its seal is that of another record"
    if leaf.digest != seal.leaf:
        return "it was changed"
    return find_wrong_terms(record) if isinstance(record, AccessRow) else ""


def find_wrong_terms(row: AccessRow) -> str:
    """Return how what was asked, and why, differs from what the commitment covers; ``""`` if not.

    They may have been erased.
    """
    if row.salt and row.commitment != _compute_commitment(row):
        return "what was asked, or the reason, was changed"
    if not row.salt and (row.asked or row.reason):
        return "what was asked, or the reason, was added later"
    return ""


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a log at some time, to be kept elsewhere: the log had this record then."""

    genesis: str
    n: int
    link: str
    key: str
    tag: str
    time: str

    def __str__(self) -> str:
        """Return it as one line of six words."""
        return f"{self.genesis} {self.n} {self.link} {self.key} {self.tag} {self.time}"


def parse_head(line: str) -> Head | None:
    """Return the head that a line holds; None for anything else."""
    words = line.split()
    if len(words) != 6 or not words[1].isdecimal():
        return None
    genesis, n, link, key, tag, time = words
    return Head(genesis, int(n), link, key, tag, time)


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a log, and where. Holds no value of a record."""

    n: int
    """The number of the record; that of the last one for what concerns the end."""
    id: str
    what: str


class Verification:
    """Follows the chain of a log from its beginning, and finds every fault.

    Memory grows with the entries that were erased, not with those that are there.
    """

    def __init__(self, sealer: Sealer, heads: Iterable[Head] = ()) -> None:
        """``heads`` were kept elsewhere: the records that they name must still be there."""
        self.count = 0
        self.genesis = self.first_time = self.last_time = ""
        self.last: Seal | None = None
        self.unsure = 0
        """Records whose key was lost: that they follow one another was checked, and no more."""
        self._sealer = sealer
        self._heads = list(heads)
        self._control = _NONE
        self._gone: dict[str, int] = {}
        self._blank: dict[str, tuple[int, tuple[str, ...]]] = {}
        self._erased: dict[str, int] = {}

    def check(self, record: Record, text: str) -> Iterator[Fault]:
        """Yield what is wrong with the next record, given its seal."""
        self.count += 1
        seal = parse_seal(text)
        if seal is None:
            yield Fault(self.last.n + 1 if self.last else 0, get_id(record), "it has no seal")
            return
        for what in self._find_faults(record, seal):
            yield Fault(seal.n, seal.id, what)
        self._note(record, seal)

    def finish(self) -> Iterator[Fault]:
        """Yield what is wrong with the log as a whole, once every record was checked."""
        n = self.last.n if self.last else _NONE
        for log_id, where in self._gone.items():
            yield Fault(where, log_id, "it was removed, and no erasure names it")
        for row_id, (where, log_ids) in self._blank.items():
            # What was asked about an entry after it was erased stays.
            if not any(self._erased.get(log_id, _NONE) > where for log_id in log_ids):
                yield Fault(where, row_id, "what was asked was removed, and no erasure names it")
        for head in self._heads:
            if self.last is not None and head.genesis != self.genesis:
                yield Fault(n, "", "this is another log than the one whose head was kept")
            else:
                yield Fault(n, "", f"the log ends before record {head.n}, which it once had")

    def make_head(self, time: str) -> Head | None:
        """Return the head of what was checked; None of an empty log."""
        last = self.last
        if last is None:
            return None
        return Head(self.genesis, last.n, last.link, last.key, last.tag, time)

    def _find_faults(self, record: Record, seal: Seal) -> Iterator[str]:
        before, n = (self.last.link, self.last.n + 1) if self.last else (seal.genesis, 0)
        if seal.n != n:
            missing = f"{n}" if seal.n == n + 1 else f"{n} to {seal.n - 1}"
            yield f"records {missing} before it are missing" if seal.n > n else "it was moved here"
        elif seal.link != compute_link(before, n, seal.kind, seal.id, seal.leaf):
            yield "it does not follow the record before it"
        if what := self._sealer.find_forgery(seal):
            yield what
        elif self.last and self._sealer.get_place(seal.key) < self._sealer.get_place(self.last.key):
            yield "it was sealed with a key that was replaced before"
        if seal.control != self._control:
            yield "a block before it was removed"
        if not isinstance(record, Erased):
            if what := find_difference(record, seal):
                yield what
        elif record.kind != "entry":
            yield "it was removed, and only entries can be erased"
        for head in [each for each in self._heads if each.n == seal.n]:
            if head.genesis == self.genesis or not self.last:
                self._heads.remove(head)
                if seal.link != head.link:
                    yield "it is another record than the log had there once"

    def _note(self, record: Record, seal: Seal) -> None:
        erasure = getattr(record, "erasure", record)  # a tombstone's own time is that of it
        time = getattr(erasure, "at", "") or getattr(record, "created", "")
        self.first_time, self.last_time = self.first_time or time, time or self.last_time
        if self.last is None:
            self.genesis = seal.genesis
        self.last, self._control = seal, seal.newest_control
        self.unsure += self._sealer.is_lost(seal)
        match record:
            case Erased():
                self._gone[seal.id] = seal.n
            case Tombstone():
                self._gone.pop(record.log_id, None)
                self._erased[record.log_id] = seal.n
            case AccessRow() if not record.salt:
                self._blank[record.id] = seal.n, record.log_ids
            case _:
                pass


class Blocks:
    """The blocks of a log, proven to be all of them by the control numbers of their seals."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer
        self._last = self._newest = _NONE
        self.found: list[Block] = []
        self.unmatched: set[str] = set()
        """The ids of blocks whose key was lost: for whom they are can't be told."""

    def add(self, blocks: Iterable[tuple[Block, str]], head: str) -> str:
        """Take in the blocks after those of before, and the last seal of the log.

        Returns what is wrong, and takes in nothing then; ``""`` if these are all blocks that the
        log ever had.
        """
        found, last = [], self._last
        unmatched = set()
        for block, text in blocks:
            seal = parse_seal(text)
            if what := self._sealer.find_fault(block, text):
                return f"a block: {what}"
            if seal is None or seal.control != last:
                return "a block was removed"
            last = seal.n
            found.append(block)
            if self._sealer.is_lost(seal):
                unmatched.add(block.id)
        end = self._sealer.recall(head) or parse_seal(head)
        if end is None:
            return "its last record has no seal" if head or self._newest > _NONE else ""
        if not self._sealer.recall(head) and (what := self._sealer.find_forgery(end)):
            return f"its last record: {what}"
        if end.n < self._newest:
            return "its last records were removed"
        if end.newest_control != last:
            return "a block was removed"
        self._newest, self._last = end.n, last
        self.found += found
        self.unmatched |= unmatched
        return ""


def _compute_commitment(row: AccessRow) -> str:
    terms = {"asked": encode_text(row.asked), "reason": encode_text(row.reason)}
    return _digest("private", row.salt, write_canonical_json(terms))


def _digest(purpose: str, *texts: str) -> str:
    return sha256(_join(purpose, *texts)).hexdigest()


def _join(purpose: str, *texts: str) -> bytes:
    parts = [f"deid-hooks 1 {purpose}".encode()]
    parts += [text.encode("utf-8", "surrogatepass") for text in texts]
    return b"".join([len(part).to_bytes(8) + part for part in parts])
