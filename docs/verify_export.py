"""Verify an export of a whole log of deid-hooks, without deid-hooks and without any key.

    python verify_export.py EXPORT [--head "GENESIS N LINK KEY TAG TIME"] [--key HEX[,HEX...]]

Each line is a record with its seal [n, kind, id, leaf, link, control, key, tag, salt, genesis], the
last one {"head": "GENESIS N LINK KEY TAG TIME"}. digest(x, ...) is the SHA-256 of each text as
UTF-8, each after its length in 8 bytes:

    private    digest("deid-hooks 1 private", salt, JSON of what may be erased)
    leaf       digest("deid-hooks 1 leaf", kind, id, JSON of what is kept, private)
    link       digest("deid-hooks 1 link", link before, n, kind, id, leaf)
    tag        HMAC-SHA-256 of ("deid-hooks 1 tag", n, kind, id, leaf, link, control, key name)

An entry may be erased, and what an access row says was asked and why: its commitment is the private
digest of that. The genesis stands before the first link; control is the n of the newest block. The
last line may have "sha256", of all before it and the text of the head: it finds damage, no forgery.
"""

import argparse
import hashlib
import hmac
import json
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any

KINDS = ("entry", "upload", "access", "tombstone", "block")
HEAD = re.compile(r"([0-9a-f]{64}) (0|[1-9][0-9]{0,17}) ([0-9a-f]{64}) (\S+) ([0-9a-f]{64}) (\S+)")
TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]{8,15}Z")
WRONG_FORM = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)


def join(purpose: str, *texts: str | bytes) -> bytes:
    """Return the texts in one, each after its length."""
    parts = [text if isinstance(text, bytes) else text.encode() for text in texts]
    return b"".join(len(p).to_bytes(8) + p for p in (b"deid-hooks 1 " + purpose.encode(), *parts))


def digest(purpose: str, *texts: str | bytes) -> str:
    """Return the digest of the texts as hex."""
    return hashlib.sha256(join(purpose, *texts)).hexdigest()


def write_json(value: object) -> str:
    """Return canonical JSON: sorted members, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def encode(text: Any) -> bytes:
    """Return a text as UTF-8. One with lone surrogates is {"utf-8": HEX} in the export."""
    found = text.encode() if isinstance(text, str) else bytes.fromhex(text["utf-8"])
    plain = found.decode(errors="ignore")
    if text != (plain if plain.encode() == found else {"utf-8": found.hex()}):
        raise ValueError
    return found


def parse_line(line: bytes) -> dict[str, Any]:
    """Return the object that a line is; raise WRONG_FORM if the exporter would not write it so."""
    text = line.decode()  # a member that is there twice is written once below
    found = json.loads(text)
    if json.dumps(found, separators=(",", ":"), ensure_ascii=False) + "\n" != text:
        raise ValueError
    return dict(found)


def find_difference(record: Any, kind: str, text: Any, leaf: str, salt: str) -> str:
    """Return how a record differs from what its seal covers; "" if it does not."""
    if record["record"] == "erased":
        is_left = record == {"record": "erased", "kind": "entry", "id": text} and kind == "entry"
        return "" if is_left and not salt else "it is not what the erasure of an entry leaves"
    if record["record"] != kind or kind not in KINDS or (salt and kind != "entry"):
        return "it is of another kind than its seal says, or of one that is not known here"
    if record.get("id", record.get("log_id")) != text:
        return "its seal is that of another record"
    private, kept = "", record
    if kind == "entry":
        private, kept = digest("private", salt, write_json(record)), {}
    elif kind == "access":
        kept = {name: record[name] for name in record if name not in ("asked", "reason", "salt")}
        terms = {"asked": record["asked"], "reason": record["reason"]}
        if not record["salt"] and [record["salt"], *terms.values()] != [""] * 3:
            return "what was asked, or the reason, was added later"
        committed = digest("private", record["salt"], write_json(terms))
        if record["salt"] and record["commitment"] != committed:
            return "what was asked, or the reason, was changed"
    said = write_json(kept) if kept else ""
    return "" if leaf == digest("leaf", kind, encode(text), said, private) else "it was changed"


class Export:
    """Follows the chain of an export. Memory grows with the entries that were erased."""

    def __init__(self, kept: re.Match[str] | None = None, key: bytes = b"") -> None:
        self.kept, self.keys = kept, [key[at : at + 32] for at in range(0, len(key), 32)]
        self.count, self.times, self.has_end, self.read = 0, ["", ""], False, hashlib.sha256()
        self.genesis, self.n, self.link, self.key_name, self.tag = "", -1, "", "", ""
        self.control, self.erased = -1, dict[bytes, int]()
        self.gone: dict[bytes, int] = {}
        self.blank: list[tuple[int, bytes, list[bytes]]] = []

    def check(self, lines: Iterable[bytes]) -> Iterator[tuple[int, bytes, str]]:
        """Yield number, id and what is wrong for each fault; nothing, and count 0, of no export."""
        for line in lines:
            n, id_ = self.n + 1, b""
            try:
                found = parse_line(line)
                if self.has_end:
                    yield n, id_, "something follows the last line"
                elif self.count and "head" in [*found][:1]:
                    yield from ((self.n, b"", what) for what in self.check_end(**found))
                elif (seal := found.pop("seal")) is None:
                    yield n, id_, "it has no seal"
                else:
                    n, id_ = int(seal[0]), encode(seal[2])
                    yield from ((n, id_, what) for what in self.check_record(found, id_, *seal))
            except WRONG_FORM:
                if not self.count:
                    return
                yield n, id_, "this line is not as the exporter writes it"
            self.read.update(line)
        for id_, n in self.gone.items():
            yield n, id_, "it was removed, and no erasure names it"
        for n, id_, log_ids in self.blank:
            if not any(self.erased.get(log_id, -1) > n for log_id in log_ids):
                yield n, id_, "what was asked was removed, and no erasure names it"
        if not self.has_end:
            yield self.n, b"", "the file was cut off: its last line is missing"
        if self.kept and (self.kept[1] != self.genesis or int(self.kept[2]) > self.n):
            yield self.n, b"", "the record of the head is missing, or this is another log"

    def check_record(self, record: Any, id_: bytes, *seal: Any) -> Iterator[str]:
        """Yield what is wrong with a record, given its seal; keep what the next one needs."""
        n, kind, text, leaf, link, control, key, tag, salt, genesis = seal
        if is_first := self.count == 0:
            self.genesis = self.link = genesis
        self.count += 1
        if n != self.n + 1:
            yield "records before it are missing" if n > self.n else "it was moved here"
        elif link != digest("link", self.link, str(n), kind, id_, leaf):
            yield "it does not follow the record before it"
        if control != self.control or type(control) is not int or bool(genesis) != is_first:
            yield "a block before it was removed, or its seal was changed"
        said = join("tag", str(n), kind, id_, leaf, link, str(control), key)
        tags = [hmac.digest(each, said, "sha256").hex() for each in self.keys]
        if self.keys and tag not in tags:
            yield "it was not sealed with this key"
        del self.keys[: tags.index(tag) if tag in tags else 0]  # a key that was replaced
        was = self.kept.group(3, 4, 5) if self.kept and self.kept[2] == str(n) else (link, key, tag)
        if was[0] != link or (was[1] == key and was[2] != tag):
            yield "it is another record than the log had there once"
        self.n, self.link, self.key_name, self.tag = n, link, key, tag
        self.control = n if kind == "block" else control
        if what := find_difference(record, kind, text, leaf, salt):
            yield what
        if record["record"] == "erased":
            self.gone[id_] = n
        elif kind == "tombstone":
            self.gone.pop(id_, None)
            self.erased[id_] = n
        elif kind == "access" and not record["salt"]:
            self.blank.append((n, id_, [encode(log_id) for log_id in record["log_ids"]]))
        if time := TIME.fullmatch(str(record.get("at", record.get("created")))):
            self.times = [self.times[0] or time[0], time[0]]

    def check_end(self, head: str, sha256: str | None = None) -> Iterator[str]:
        """Yield what is wrong with the last line."""
        self.has_end, last = True, (self.genesis, str(self.n), self.link, self.key_name, self.tag)
        if not (found := HEAD.fullmatch(head)) or found.groups()[:5] != last:
            yield "the last line names another record than the last one"
        self.read.update(head.encode())
        if sha256 not in (None, self.read.hexdigest()):
            yield "the file was changed: its SHA-256 is another one"


def main(words: list[str] | None = None) -> int:
    """Verify the export that the command line names; return 0 if it is whole, 1 or 2 if not."""
    parser = argparse.ArgumentParser(description="Verify an export of a whole deid-hooks log.")
    parser.add_argument("export", type=argparse.FileType("rb"))
    parser.add_argument("--head", help='a line "GENESIS N LINK KEY TAG TIME" that was kept')
    parser.add_argument("--key", help="64 hex digits each, the oldest first")
    asked = parser.parse_args(words)
    kept = HEAD.fullmatch((asked.head or "").strip())
    if (asked.head and not kept) or not re.fullmatch("([0-9a-fA-F]{64}(,|$))*", asked.key or ""):
        parser.error("--head takes six words, --key 64 hex digits each")
    export, faults = Export(kept, bytes.fromhex((asked.key or "").replace(",", ""))), 0
    for faults, (n, id_, what) in enumerate(export.check(asked.export), 1):
        if faults <= 100:  # ids are cut and escaped: the file may be forged
            print(f"record {n} {ascii(id_.decode(errors='replace'))[1:-1][:64]}: {what}")
    if not export.count:
        parser.error("this is no export of a whole log")
    whole = f"whole: {export.count} records{', ' * bool(export.times[0])}{'..'.join(export.times)}"
    print(f"{faults} faults in {export.count} records" if faults else whole)
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
