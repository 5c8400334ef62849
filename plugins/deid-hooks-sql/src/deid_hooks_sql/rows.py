"""From entries to rows and back, without loss."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from deid_hooks.backends.rules import estimate_size
from deid_hooks.backends.sqlite.searchable import collect_words, split_parts
from deid_hooks.records.fields import DEID_FIELDS, INDEXED_FIELDS
from deid_hooks.records.model import Entry, Instance, make_readable
from deid_hooks_sql.schema import KEYWORD, SHORT, TEXTS, limit_of

Texts = Sequence[str | None]
Row = tuple[Any, ...]

_LIMITS = tuple(map(limit_of, TEXTS))
_STAMPS = (TEXTS.index("created"), TEXTS.index("uploader"))
_FIRST_FIELD = TEXTS.index(INDEXED_FIELDS[0])
_FIRST_DEID = _FIRST_FIELD + len(INDEXED_FIELDS)


@dataclass(slots=True)
class EntryRows:
    """The rows of one entry, without its place in the order and without its large values."""

    log: Row
    """In the order of ``schema.ENTRY_COLUMNS``, from ``id`` on."""
    instances: list[Row]
    uids: list[Row]
    values: list[Row]
    words: list[Row]
    seal: bytes
    entry: Entry


def plain(text: str, limit: int | None = SHORT) -> str:
    """A text as a column shows it: what no server can hold replaced, cut to the limit."""
    return make_readable(text)[:limit]


def kept(texts: Texts, limits: Sequence[int | None]) -> tuple[Texts, bytes | None]:
    """Texts as their columns show them, and the bytes that hold them exactly if that differs."""
    shown = [
        None if text is None else plain(text, limit)
        for text, limit in zip(texts, limits, strict=True)
    ]
    if shown == list(texts):
        return shown, None
    # Escapes would join two lone surrogates that stand side by side.
    exact = json.dumps(list(texts), ensure_ascii=False).encode("utf-8", "surrogatepass")
    return shown, exact


def texts_of(shown: Texts, exact: bytes | None) -> list[Any]:
    """The texts that :func:`kept` was given."""
    if exact is None:
        return list(shown)
    texts: list[Any] = json.loads(exact.decode("utf-8", "surrogatepass"))
    return texts


def rows_of(entry: Entry) -> EntryRows:
    """What is written of an entry."""
    texts = [
        *(entry.log_id, entry.created, entry.uploader, entry.project, entry.timestamp),
        *(_first(entry.fields.get(keyword)) for keyword in INDEXED_FIELDS),
        *(_first(entry.deid.get(keyword)) for keyword in DEID_FIELDS),
        *(entry.digest, entry.key, " ".join(entry.patients), entry.originals),
    ]
    shown, exact = kept(texts, _LIMITS)
    instances = [
        (*row, own)
        for row, own in (
            kept((i.uid, i.deid_uid, _own(i.originals)), (SHORT, SHORT, None))
            for i in entry.instances
        )
    ]
    uids = [(*row, own) for row, own in (kept(pair, (SHORT, SHORT)) for pair in entry.uids)]
    values = [(*row, own, 0) for row, own in (kept(v, (KEYWORD, SHORT)) for v in _further(entry))]
    odd = exact is not None or any(row[2] is not None for row in (*uids, *values))
    odd = odd or any(row[3] is not None for row in instances)
    seal = _seal(shown, exact, instances, uids, values, entry)
    parts = list(split_parts(entry))
    words = sorted(collect_words(entry))
    odd = odd or any(plain(text) != text for text in (*words, *(part for _, part in parts)))
    values += [(plain(keyword, KEYWORD), plain(part), None, 1) for keyword, part in parts]
    size = estimate_size(entry)
    return EntryRows(
        (*shown, exact, int(odd), size, seal),
        instances,
        uids,
        values,
        [(word,) for word in dict.fromkeys(map(plain, words))],
        seal,
        entry,
    )


def entry_of(
    log: Row, instances: Iterable[Row], uids: Iterable[Row], values: Iterable[Row], large: Any
) -> Entry:
    """The entry that such rows hold. ``log`` is ``TEXTS`` and ``exact``."""
    texts = texts_of(log[:-1], log[-1])
    fields = _columns_of(INDEXED_FIELDS, texts[_FIRST_FIELD:])
    deid = _columns_of(DEID_FIELDS, texts[_FIRST_DEID:])
    for row in values:
        name, value = texts_of(row[:2], row[2])
        side, name = (deid, name[5:]) if name.startswith("deid_") else (fields, name)
        side.setdefault(name, []).extend([] if value is None else [value])
    return Entry(
        log_id=texts[0],
        created=texts[1],
        uploader=texts[2],
        project=texts[3],
        timestamp=texts[4],
        fields={keyword: tuple(those) for keyword, those in fields.items()},
        deid={keyword: tuple(those) for keyword, those in deid.items()},
        originals=texts[-1],
        instances=tuple(map(_instance, instances)),
        uids=tuple((deid_uid, uid) for deid_uid, uid in (texts_of(r[:2], r[2]) for r in uids)),
        large=dict(large),
        digest=texts[-4],
        key=texts[-3],
        patients=tuple(texts[-2].split()),
    )


def _seal(
    shown: Texts,
    exact: bytes | None,
    instances: list[Row],
    uids: list[Row],
    values: list[Row],
    entry: Entry,
) -> bytes:
    """A digest of the content as it stands in the rows, so that a server can compute it too."""
    content = [text for n, text in enumerate(shown) if n not in _STAMPS]
    pieces = [*map(_piece, content), _piece(exact)]
    for rows in (instances, uids, values):
        pieces.append(f"{len(rows)}#")
        pieces += (_piece(cell) for row in rows for cell in row)
    pieces.append(f"{len(entry.large)}#")
    for digest, value in sorted(entry.large.items()):
        shown_digest, exact_digest = kept([digest], [SHORT])
        pieces += (_piece(cell) for cell in (*shown_digest, exact_digest))
        pieces.append(_piece(hashlib.sha256(value).digest()))
    return hashlib.sha256("".join(pieces).encode()).digest()


def _piece(cell: str | bytes | int | None) -> str:
    if cell is None:
        return "-"
    text = cell.hex() if isinstance(cell, bytes) else str(cell)
    return f"{len(text)}:{text}"


def _instance(row: Row) -> Instance:
    uid, deid_uid, originals = texts_of(row[:3], row[3])
    return Instance(uid, deid_uid, "{}" if originals is None else originals)


def _own(originals: str) -> str | None:
    return None if originals == "{}" else originals


def _first(values: tuple[str, ...] | None) -> str | None:
    return values[0] if values else None


def _columns_of(keywords: tuple[str, ...], row: Iterable[Any]) -> dict[str, list[str]]:
    pairs = zip(keywords, row, strict=False)
    return {keyword: [value] for keyword, value in pairs if value is not None}


def _further(entry: Entry) -> Iterator[tuple[str, str | None]]:
    """What the columns don't hold; a keyword without any value is a row without one."""
    sides = (("", entry.fields, INDEXED_FIELDS), ("deid_", entry.deid, DEID_FIELDS))
    for prefix, mapping, with_column in sides:
        for keyword in sorted(mapping):
            values = mapping[keyword]
            if not values:
                yield prefix + keyword, None
            for value in values[1:] if keyword in with_column else values:
                yield prefix + keyword, value
