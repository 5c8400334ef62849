"""Records as JSON objects, for stores and exports: what is read back equals what was written.

How a field is written, read and described as JSON Schema follows from its type in the dataclass, so
that a field of a record is named there and nowhere else.

A string that Unicode has no encoding for, because of lone surrogates, is written as
``{"utf-8": HEX}``, so that any JSON reader can take it; bytes are base64 (RFC 4648, section 4).
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from itertools import chain
from operator import attrgetter, itemgetter
from typing import Any, Generic, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

from deid_hooks.records.model import AccessRow, Block, Entry, Erased, Record, Tombstone, UploadEvent

T = TypeVar("T")
Json = dict[str, Any]

KINDS: dict[str, type[Record]] = {
    "entry": Entry,
    "upload": UploadEvent,
    "access": AccessRow,
    "tombstone": Tombstone,
    "block": Block,
    "erased": Erased,
}
"""The kinds of record, by the word for each in JSON."""

WRONG_FORM = (TypeError, ValueError, LookupError, AttributeError)
"""What reading raises for JSON of another form. Its text may quote values."""

_BASE64 = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"


def encode_record(record: Record) -> Json:
    """Return a JSON object: the member ``record``, which tells the kind, and one for each field."""
    return _BY_CLASS[type(record)].encode(record)


def decode_record(document: Mapping[str, Any]) -> Record:
    """Return the record that :func:`encode_record` wrote.

    Raises ValueError, which quotes no value, for anything else.
    """
    try:
        record: Record = _BY_KIND[document["record"]].decode(document)
    except WRONG_FORM:
        raise ValueError("this is no record of the log") from None
    return record


def describe_record(kind: str, text: Json, **narrower: Json) -> Json:
    """Return the JSON Schema of what :func:`encode_record` writes of this kind.

    ``text`` is the schema of a text; ``narrower`` has those of members which allow less than their
    type does.
    """
    return _BY_KIND[kind].describe(text, **narrower)


def decode_originals(text: str) -> dict[str, Any]:
    """Return the elements of :attr:`Entry.originals` by their path, None for one that was absent.

    Raises ValueError, which quotes no value, unless each is an element of the DICOM JSON model
    (PS3.18, annex F), within a sequence, too.
    """
    try:
        found = json.loads(text)
        if not isinstance(found, dict) or not all(map(_is_element, found.values())):
            raise ValueError
    except (*WRONG_FORM, RecursionError):
        raise ValueError("these are no elements of the DICOM JSON model") from None
    return found


def _is_element(element: Any) -> bool:
    if element is None:
        return True
    if not isinstance(element, dict) or not isinstance(element.get("vr"), str):
        return False
    texts = (element.get(name, "") for name in ("InlineBinary", "raw", "digest", "creator"))
    values = element.get("Value", [])
    if not isinstance(values, list) or not all(isinstance(text, str) for text in texts):
        return False
    if element["vr"] == "SQ":
        return all(isinstance(v, dict) and all(map(_is_element, v.values())) for v in values)
    return all(_is_value(value) for value in values)


def _is_value(value: Any) -> bool:
    if isinstance(value, dict):  # the groups of a person's name
        return all(isinstance(group, str) for group in value.values())
    return not isinstance(value, list)


def encode_text(text: str) -> str | Json:
    """Return a text as a JSON value that every JSON reader can take."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return {"utf-8": text.encode("utf-8", "surrogatepass").hex()}
    return text


def decode_text(value: object) -> str:
    """Return the text that :func:`encode_text` wrote; raise one of WRONG_FORM for anything else."""
    if isinstance(value, str):
        return value
    if not isinstance(value, dict) or value.keys() != {"utf-8"}:
        raise TypeError
    return bytes.fromhex(value["utf-8"]).decode("utf-8", "surrogatepass")


class Form(NamedTuple):
    """How values of one type are written as JSON, read (WRONG_FORM otherwise) and described."""

    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]
    describe: Callable[[Json], Json]
    """Makes the JSON Schema, given that of a text."""


def _find_form(hint: Any) -> Form:
    """Return the form of a field of this type; raise TypeError for a type that has none."""
    if hint in _FORMS:
        return _FORMS[hint]
    kind, arguments = get_origin(hint), get_args(hint)
    if kind is tuple and arguments[1:] == (...,):
        item = arguments[0]
        if is_dataclass(item) or get_origin(item) is tuple:
            return _make_row_form(item)
    raise TypeError(f"no JSON form is known for {hint}")


class ObjectCodec(Generic[T]):
    """Writes the values of one dataclass as JSON objects, and reads them.

    A field that is a dataclass itself gives its members, not an object within the object.
    """

    def __init__(
        self, made: type[T], names: Mapping[str, str] | None = None, **constant: str
    ) -> None:
        """``names`` has the names of members that are not called as their field is.

        ``constant`` has members that every object begins with, to tell its kind.
        """
        self._made = made
        self._constant = constant
        self._forms: dict[str, Form] = {}
        self._nested: list[tuple[slice, type[Any]]] = []
        paths: list[str] = []
        hints = get_type_hints(made)
        for field in fields(made):  # type: ignore[arg-type]
            hint, at = hints[field.name], len(paths)
            if is_dataclass(hint):
                self._forms |= {n: _find_form(h) for n, h in get_type_hints(hint).items()}
                paths += [f"{field.name}.{name}" for name in get_type_hints(hint)]
                self._nested.insert(0, (slice(at, len(paths)), hint))  # type: ignore[arg-type]
            else:
                self._forms[(names or {}).get(field.name, field.name)] = _find_form(hint)
                paths.append(field.name)
        self._get = _take_all(attrgetter, paths)
        self.members = frozenset((*constant, *self._forms))
        self._names = tuple(self._forms)
        self._take = _take_all(itemgetter, self._names)
        self._writers = tuple(form.encode for form in self._forms.values())
        self._readers = tuple(form.decode for form in self._forms.values())

    def encode(self, value: T) -> Json:
        """Return the JSON object of a value of the dataclass."""
        document: Json = {**self._constant}
        for name, write, member in zip(self._names, self._writers, self._get(value)):  # noqa: B905
            document[name] = write(member)
        return document

    def decode(self, document: Mapping[str, Any]) -> T:
        """Return the value that ``encode`` wrote; raise one of WRONG_FORM for anything else."""
        if document.keys() != self.members:
            raise ValueError
        values = [read(member) for read, member in zip(self._readers, self._take(document))]  # noqa: B905
        for at, made in self._nested:
            values[at] = [made(*values[at])]
        return self._made(*values)

    def describe(self, text: Json, **narrower: Json) -> Json:
        """Return the JSON Schema of the object, given that of a text and of some members."""
        constant = {name: {"const": value} for name, value in self._constant.items()}
        members = {name: form.describe(text) for name, form in self._forms.items()}
        return describe_object(constant | members | narrower)


def describe_object(properties: Json, optional: Iterable[str] = ()) -> Json:
    """Return the JSON Schema of an object that has these members and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }


def describe_list(items: Json, most: int | None = None) -> Json:
    """Return the JSON Schema of a list of at most so many items."""
    return {"type": "array", "items": items} | ({} if most is None else {"maxItems": most})


def _take_all(
    getter: Callable[..., Callable[[Any], Any]], names: Sequence[str]
) -> Callable[[Any], Any]:
    """Return what takes all of these from a value, as a tuple even of one."""
    take = getter(*names)
    return take if len(names) > 1 else lambda value: (take(value),)


def _encode_texts(texts: Iterable[str]) -> list[Any]:
    if "".join(texts).isascii():
        return list(texts)
    return [encode_text(text) for text in texts]


def _decode_texts(values: object) -> list[str]:
    if not isinstance(values, list):
        raise TypeError
    for value in values:
        if type(value) is not str:  # hardly ever: so plain texts cost next to nothing
            return [decode_text(value) for value in values]
    return values


def _decode_list(values: object) -> list[Any]:
    if not isinstance(values, list):
        raise TypeError
    return values


def _decode_flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _make_row_form(row: Any) -> Form:
    """Return the form of a tuple of rows of texts: of a dataclass, or of pairs."""
    names = get_type_hints(row) if is_dataclass(row) else dict(enumerate(get_args(row)))
    if set(names.values()) != {str}:
        raise TypeError(f"a row holds texts alone, and {row} does not")
    count = len(names)
    get = attrgetter(*map(str, names)) if is_dataclass(row) else None
    make: Callable[..., Any] = row if is_dataclass(row) else lambda *texts: texts  # type: ignore[assignment]

    def decode(values: object) -> tuple[Any, ...]:
        rows = [_decode_texts(value) for value in _decode_list(values)]
        if set(map(len, rows)) - {count}:
            raise ValueError
        return tuple([make(*texts) for texts in rows])

    def encode(rows: Iterable[Any]) -> list[Any]:
        found = [[*row] for row in rows] if get is None else [[*get(row)] for row in rows]
        if "".join(chain.from_iterable(found)).isascii():
            return found
        return [[encode_text(text) for text in texts] for texts in found]

    return Form(
        encode,
        decode,
        lambda text: describe_list({**describe_list(text, count), "minItems": count}),
    )


_TEXTS = Form(_encode_texts, lambda values: tuple(_decode_texts(values)), describe_list)

_FORMS: dict[Any, Form] = {
    str: Form(encode_text, decode_text, lambda text: text),
    str | None: Form(
        lambda value: None if value is None else encode_text(value),
        lambda value: None if value is None else decode_text(value),
        lambda text: {"anyOf": [text, {"type": "null"}]},
    ),
    bool: Form(bool, _decode_flag, lambda _: {"type": "boolean"}),
    tuple[str, ...]: _TEXTS,
    Mapping[str, tuple[str, ...]]: Form(
        lambda columns: {name: _encode_texts(values) for name, values in columns.items()},
        lambda columns: {name: tuple(_decode_texts(values)) for name, values in columns.items()},
        lambda text: {"type": "object", "additionalProperties": describe_list(text)},
    ),
    Mapping[str, bytes]: Form(
        lambda large: [
            [encode_text(key), b64encode(value).decode()] for key, value in sorted(large.items())
        ],
        lambda rows: {
            decode_text(key): b64decode(value, validate=True) for key, value in _decode_list(rows)
        },
        lambda text: describe_list(
            {
                "type": "array",
                "prefixItems": [text, {"type": "string", "pattern": _BASE64}],
                "items": False,
                "minItems": 2,
                "maxItems": 2,
            }
        ),
    ),
}

_BY_KIND: dict[str, ObjectCodec[Any]] = {
    kind: ObjectCodec(made, record=kind) for kind, made in KINDS.items()
}
_BY_CLASS = {made: _BY_KIND[kind] for kind, made in KINDS.items()}


def write_canonical_json(value: object) -> str:
    """Return canonical JSON: sorted keys, no spaces, ASCII."""
    return _write_canonical(value)


_write_canonical = json.JSONEncoder(  # made once: json.dumps makes one at each call
    sort_keys=True, separators=(",", ":"), allow_nan=False
).encode
