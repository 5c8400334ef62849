"""Flywheel: the packfiles that its CLI posts, and the users of a Flywheel site.

A packfile is some images, mostly of one series. ``indexed_fields`` has its keywords and values;
``deidentified_tags``, which releases before 15.9 fill, has elements of the DICOM JSON model
(PS3.18, annex F) by tag.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import re
import ssl
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import httpx

from deid_hooks.dicom.capture import format_iso
from deid_hooks.dicom.dictionary import NAME_GROUPS, lookup_tag, lookup_vr
from deid_hooks.records.fields import INDEXED_FIELDS
from deid_hooks.records.json_codec import describe_list, describe_object, write_canonical_json
from deid_hooks.records.keys import RootKey, key_entry
from deid_hooks.records.model import Entry, UploadEvent, make_log_id, make_readable, read_clock
from deid_hooks_service.forms import (
    STRING,
    Body,
    Form,
    Schema,
    make_busy,
    make_invalid,
    make_reference,
)

if TYPE_CHECKING:
    from deid_hooks_service.tokens import Tokens

DESTINATION = "flywheel:"

_TAG = re.compile("[0-9A-Fa-f]{8}")
_VR = re.compile("[A-Z]{2}")
_PATIENT = ("PatientID", "IssuerOfPatientID")
_VALUE_MEMBERS = ("Value", "InlineBinary", "BulkDataURI")
_DEEPEST = 20
_MOST_BYTES = 8 * 1024 * 1024
_KNOWN_SECONDS = 60.0
_UNKNOWN_SECONDS = 10.0
_MOST_REMEMBERED = 10_000
_NO_ELEMENT = "deidentified_tags holds what is no element of the DICOM JSON model"


def make_records(
    document: Mapping[str, Any], project: str, uploader: str, root: RootKey
) -> tuple[Entry, UploadEvent]:
    """Return the entry of a packfile, and the event that it is about to leave.

    ``document`` is what :data:`PACKFILE` reads.
    """
    fields, tags = document["indexed_fields"], document.get("deidentified_tags", {})
    moment = read_clock()
    patient, issuer = (fields.get(name, "").strip(" \0") for name in _PATIENT)
    entry = Entry(
        log_id=make_log_id(),
        created=moment,
        uploader=uploader,
        project=project,
        timestamp=_find_timestamp(fields),
        fields={keyword: (make_readable(value),) for keyword, value in sorted(fields.items())},
        deid={},
        originals=write_canonical_json({**_make_originals(fields), **tags}),
        instances=(),
        uids=(),
        large={},
        digest="",
        key="",
    )
    event = UploadEvent(entry.log_id, moment, "cleared", DESTINATION, uploader)
    return key_entry(entry, [(patient, issuer)], root), event


def _find_timestamp(fields: Mapping[str, str]) -> str | None:
    return format_iso(fields.get("SeriesDate"), fields.get("SeriesTime")) or format_iso(
        fields.get("StudyDate"), fields.get("StudyTime")
    )


def _make_originals(fields: Mapping[str, str]) -> dict[str, Any]:
    """Return an element for each field that has a tag; Flywheel's two *DateTime have none."""
    found: dict[str, Any] = {}
    for keyword, value in fields.items():
        tag = lookup_tag(keyword)
        if tag is not None:
            vr = lookup_vr(tag)
            plain: Any = _split_name(value) if vr == "PN" else value
            found[f"{tag:08X}"] = {"vr": vr, "Value": [plain]} if value else {"vr": vr}
    return found


def _split_name(value: str) -> dict[str, str]:
    groups = zip(NAME_GROUPS, value.split("=", 2), strict=False)
    return {name: group for name, group in groups if group}


def _read_fields(name: str, document: Any) -> dict[str, str]:
    if not isinstance(document, dict):
        raise make_invalid(f"{name} must be an object")
    for keyword, value in document.items():
        if keyword not in INDEXED_FIELDS:
            raise make_invalid(f"{name} has a member that is no indexed field")
        if not isinstance(value, str):
            raise make_invalid(f"{keyword} must be a text")
    return document


def _read_elements(document: Any, depth: int) -> dict[str, Any]:
    """Return elements by upper-case tag, as the log writes them; raise Problem 422."""
    if not isinstance(document, dict) or not all(_TAG.fullmatch(tag) for tag in document):
        raise make_invalid("deidentified_tags must hold elements by tag, eight hex digits")
    return {tag.upper(): _read_element(element, depth) for tag, element in document.items()}


def _read_element(document: Any, depth: int) -> dict[str, Any]:
    if not isinstance(document, dict) or document.keys() - {"vr", *_VALUE_MEMBERS}:
        raise make_invalid(_NO_ELEMENT)
    vr, values = document.get("vr"), document.get("Value", [])
    binary = [document[name] for name in _VALUE_MEMBERS[1:] if name in document]
    if (
        not isinstance(vr, str)
        or not _VR.fullmatch(vr)
        or not isinstance(values, list)
        or not all(isinstance(each, str) for each in binary)
        or depth == 0
    ):
        raise make_invalid(_NO_ELEMENT)
    if "Value" not in document:
        return document
    return {**document, "Value": [_read_value(vr, value, depth) for value in values]}


def _read_value(vr: str, value: Any, depth: int) -> Any:
    if vr == "SQ":
        return _read_elements(value, depth - 1)
    if value is None:
        return None
    if vr == "PN":
        if isinstance(value, dict) and _is_name(value):
            return value
    elif isinstance(value, str):
        return value
    elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return str(value) if vr in ("DS", "IS") else value
    raise make_invalid("deidentified_tags holds a value that is none of its VR")


def _is_name(value: dict[str, Any]) -> bool:
    groups = value.values()
    return not value.keys() - set(NAME_GROUPS) and all(isinstance(g, str) for g in groups)


def _describe_elements(element: Schema) -> Schema:
    tags = {"pattern": "^[0-9A-Fa-f]{8}$"}
    return {"type": "object", "propertyNames": tags, "additionalProperties": element}


def _describe_element(vr: Schema, value: Schema) -> Schema:
    binary = dict.fromkeys(_VALUE_MEMBERS[1:], STRING)
    return describe_object({"vr": vr, "Value": describe_list(value), **binary}, _VALUE_MEMBERS)


_ELEMENT = make_reference("Element")
_NAME = describe_object(dict.fromkeys(NAME_GROUPS, STRING), NAME_GROUPS)
_OTHER_VR = {"type": "string", "pattern": "^([A-OQ-RT-Z][A-Z]|P[A-MO-Z]|S[A-PR-Z])$"}

ELEMENT: Schema = {
    "description": "An element of the DICOM JSON model (PS3.18, annex F).",
    "anyOf": [
        _describe_element({"const": "SQ"}, _describe_elements(_ELEMENT)),
        _describe_element({"const": "PN"}, {"anyOf": [_NAME, {"type": "null"}]}),
        _describe_element(_OTHER_VR, {"anyOf": [STRING, {"type": "number"}, {"type": "null"}]}),
    ],
}
PACKFILE = Body(
    {
        "indexed_fields": Form(
            _read_fields, describe_object(dict.fromkeys(INDEXED_FIELDS, STRING), INDEXED_FIELDS)
        )
    },
    {
        "deidentified_tags": Form(
            lambda _, document: _read_elements(document, _DEEPEST),
            _describe_elements(_ELEMENT),
            _MOST_BYTES,
        )
    },
)


class FlywheelUsers:
    """Asks a site whose API key it is (``GET /api/auth/status``), and remembers it for a while.

    Its users log packfiles of ``projects``, and nothing else.
    """

    def __init__(self, site: str, projects: Sequence[str] = (), seconds: float = 5.0) -> None:
        self.projects = tuple(projects)
        # the certificates that this machine trusts, the CA of a hospital among them
        trusted = ssl.create_default_context()
        self._client = httpx.AsyncClient(base_url=site.rstrip("/"), timeout=seconds, verify=trusted)
        self._seconds = seconds
        self._remembered: dict[bytes, tuple[float, str]] = {}
        self._good: set[bytes] = set()

    def is_key(self, scheme: str, text: str, tokens: Tokens) -> bool:
        """Return whether a request has a key of Flywheel, ``scitran-user HOST:...:KEY``.

        A token of the service is none, also one that was revoked: no other site is to see it.
        """
        return scheme.lower() == "scitran-user" and ":" in text and not tokens.was_known(text)

    def knew(self, authorization: str) -> bool:
        """Return whether the site knew this key lately: whoever has it doesn't guess."""
        return _hash_key(authorization) in self._good

    async def find_name(self, authorization: str) -> str:
        """Return ``flywheel:`` and the user whose key this is; ``""`` if the site knows none.

        Raises Problem 503 if the site does not answer, for then nobody can tell.
        """
        key = _hash_key(authorization)
        until, name = self._remembered.get(key, (0.0, ""))
        if time.monotonic() >= until:
            name = await self._ask(authorization)
            if len(self._remembered) > _MOST_REMEMBERED:
                self._remembered.clear()
            seconds = _KNOWN_SECONDS if name else _UNKNOWN_SECONDS
            self._remembered[key] = time.monotonic() + seconds, name
            if name and len(self._good) < _MOST_REMEMBERED:
                self._good.add(key)
            elif not name:
                self._good.discard(key)
        return name

    async def close(self) -> None:
        """Close the connections to the site."""
        await self._client.aclose()

    async def _ask(self, authorization: str) -> str:
        headers = {"Authorization": authorization}
        try:
            async with asyncio.timeout(self._seconds):  # httpx allows as much for each byte
                answer = await self._client.get("/api/auth/status", headers=headers)
            if answer.status_code in (401, 403):
                return ""
            return _find_user(answer.raise_for_status().json())
        except (httpx.HTTPError, TimeoutError, ValueError, RecursionError):
            raise make_busy("the Flywheel site that knows this key gave no usable answer") from None


def _find_user(status: Any) -> str:
    """Return the user in an answer of the site; devices and jobs are no users."""
    origin = status.get("origin") if isinstance(status, dict) else None
    if not isinstance(origin, dict) or origin.get("type") != "user":
        return ""
    user = origin.get("id")
    return f"flywheel:{user}" if user and isinstance(user, str) else ""


def _hash_key(authorization: str) -> bytes:
    return hashlib.sha256(authorization.encode("utf-8", "surrogatepass")).digest()
