"""Forms of requests and answers: reading them, and the JSON Schema that describes them.

Reading is bounded in size and time and strict about the form. A :class:`Problem` is an answer that
is no success. Nothing that a request held is ever quoted.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from http import HTTPStatus
from itertools import chain
from typing import Any

import anyio
import anyio.to_thread
from starlette.requests import ClientDisconnect, Request
from starlette.types import Scope

from deid_hooks.backends.contract import Receipt
from deid_hooks.deadline import Deadline
from deid_hooks.errors import (
    AppendUnknown,
    DeidHooksError,
    Forgotten,
    IdConflict,
    LogError,
    LogUnavailable,
    NotAllowed,
    TermError,
)
from deid_hooks.query.conditions import Query
from deid_hooks.query.json_codec import decode_query, describe_query
from deid_hooks.records.json_codec import (
    KINDS,
    WRONG_FORM,
    ObjectCodec,
    decode_originals,
    decode_record,
    decode_text,
    describe_list,
    describe_object,
    describe_record,
)
from deid_hooks.records.model import (
    OUTCOMES,
    AccessRow,
    Block,
    Entry,
    Record,
    Tombstone,
    UploadEvent,
    is_printable,
)

Schema = dict[str, Any]

MOST_BYTES = 32 * 1024 * 1024
"""Of the body of a request."""
_MOST_BYTES_OF_LISTS = 1024 * 1024
_MOST_VALUES = 1_000_000
"""Lists, objects and their members in one body: each takes a hundred bytes of memory."""
_MOST_BYTES_AT_ONCE = 128 * 1024 * 1024
_MOST_BYTES_OF_A_SENDER = _MOST_BYTES_AT_ONCE // 2
"""Of all bodies that are being received and answered."""
_MOST_CONDITIONS = 1_000
MOST_ITEMS = 10_000
"""Records or ids in one request."""
_LONGEST_TEXT = 10_000
_LONGEST_PLACE = 5_000  # a destination may be a folder, of at most 4,096 characters in Linux
_LONGEST_PROJECT = 200
_LONGEST_LABEL = 64  # a PatientID is LO (PS3.5, section 6.2)
_LONGEST_UID = 250  # 64 in the standard, more in files
_EVENT = re.compile("|".join(("cleared", "withdrawn", *OUTCOMES)))
_MOMENT = re.compile(r"[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-6][0-9](\.[0-9]+)?Z")
_WALL_CLOCK = re.compile(
    r"[0-9]{4}(-[01][0-9](-[0-3][0-9](T[0-2][0-9]:[0-5][0-9]:[0-6][0-9](\.[0-9]+)?)?)?)?"
)
_SMALL = 64 * 1024
"""Up to here reading JSON holds up nobody else."""

_STATUS: dict[type[DeidHooksError], HTTPStatus] = {
    LogUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    AppendUnknown: HTTPStatus.SERVICE_UNAVAILABLE,
    IdConflict: HTTPStatus.CONFLICT,
    Forgotten: HTTPStatus.CONFLICT,
    NotAllowed: HTTPStatus.FORBIDDEN,
    LogError: HTTPStatus.INTERNAL_SERVER_ERROR,
    TermError: HTTPStatus.UNPROCESSABLE_ENTITY,
}


class Problem(Exception):
    """An answer that is no success. ``cause`` and ``remedy`` are without a value of the request.

    ``kind`` is the name of the error that a client raises for it; ``after`` is the number of
    seconds after which it is worth trying again.
    """

    def __init__(
        self,
        status: HTTPStatus,
        cause: str,
        remedy: str = "",
        *,
        kind: str = "Refused",
        log_id: str = "",
        after: int = 0,
    ) -> None:
        super().__init__(cause)
        self.status, self.cause, self.remedy = status, cause, remedy
        self.kind, self.log_id, self.after = kind, log_id, after

    def make_document(self, prefix: str = "") -> dict[str, Any]:
        """Return the body of the answer. ``prefix`` is a sentence that users know."""
        cause = f"{self.status} {self.status.phrase}: {self.cause}"
        message = str(LogError(f"{prefix}: {cause}" if prefix else cause, self.remedy))
        document = {
            "message": message,
            "kind": self.kind,
            "cause": self.cause,
            "remedy": self.remedy,
        }
        return {**document, "log_id": self.log_id} if self.log_id else document

    @property
    def headers(self) -> dict[str, str]:
        """The headers that tell a client what to do about it."""
        headers = {"Retry-After": str(self.after)} if self.after else {}
        if self.status == HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = "Bearer"
        return headers


def find_problem(error: BaseException) -> Problem:
    """Return the answer for an error of ours; for any other one it names no more than its kind."""
    if isinstance(error, Problem):
        return error
    for kind in type(error).__mro__:
        if kind in _STATUS and isinstance(error, DeidHooksError):
            return Problem(
                _STATUS[kind],
                getattr(error, "cause", str(error)),
                getattr(error, "remedy", ""),
                kind=kind.__name__,
                log_id=getattr(error, "log_id", ""),
            )
    return Problem(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        f"the service failed with {type(error).__name__}",
        "tell the administrator of the log, who finds the place in the service's own log",
        kind="LogError",
    )


def make_invalid(cause: str) -> Problem:
    """Return the Problem of a request that can't be used."""
    return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, cause)


def make_not_found(cause: str) -> Problem:
    """Return the Problem of a name that nothing has, or nothing that this sender may know of."""
    return Problem(HTTPStatus.NOT_FOUND, cause, kind="NotFound")


def make_busy(cause: str) -> Problem:
    """Return the Problem of a request that wrote nothing and that is worth repeating."""
    return Problem(HTTPStatus.SERVICE_UNAVAILABLE, cause, kind="LogUnavailable", after=1)


# Forms: what a member of a body must be.


@dataclass(frozen=True, slots=True)
class Form:
    """What a member must be: ``read`` takes its name and its JSON, and raises Problem 422.

    ``most_bytes`` is how large a body may be that has it.
    """

    read: Callable[[str, Any], Any]
    schema: Schema
    most_bytes: int = _SMALL


@dataclass(frozen=True, slots=True)
class Body:
    """A body: a JSON object that has exactly these members, of which some may be left out."""

    required: Mapping[str, Form]
    optional: Mapping[str, Form] = field(default_factory=dict)
    forms: Mapping[str, Form] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "forms", {**self.required, **self.optional})

    def read(self, document: Any) -> Any:
        """Return the values of the members that are there; raise Problem 422."""
        forms = self.forms
        if not isinstance(document, dict):
            raise make_invalid("the body must be a JSON object")
        for name in self.required:
            if name not in document:
                raise make_invalid(f"the body has no member {name}")
        if document.keys() - forms.keys():
            raise make_invalid(f"the body has members other than {', '.join(forms)}")
        return {n: form.read(n, document[n]) for n, form in forms.items() if n in document}

    @property
    def most_bytes(self) -> int:
        """How large the body may be."""
        return max(form.most_bytes for form in self.forms.values())

    @property
    def schema(self) -> Schema:
        """The JSON Schema of the body."""
        return describe_object({n: form.schema for n, form in self.forms.items()}, self.optional)


class AccessBody:
    """A body that is one record of the access trail, of bounded length."""

    most_bytes = _MOST_BYTES_OF_LISTS

    def read(self, document: Any) -> AccessRow:
        """Return the record; raise Problem 422."""
        try:
            row = decode_record(document)
        except ValueError:
            row = None
        if not isinstance(row, AccessRow) or not _is_sound(row):
            raise make_invalid("this is no row of the access trail")
        texts = [*row.log_ids, *(getattr(row, each.name) for each in fields(row))]
        longest = max(len(text) for text in texts if isinstance(text, str))
        if longest > _LONGEST_TEXT or len(row.log_ids) > MOST_ITEMS:
            raise make_invalid("this row of the access trail is too long")
        return row

    @property
    def schema(self) -> Schema:
        """The JSON Schema of the body."""
        narrower = {"id": _PATTERNS["id"], "log_ids": describe_list(_SHORT, MOST_ITEMS)}
        return describe_record("access", _SHORT, **narrower)


def make_reference(name: str) -> Schema:
    """Return the JSON Schema that refers to the one of this name in ``SCHEMAS``."""
    return {"$ref": f"#/components/schemas/{name}"}


STRING: Schema = {"type": "string"}
TEXT = make_reference("Text")
_SHORT = make_reference("ShortText")
LOG_ID: Schema = {"type": "string", "pattern": "^[0-9A-F]{32}$"}
_PATTERNS = {
    "log_id": LOG_ID,
    "id": {"type": "string", "pattern": "^[0-9A-Fa-f]{32}$"},
    "patients": describe_list({"type": "string", "pattern": "^[0-9A-Za-z]{1,64}$"}),
}
"""Members of records that must be ids, which messages name, or digests."""
_SOUND = {
    name: re.compile(schema.get("pattern") or schema["items"]["pattern"])
    for name, schema in _PATTERNS.items()
}
RECEIPT: ObjectCodec[Receipt] = ObjectCodec(Receipt)

# UTF-8 in hexadecimal, surrogates among it (which UTF-8 proper leaves out).
_TAIL = "[89ab][0-9a-f]"
_UTF8 = (
    f"^([0-7][0-9a-f]|c[2-9a-f]{_TAIL}|d[0-9a-f]{_TAIL}|e0[ab][0-9a-f]{_TAIL}"
    f"|e[1-9a-f]({_TAIL}){{2}}|f0[9ab][0-9a-f]({_TAIL}){{2}}|f[1-3]({_TAIL}){{3}}"
    f"|f48[0-9a-f]({_TAIL}){{2}})*$"
)


def _describe_record(kind: str) -> Schema:
    """Return the JSON Schema of a record as a request may hold it, its ids and digests narrower."""
    members = describe_record(kind, TEXT)["properties"]
    narrower = {name: schema for name, schema in _PATTERNS.items() if name in members}
    return describe_record(kind, TEXT, **narrower)


def _describe_text(**longest: int) -> list[Schema]:
    encoded = {"type": "string", "pattern": _UTF8, **longest}
    return [{**STRING, **longest}, describe_object({"utf-8": encoded})]


SCHEMAS: dict[str, Schema] = {
    "Text": {
        "description": "A text; one with lone surrogates as its bytes in UTF-8, in hexadecimal.",
        "anyOf": _describe_text(),
    },
    "ShortText": {"anyOf": _describe_text(maxLength=_LONGEST_TEXT)},
    "Record": {
        "description": "One that is sent must be readable, too: names and UIDs printable and of"
        " bounded length, times ISO 8601, `originals` a JSON object of DICOM JSON elements.",
        "anyOf": [make_reference(kind.capitalize()) for kind in KINDS],
    },
    **{kind.capitalize(): _describe_record(kind) for kind in KINDS},
    "Receipt": RECEIPT.describe(TEXT),
    "Query": describe_query(TEXT),
    "Problem": describe_object(
        {
            "message": {"type": "string", "description": "For the person who reads it."},
            **dict.fromkeys(("kind", "cause", "remedy", "log_id"), STRING),
        },
        ("log_id",),
    ),
}


def _read_short_text(name: str, value: Any) -> str:
    try:
        found = decode_text(value)
    except WRONG_FORM:
        raise make_invalid(f"{name} must be a text") from None
    if len(found) > _LONGEST_TEXT:
        raise make_invalid(f"{name} is longer than {_LONGEST_TEXT} characters")
    return found


def _read_texts(name: str, values: Any) -> list[str]:
    try:
        if isinstance(values, list) and len(values) <= MOST_ITEMS:
            return [decode_text(value) for value in values]
    except WRONG_FORM:
        pass
    raise make_invalid(f"{name} must be a list of at most {MOST_ITEMS} texts")


def _read_records(name: str, rows: Any) -> list[Record]:
    if not isinstance(rows, list) or len(rows) > MOST_ITEMS:
        raise make_invalid(f"{name} must be a list of at most {MOST_ITEMS}")
    try:
        records = [decode_record(row) for row in rows]
    except ValueError:
        raise make_invalid(f"{name} holds what is no record of the log") from None
    if not all(map(_is_sound, records)):
        raise make_invalid(f"{name} holds one whose id, or the digest of a patient, is none")
    return records


def _is_sound(record: Record) -> bool:
    """Return whether its ids are ids and its patients digests."""
    for name, pattern in _SOUND.items():
        value = getattr(record, name, ())
        for text in (value,) if isinstance(value, str) else value:
            if not pattern.fullmatch(text):
                return False
    return True


async def refuse_malformed(records: Sequence[Record]) -> None:
    """Raise Problem 422 unless readers of the log can take what these records hold.

    Names are printable and of bounded length, times ISO 8601, originals DICOM JSON. Whoever copies
    a whole log sends what that one holds, and isn't held to it.
    """
    if sum(len(r.originals) for r in records if isinstance(r, Entry)) <= _SMALL:
        found = _find_malformed(records)
    else:
        found = await anyio.to_thread.run_sync(_find_malformed, records)
    if found:
        raise make_invalid(found)


def _find_malformed(records: Sequence[Record]) -> str:
    """Return what is wrong with the first record that nobody should have to read, or nothing."""
    for record in records:
        for what, longest, texts in _list_names(record):
            if not all(len(text) <= longest and is_printable(text) for text in texts):
                return f"{what} is longer than {longest} characters, or can't be printed"
        for what, pattern, text in _list_patterns(record):
            if not pattern.fullmatch(text):
                return what
        if isinstance(record, Entry):
            try:
                for text in (record.originals, *(each.originals for each in record.instances)):
                    decode_originals(text)
            except ValueError:
                return "the originals of an entry are no elements of the DICOM JSON model"
    return ""


def _list_names(record: Record) -> Iterator[tuple[str, int, Iterable[str]]]:
    """Yield what must be printable: what it is, how long it may be, and its texts."""
    if isinstance(record, Entry | Block | Tombstone):
        yield "the project", _LONGEST_PROJECT, [record.project]
    if isinstance(record, Entry | UploadEvent):
        yield "the name of the uploader", _LONGEST_PLACE, [record.uploader]
    if isinstance(record, UploadEvent):
        yield "the name of the destination", _LONGEST_PLACE, [record.destination]
    if isinstance(record, Tombstone):
        yield "the name of a destination", _LONGEST_PLACE, record.destinations
    if isinstance(record, Entry):
        yield "a label", _LONGEST_LABEL, record.deid.get("PatientID", ())
        uids = (uid for each in record.instances for uid in (each.uid, each.deid_uid))
        yield "a UID", _LONGEST_UID, chain(uids, *record.uids)
        yield "a keyword", _LONGEST_LABEL, (*record.fields, *record.deid)


def _list_patterns(record: Record) -> Iterator[tuple[str, re.Pattern[str], str]]:
    """Yield what is wrong if a text is not of this pattern."""
    if isinstance(record, Entry | Tombstone):
        yield "when an entry was made is no time in UTC (ISO 8601)", _MOMENT, record.created
    if isinstance(record, Entry) and record.timestamp is not None:
        yield "when images were acquired is no time (ISO 8601)", _WALL_CLOCK, record.timestamp
    if isinstance(record, UploadEvent):
        yield "an event is none that the log knows", _EVENT, record.event
        if record.event == "withdrawn":  # of the others the service says when
            yield "when images were withdrawn is no time in UTC (ISO 8601)", _MOMENT, record.at


def _read_query(name: str, value: Any) -> Query:
    try:
        query = decode_query(value)
    except ValueError:
        raise make_invalid(f"{name} is no query of the log") from None
    if sum(len(term.conditions) for term in query.terms) > _MOST_CONDITIONS:
        raise make_invalid(f"{name} has more than {_MOST_CONDITIONS:,} conditions")
    return query


def _read_patients(name: str, rows: Any) -> list[tuple[str, str]]:
    """Return pairs of PatientID and its issuer."""
    if not isinstance(rows, list) or not 0 < len(rows) <= MOST_ITEMS:
        raise make_invalid(f"{name} must be a list of 1 to {MOST_ITEMS}")
    found = []
    for row in rows:
        if not isinstance(row, list) or len(row) != 2:
            raise make_invalid(f"{name} must hold pairs of PatientID and issuer")
        patient_id, issuer = (_read_short_text(name, text) for text in row)
        found.append((patient_id, issuer))
    return found


def _read_entry(name: str, row: Any) -> Entry:
    [record] = _read_records(name, [row])
    if not isinstance(record, Entry):
        raise make_invalid(f"{name} must be an entry")
    return record


def _read_flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise make_invalid(f"{name} must be true or false")
    return value


SHORT_TEXT = Form(_read_short_text, _SHORT)
TEXTS = Form(_read_texts, describe_list(TEXT, MOST_ITEMS), _MOST_BYTES_OF_LISTS)
TEXTS_OR_NULL = Form(
    lambda name, value: None if value is None else _read_texts(name, value),
    {"anyOf": [TEXTS.schema, {"type": "null"}]},
    _MOST_BYTES_OF_LISTS,
)
PATIENTS = Form(
    _read_patients,
    {
        **describe_list({"type": "array", "items": _SHORT, "minItems": 2, "maxItems": 2}),
        "minItems": 1,
        "maxItems": MOST_ITEMS,
    },
    _MOST_BYTES_OF_LISTS,
)
ENTRY = Form(_read_entry, make_reference("Entry"), MOST_BYTES)
FLAG = Form(_read_flag, {"type": "boolean"})
RECORDS = Form(_read_records, describe_list(make_reference("Record"), MOST_ITEMS), MOST_BYTES)
QUERY = Form(_read_query, make_reference("Query"))


class Held:
    """Counts the bytes of bodies that are in memory, of each sender and in all."""

    def __init__(self) -> None:
        self._by_sender: Counter[str] = Counter()

    def take(self, scope: Scope, size: int) -> None:
        """Count bytes of a request; raise Problem 503 if there are too many."""
        sender = scope.get("deid_hooks.sender", "")
        scope["deid_hooks.held"] = scope.get("deid_hooks.held", 0) + size
        self._by_sender[sender] += size
        if (
            self._by_sender[sender] > _MOST_BYTES_OF_A_SENDER
            or self._by_sender.total() > _MOST_BYTES_AT_ONCE
        ):
            raise make_busy("too many large requests are being answered")

    def release(self, scope: Scope) -> None:
        """Count the bytes of a request no more, once it is answered."""
        if size := scope.pop("deid_hooks.held", 0):
            sender = scope.get("deid_hooks.sender", "")
            self._by_sender[sender] -= size
            if not self._by_sender[sender]:
                del self._by_sender[sender]


async def read_body(
    request: Request, body: Body | AccessBody, deadline: Deadline, held: Held
) -> Any:
    """Return what was sent, in that form. Raises Problem 400, 408, 413, 415, 422 or 503."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Problem(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "the body must be JSON (Content-Type: application/json)",
        )
    content = await _receive(request, body.most_bytes, deadline, held)
    if len(content) <= _SMALL:
        return body.read(_parse(content))
    return await anyio.to_thread.run_sync(lambda: body.read(_parse(content)))


async def _receive(request: Request, most: int, deadline: Deadline, held: Held) -> bytes:
    announced = request.headers.get("content-length", "0")
    if announced.isascii() and announced.isdigit() and int(announced) > most:
        raise _make_too_large(most)
    parts: list[bytes] = []
    size = 0
    try:
        with anyio.fail_after(deadline.left()):
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise _make_too_large(most)
                held.take(request.scope, len(part))
                parts.append(part)
    except TimeoutError:
        raise Problem(
            HTTPStatus.REQUEST_TIMEOUT, "the body did not arrive in time", kind="LogUnavailable"
        ) from None
    except ClientDisconnect:
        raise Problem(HTTPStatus.BAD_REQUEST, "the sender went away") from None
    return b"".join(parts)


def _parse(content: bytes) -> Any:
    if len(content) > _SMALL and _count_values(content) > _MOST_VALUES:
        raise Problem(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"the body has more than {_MOST_VALUES:,} values",
            "send fewer records at once",
        )
    try:
        return json.loads(content, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise Problem(HTTPStatus.BAD_REQUEST, "the body is not JSON") from None


def _count_values(content: bytes) -> int:
    """Return how many lists, objects and members of them JSON has, more or less.

    What stands within strings is not counted: originals are JSON themselves.
    """
    plain = content.replace(rb"\\", b"").replace(rb"\"", b"")
    strings = plain.count(b'"') // 2
    if strings > _MOST_VALUES:
        return strings
    outside = b"".join(plain.split(b'"')[::2])
    return sum(map(outside.count, (b",", b"[", b"{")))


def _refuse_constant(name: str) -> Any:
    raise ValueError(name)


def _make_too_large(most: int) -> Problem:
    return Problem(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"the body has more than {most // 1024:,} KiB",
        "send fewer records at once, or ask for less",
    )
