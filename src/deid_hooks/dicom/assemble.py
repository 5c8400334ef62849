"""Assemble the changes of many instances to one entry: what they have in common stands once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

from deid_hooks.dicom.capture import KEYWORDS
from deid_hooks.dicom.dictionary import (
    lookup_tag,
)
from deid_hooks.dicom.difference import FINGERPRINT, Changes
from deid_hooks.errors import UnableToLog
from deid_hooks.records.keys import (
    SiteSecret,
    compute_content_digest,
    compute_patient_digest,
    write_canonical_json,
)
from deid_hooks.records.model import Entry, Instance, make_readable, read_clock

if TYPE_CHECKING:
    pass

Policy = Literal["all", "identifying"]

_CHARACTER_SET = "00080005"


def assemble(
    gathered: Sequence[Changes],
    log_id: str,
    project: str,
    uploader: str,
    secret: SiteSecret,
    fields: Sequence[str],
    policy: Policy = "all",
) -> Entry:
    """Return the entry of an acquisition. The order in which instances came makes no difference."""
    large = {plain: secret.digest(plain.encode()) for each in gathered for plain in each.large}
    originals = [_select_kept(each, large, fields, policy) for each in gathered]
    common = _find_common(originals)
    uid_counts = Counter(each.deid_uid for each in gathered)
    instances = [
        Instance(
            each.uid, each.deid_uid, _take_rest(each, own, common, uid_counts[each.deid_uid] > 1)
        )
        for each, own in zip(gathered, originals, strict=True)
    ]
    entry = Entry(
        log_id=log_id,
        created=read_clock(),
        uploader=uploader,
        project=project,
        timestamp=min((t for each in gathered if (t := each.timestamp)), default=None),
        fields=_list_distinct(each.fields for each in gathered),
        deid=_list_distinct(each.deid for each in gathered),
        originals=_encode_object(common),
        instances=tuple(sorted(instances, key=lambda i: (i.uid, i.deid_uid, i.originals))),
        uids=tuple(sorted(set(chain.from_iterable(each.uids for each in gathered)))),
        large={
            large[plain]: value
            for each in gathered
            for plain, value in each.large.items()
            if value is not None and policy == "all"
        },
        digest="",
        key=secret.name,
        patients=_digest_patients(gathered, secret),
    )
    return _add_digest(entry, secret)


def refuse_mixed_patients(gathered: Iterable[Changes]) -> None:
    """Raise UnableToLog if the instances disagree about the patient, naming files and keywords."""
    first: Changes | None = None
    for each in gathered:
        if first is None:
            first = each
        elif each.patient != first.patient:
            differing = [
                keyword
                for keyword, a, b in zip(KEYWORDS, first.patient, each.patient, strict=True)
                if a != b
            ]
            raise UnableToLog(
                f"the instances disagree on {', '.join(differing)}: {first.source or 'the first'}"
                f" and {each.source or 'a later one'} are not of one patient",
                "send them as acquisitions of their own, or correct the files",
            )


def _add_digest(entry: Entry, secret: SiteSecret) -> Entry:
    return replace(entry, digest=compute_content_digest(entry, secret))


def _digest_patients(gathered: Iterable[Changes], secret: SiteSecret) -> tuple[str, ...]:
    identities = {(each.patient.patient_id, each.patient.issuer) for each in gathered}
    known = ((number, issuer) for number, issuer in identities if number)
    return tuple(
        sorted({compute_patient_digest(number, issuer, secret) for number, issuer in known})
    )


def _find_common(originals: Sequence[dict[str, str]]) -> dict[str, str]:
    """Return what all of them say alike."""
    common = originals[0]
    for other in originals[1:]:
        common = {path: text for path, text in common.items() if other.get(path) == text}
    return common


def _select_kept(
    each: Changes, large: Mapping[str, str], fields: Sequence[str], policy: Policy
) -> dict[str, str]:
    """Return what the policy keeps of its originals, with keyed digests in place of plain ones."""
    originals = each.originals
    for plain in each.large:
        originals = {path: text.replace(plain, large[plain]) for path, text in originals.items()}
    if policy == "all":
        return originals
    wanted = {f"{tag:08X}" for keyword in fields if (tag := lookup_tag(keyword)) is not None}
    return {
        path: text if path in wanted or text == "null" else _drop_value_of_text(path, text)
        for path, text in originals.items()
    }


def _drop_value_of_text(path: str, text: str) -> str:
    tag = path.rpartition(".")[2]
    return write_canonical_json(_drop_value(tag, json.loads(text)))


def _drop_value(tag: str, element: dict[str, Any]) -> dict[str, Any]:
    """Return an element whose value is not kept, which restore names. UIDs stay, in sequences too.

    So do character sets, without which the indexed fields can't be read.
    """
    if element["vr"] == "UI" or tag == _CHARACTER_SET or set(element) <= {"vr", "creator"}:
        return element
    if element["vr"] != "SQ":
        return {"vr": element["vr"], "length": 0}
    items = [
        {inner: _drop_value(inner, value) for inner, value in item.items()}
        for item in element["Value"]
    ]
    return {**element, "Value": items}


def _take_rest(each: Changes, own: dict[str, str], common: dict[str, str], shared_uid: bool) -> str:
    rest = {path: text for path, text in own.items() if path not in common}
    if shared_uid:
        rest[FINGERPRINT] = write_canonical_json({"vr": "UL", "Value": [each.fingerprint]})
    return _encode_object(rest)


def _encode_object(members: Mapping[str, str]) -> str:
    """Return a JSON object of members that are JSON text already."""
    return "{" + ",".join(f'"{path}":{text}' for path, text in sorted(members.items())) + "}"


def _list_distinct(rows: Iterable[Mapping[str, str]]) -> dict[str, tuple[str, ...]]:
    """Keyword to its distinct values, sorted: the first is the one in the column.

    An empty value comes last, so that it hides no other.
    """
    values: dict[str, set[str]] = {}
    for row in {id(row): row for row in rows}.values():  # most instances share one
        for keyword, value in row.items():
            values.setdefault(keyword, set()).add(make_readable(value))
    return {
        keyword: tuple(sorted(found, key=lambda value: (not value, value)))
        for keyword, found in sorted(values.items())
    }
