"""What the OpenAPI document says of bodies and answers: exactly what is taken and given."""

from __future__ import annotations

from typing import Any

from deid_hooks.query.parser import ENTRY_FIELDS
from deid_hooks.records.fields import INDEXED_FIELDS

Schema = dict[str, Any]

_JSON = "application/json"
_NDJSON = "application/x-ndjson"


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(optional: tuple[str, ...] = (), /, **properties: Schema) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }


def _list(items: Schema, most: int | None = None) -> Schema:
    return {"type": "array", "items": items} | ({} if most is None else {"maxItems": most})


_STRING: Schema = {"type": "string"}
_FLAG: Schema = {"type": "boolean"}
_LOG_ID: Schema = {"type": "string", "pattern": "^[0-9A-F]{32}$"}
_ID: Schema = {"type": "string", "pattern": "^[0-9A-Fa-f]{32}$"}
_DIGEST: Schema = {"type": "string", "pattern": "^[0-9A-Za-z]{1,64}$"}
_TEXT = _ref("Text")
_SHORT = _ref("ShortText")

# UTF-8 in hexadecimal, surrogates among it (which UTF-8 proper leaves out).
_TAIL = "[89ab][0-9a-f]"
_UTF8 = (
    f"^([0-7][0-9a-f]|c[2-9a-f]{_TAIL}|d[0-9a-f]{_TAIL}|e0[ab][0-9a-f]{_TAIL}"
    f"|e[1-9a-f]({_TAIL}){{2}}|f0[9ab][0-9a-f]({_TAIL}){{2}}|f[1-3]({_TAIL}){{3}}"
    f"|f48[0-9a-f]({_TAIL}){{2}})*$"
)
_BASE64 = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"


def _texts_of(*names: str) -> Schema:
    return {name: _TEXT for name in names}


def _record(kind: str, optional: tuple[str, ...] = (), /, **properties: Schema) -> Schema:
    return _object(optional, record={"const": kind}, **properties)


_COLUMNS: Schema = {"type": "object", "additionalProperties": _list(_TEXT)}
_ROW_TEXTS = ("at", "who", "where", "action", "asked", "reason")
_CHAIN = ("salt", "commitment", "previous", "seal")
_ROW_OPTIONAL = ("reason", *_CHAIN)


def _look(text: Schema) -> Schema:
    return _record(
        "access",
        _ROW_OPTIONAL,
        id=_ID,
        **{name: text for name in _ROW_TEXTS},
        **{name: _TEXT for name in _CHAIN},
        log_ids=_list(text, 10_000),
    )


def _condition() -> Schema:
    end: Schema = {"anyOf": [_TEXT, {"type": "null"}]}
    return {
        "anyOf": [
            _object(equal=_TEXT, folded=_FLAG),
            _object(wildcard=_TEXT, folded=_FLAG),
            _object(words=_list(_TEXT)),
            _object(low=end, high=end),
        ]
    }


_OWN_FIELD: Schema = {"enum": list(ENTRY_FIELDS)}


def _term(sides: list[str], name: Schema) -> Schema:
    return _object(side={"enum": sides}, name=name, conditions=_list(_condition()))


_PLAIN_VALUE: Schema = {"anyOf": [_STRING, {"type": "number"}, {"type": "null"}]}
_NAME_VALUE: Schema = {
    "anyOf": [
        _object(
            ("Alphabetic", "Ideographic", "Phonetic"),
            Alphabetic=_STRING,
            Ideographic=_STRING,
            Phonetic=_STRING,
        ),
        {"type": "null"},
    ]
}
_TAGS: Schema = {"pattern": "^[0-9A-Fa-f]{8}$"}


def _elements(element: Schema) -> Schema:
    return {"type": "object", "propertyNames": _TAGS, "additionalProperties": element}


def _element(vr: Schema, value: Schema) -> Schema:
    return _object(
        ("Value", "InlineBinary", "BulkDataURI"),
        vr=vr,
        Value=_list(value),
        InlineBinary=_STRING,
        BulkDataURI=_STRING,
    )


SCHEMAS: dict[str, Schema] = {
    "Text": {
        "description": "A text; one with lone surrogates as its bytes in UTF-8, in hexadecimal.",
        "anyOf": [_STRING, _object(**{"utf-8": {"type": "string", "pattern": _UTF8}})],
    },
    "ShortText": {
        "anyOf": [
            {"type": "string", "maxLength": 10_000},
            _object(**{"utf-8": {"type": "string", "pattern": _UTF8, "maxLength": 10_000}}),
        ],
    },
    "Record": {
        "anyOf": [_ref(name) for name in ("Entry", "Upload", "Access", "Tombstone", "Block")]
    },
    "Entry": _record(
        "entry",
        log_id=_LOG_ID,
        **_texts_of("created", "uploader", "project", "originals", "digest", "key"),
        timestamp={"anyOf": [_TEXT, {"type": "null"}]},
        fields=_COLUMNS,
        deid=_COLUMNS,
        instances=_list({**_list(_TEXT, 3), "minItems": 3}),
        uids=_list({**_list(_TEXT, 2), "minItems": 2}),
        large=_list(
            {
                "type": "array",
                "prefixItems": [_TEXT, {"type": "string", "pattern": _BASE64}],
                "items": False,
                "minItems": 2,
                "maxItems": 2,
            }
        ),
        patients=_list(_DIGEST),
    ),
    "Upload": _record(
        "upload", log_id=_LOG_ID, **_texts_of("at", "event", "destination", "uploader")
    ),
    "Access": _record(
        "access",
        _ROW_OPTIONAL,
        id=_ID,
        **_texts_of(*_ROW_TEXTS, *_CHAIN),
        log_ids=_list(_TEXT),
    ),
    "Tombstone": _record(
        "tombstone",
        log_id=_LOG_ID,
        **_texts_of("created", "at", "who", "reason"),
        destinations=_list(_TEXT),
    ),
    "Block": _record(
        "block",
        ("reason",),
        id=_ID,
        **_texts_of("at", "patient", "project", "who", "reason"),
        lifted=_FLAG,
    ),
    "Sealed": _object(
        log_id=_STRING,
        project=_TEXT,
        digest=_STRING,
        key=_STRING,
        patients=_list(_STRING),
        deid_uids=_list(_TEXT),
    ),
    "Query": _object(
        terms=_list({"anyOf": [_term(["original", "deid"], _TEXT), _term(["entry"], _OWN_FIELD)]})
    ),
    "Element": {
        "description": "An element of the DICOM JSON model (PS3.18, annex F).",
        "anyOf": [
            _element({"const": "SQ"}, _elements(_ref("Element"))),
            _element({"const": "PN"}, _NAME_VALUE),
            _element(
                {"type": "string", "pattern": "^([A-OQ-RT-Z][A-Z]|P[A-MO-Z]|S[A-PR-Z])$"},
                _PLAIN_VALUE,
            ),
        ],
    },
    "Problem": _object(
        ("log_id",),
        message={"type": "string", "description": "For the person who reads it."},
        kind=_STRING,
        cause=_STRING,
        remedy=_STRING,
        log_id=_STRING,
    ),
}

FLYWHEEL = _object(
    ("deidentified_tags",),
    indexed_fields=_object(INDEXED_FIELDS, **{name: _STRING for name in INDEXED_FIELDS}),
    deidentified_tags=_elements(_ref("Element")),
)
LOGGED = _object(id=_LOG_ID)
RECORDS = _object(records=_list(_ref("Record"), 10_000))
APPENDED = _object(log_ids=_list(_STRING))
ERASURE = _object(log_ids=_list(_TEXT, 10_000), at=_SHORT, who=_SHORT, reason=_SHORT)
DONE = _object(done={"const": True})
RESOLVED = {"anyOf": [_object(record=_ref("Record")), _object(sealed=_ref("Sealed"))]}
WANTED = _object(("reason",), log_ids=_list(_TEXT, 10_000), reason=_SHORT)
SEARCH = _object(("reason",), query=_ref("Query"), reason=_SHORT)
DIGEST = _object(digest=_SHORT)
STANDING = _object(log_id=_TEXT)
UPLOADS = _object(("log_ids",), log_ids={"anyOf": [_list(_TEXT, 10_000), {"type": "null"}]})
PATIENTS = _object(patients=_list(_TEXT, 10_000))
BLOCKS = _object(records=_list(_ref("Block")))
SUBJECT = _object(project=_SHORT, patient=_SHORT)
LABEL = _object(label=_TEXT)
PAGE = _object(
    records=_list(_ref("Record")),
    cursor={"type": "string", "description": "Give it as `after` to go on.", "pattern": "^[0-9]+$"},
)
AFTER: Schema = {
    "name": "after",
    "in": "query",
    "description": "The cursor of the page before; 0 for the beginning.",
    "schema": {"type": "string", "pattern": "^[0-9]{1,18}$", "default": "0"},
}
HEAD = _object(seal=_TEXT, kept_by={"enum": ["service", "holder"]})
LOOK = _look(_SHORT)
ALIVE = _object(alive={"const": True})
ME = _object(name=_STRING, role=_STRING, projects=_list(_STRING), key=_STRING)
RECORD_LINE = 'Lines `{"record": ...}`'
ID_LINE = 'Lines `{"log_id": ...}`'

DESCRIPTION = """\
The de-id log of a site. An id that was answered is durable and resolves.

A request may say within how many seconds it wants its answer, with the header
`Deid-Hooks-Deadline`: a decimal number from 1 to 300, which counts for the nearest of
these. Without it the settings say.
"""

_PROBLEMS = {
    400: "Not JSON",
    401: "No token, or one that is not known",
    403: "The token may not do this",
    404: "There is nothing of that name, or nothing that this token may know of",
    408: "The body did not arrive in time",
    409: "What the log holds stands against it: `kind` says what",
    413: "Too large",
    415: "Not application/json",
    422: "JSON of another form",
    429: "Too many wrong tokens from this address",
    500: "The service failed",
    503: "The log gave no answer in time, or can't be read or written",
}


def answers(schema: Schema, media_type: str = _JSON) -> dict[int | str, Schema]:
    """The answers of an endpoint: the good one, and whatever can go wrong."""
    problem = {_JSON: {"schema": _ref("Problem")}}
    found: dict[int | str, Schema] = {
        status: {"description": what, "content": problem} for status, what in _PROBLEMS.items()
    }
    return {200: {"description": "Done", "content": {media_type: {"schema": schema}}}, **found}


def stream(line: str) -> dict[int | str, Schema]:
    """The answers of an endpoint that answers in lines of JSON."""
    last = 'and a last one, `{"end": true}`, or `{"problem": ...}` where it broke off.'
    return answers({"type": "string", "description": f"{line}, {last}"}, _NDJSON)


def body(schema: Schema) -> Schema:
    """The request body of an endpoint."""
    return {"requestBody": {"required": True, "content": {_JSON: {"schema": schema}}}}
