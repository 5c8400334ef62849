"""Answer the calls of each endpoint, once its sender is known and its body is read.

Whatever may identify a patient is in the access trail before it is answered. The first line of a
handler's docstring is the endpoint's summary in the OpenAPI document, the rest its description.

An ``async def`` runs in the event loop, where it must not wait; the others run in threads. JSON is
returned as the object that it is, a long answer as a Stream.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from http import HTTPStatus
from typing import Any

from prometheus_client import generate_latest
from starlette.responses import JSONResponse, Response

from deid_hooks.backends.contract import Receipt
from deid_hooks.errors import NotAllowed
from deid_hooks.log import ALTERED_REMEDY, Log
from deid_hooks.query.conditions import Condition, Equal, Query, Words
from deid_hooks.query.json_codec import encode_query
from deid_hooks.records.chain import erase_terms, find_wrong_terms
from deid_hooks.records.json_codec import encode_record, encode_text
from deid_hooks.records.keys import (
    compute_patient_digest,
    derive_project_key,
    key_entry,
    list_identities,
)
from deid_hooks.records.model import (
    OUTCOMES,
    AccessRow,
    Block,
    Entry,
    Erased,
    Erasure,
    Record,
    Tombstone,
    UploadEvent,
    parse_log_id,
    read_clock,
)
from deid_hooks_service.flywheel import make_records
from deid_hooks_service.forms import (
    RECEIPT,
    Problem,
    find_problem,
    make_invalid,
    make_not_found,
    refuse_malformed,
)
from deid_hooks_service.service import Call, Stream
from deid_hooks_service.tokens import Sender

_PAGE = 500
_ENTRIES_AT_ONCE = 100
_BY_UPLOADERS = ("cleared", *OUTCOMES)
_NO_ID = "that is no log id: 32 hex digits, with or without dashes"


# What is written.


async def log_packfile(call: Call) -> dict[str, Any]:
    """Log one packfile, as the Flywheel CLI does.

    The id is durable and resolves.
    """
    sender, service = call.sender, call.service
    if len(sender.projects) > 1:
        raise NotAllowed(
            f"the token {sender.name} is held to several projects, and this request names none",
            "use a token that is held to one",
        )
    project = sender.projects[0] if sender.projects else ""
    records = make_records(call.body, project, sender.name, service.log.keyring.newest)
    [log_id] = await service.committer.write(records, call.deadline, reuse=True)
    return {"id": log_id}


async def append(call: Call) -> dict[str, Any]:
    """Append records, all or none.

    Durable when it is answered. Repeat it with the same ids if no answer came. An entry comes
    without keyed digests (`digest`, `key` and `patients` empty, `large` by plain SHA-256): the
    service makes them. One of a blocked patient, or with a label that is another patient's in its
    project, is refused. Who and when of blocks and tombstones are the service's own, and the access
    trail has a row of them before; so are when an entry was made, when an upload was cleared and
    what it came to. Of a sender who keeps the trail, they are taken as they are.
    """
    sender, service = call.sender, call.service
    records: list[Record] = call.body["records"]
    if not sender.keeps_trail and any(isinstance(each, AccessRow | Erased) for each in records):
        raise NotAllowed(
            "the service writes the access trail itself, and seals what it writes",
            "to copy a log with its access trail, use a token made with --keeps-trail",
        )
    if sender.role != "admin":
        _refuse_unsound(records)
    if not sender.keeps_trail:
        await refuse_malformed(records)
    if sender.projects:
        await _require_projects(call, records)
    if sender.keeps_trail:
        if any(find_wrong_terms(each) for each in records if isinstance(each, AccessRow)):
            raise _make_conflict(
                "an access row is not what its commitment says, and verify would always name it",
                "send it as deid-hooks makes it",
            )
        # In the place of what was erased there is only a seal, and the service has its own.
        records = [record for record in records if not isinstance(record, Erased)]
    else:
        if any(isinstance(record, Block | Tombstone) for record in records):
            sent = records
            await service.ask(call.deadline, lambda: _record_changes(call, sent))
        at = read_clock()
        records = [_complete(call, _stamp(each, at, sender.name)) for each in records]
    checks = sender.role != "admin"
    return {"log_ids": await service.committer.write(records, call.deadline, checks=checks)}


def erase(call: Call) -> dict[str, Any]:
    """Erase entries, leaving tombstones; none if one of them was altered.

    Who and when are the service's own, and the access trail has a row of it before; ``who`` of the
    body is kept there beside the address. Of a sender who keeps the trail, they are taken as they
    are.
    """
    sender, log = call.sender, call.service.limit(call.deadline)
    log_ids, at, who, reason = (call.body[name] for name in ("log_ids", "at", "who", "reason"))
    there: list[str] = []
    for entry in () if sender.keeps_trail and not sender.projects else log.entries(log_ids):
        _refuse_altered(log, [entry])
        if sender.projects:
            sender.require_project(entry.project)
        there.append(entry.log_id)
    if not sender.keeps_trail:
        asked = " ".join(filter(parse_log_id, log_ids))
        call.record_access("erase", asked, there, reason, _name_place(call, [who]))
        at, who = read_clock(), sender.name
    log.erase(log_ids, Erasure(at, who, reason), call.deadline.left())
    return {"done": True}


def create(call: Call) -> dict[str, Any]:
    """Make the store of the log if there is none."""
    call.service.log.backend.create(call.deadline)
    return {"done": True}


def add_access(call: Call) -> dict[str, Any]:
    """Add a record to the access trail: what is asked and why, in the words of who asks.

    Who asks, from where and when are the service's own; what the sender says of it is kept beside
    the address. Of a sender who keeps the trail, the record is taken as it is.
    """
    row: AccessRow = call.body
    if call.sender.keeps_trail:
        call.service.limit(call.deadline).append([row])
        return {"done": True}
    where = _name_place(call, [f"{row.who} on {row.where}"])
    call.record_access(row.action, row.asked, row.log_ids, row.reason, where)
    return {"done": True}


# What is read.


def resolve(call: Call) -> dict[str, Any]:
    """Resolve: return what the store holds under this id.

    The entry for senders who may read it; for others a receipt, its keyed digest, which the service
    vouches for.
    """
    found = _find_checked(call)
    if isinstance(found, Tombstone):
        return {"record": _encode_for(found, call.sender)}
    if not call.sender.may("read entries"):
        return _make_receipt(call, found.log_id)
    call.record_access("show", found.log_id, [found.log_id])
    return {"record": encode_record(found)}


def read_receipt(call: Call) -> dict[str, Any]:
    """Resolve for an upload: return the receipt of an entry, or its tombstone.

    The service has read the entry back and found it whole, and says whether its patient is blocked.
    """
    found = _find_checked(call)
    if isinstance(found, Tombstone):
        return {"record": _encode_for(found, call.sender)}
    return _make_receipt(call, found.log_id)


def _find_checked(call: Call) -> Entry | Tombstone:
    """Return what the log holds under the id of the path, compared with its seal.

    Raises Problem 404 where there is nothing, or nothing of a project that the token is for.
    """
    asked, log = call.request.path_params["log_id"], call.service.limit(call.deadline)
    log_id = parse_log_id(asked)
    if log_id is None:
        raise make_not_found(_NO_ID)
    found = next(log.entries([log_id]), None) or log.tombstone(log_id)
    if found is None or not call.sender.reaches(found.project):
        raise make_not_found(f"the log has no entry {log_id}")
    _refuse_altered(log, [found])
    return found


def read_entries(call: Call) -> Stream:
    """Read entries, each as it was written."""
    wanted, reason = call.body["log_ids"], call.body.get("reason", "")
    log = call.service.limit(call.deadline)

    def show(page: list[Entry], first: bool) -> list[dict[str, Any]]:
        mine = [entry for entry in page if call.sender.reaches(entry.project)]
        _refuse_altered(log, mine)
        asked = " ".join(filter(parse_log_id, wanted)) if first else ""
        call.record_access("show", asked, [entry.log_id for entry in mine], reason)
        return [{"record": encode_record(entry)} for entry in mine]

    return Stream(log.entries(wanted), _ENTRIES_AT_ONCE, show)


def search(call: Call) -> Stream:
    """Search: return the ids of the entries that match, oldest first.

    The role `search` asks for one whole value of each attribute that identifies, and for at least
    one of them: parts, ranges and lists would spell out what it may not read.
    """
    query, reason = call.body["query"], call.body.get("reason", "")
    if not call.sender.may("search by parts of values"):
        _refuse_inexact(query)
        call.service.uses.count_question(call.sender.name)
    asked = json.dumps(encode_query(query)["terms"])

    def show(page: list[str], first: bool) -> list[dict[str, Any]]:
        reached = _find_reached(call, page)
        page = [log_id for log_id in page if log_id in reached]
        call.record_access("search", asked, page, reason)
        return [{"log_id": encode_text(log_id)} for log_id in page]

    return Stream(iter(call.service.log.backend.search(query, call.deadline)), _PAGE, show)


def find_equal(call: Call) -> dict[str, Any]:
    """Find the entry of exactly this content.

    The entry comes without keyed digests, as it would be appended.
    """
    entry: Entry = call.body["record"]
    call.sender.require_project(entry.project)
    log = call.service.limit(call.deadline)
    found = log.find_equal(key_entry(entry, list_identities(entry), log.keyring.newest))
    if found is None:
        raise make_not_found("the log has no entry of this content")
    return {"log_id": encode_text(found.log_id)}


def read_uploads(call: Call) -> Stream:
    """Read upload events, oldest first.

    Those of these entries; without ``log_ids`` of all, which uploaders may not ask for.
    """
    wanted = call.body.get("log_ids")
    if wanted is None:
        call.sender.require_right("follow all uploads")
    log = call.service.limit(call.deadline)

    def show(page: list[UploadEvent], first: bool) -> list[dict[str, Any]]:
        reached = _find_reached(call, {event.log_id for event in page})
        mine = [event for event in page if event.log_id in reached]
        _refuse_altered(log, mine)
        return [{"record": encode_record(event)} for event in mine]

    return Stream(log.uploads(wanted), _PAGE, show)


def find_label(call: Call) -> dict[str, Any]:
    """Return the label of a patient within a project: the one of before, or else the one to be.

    The answer does not tell whether the patient is known. The access trail has a row for each
    patient, project and day, with a keyed digest of the patient; there is a limit to them.
    """
    project, patient_id, issuer = (call.body[name] for name in ("project", "patient_id", "issuer"))
    call.sender.require_project(project)
    log = call.service.limit(call.deadline)
    digest = compute_patient_digest(patient_id, issuer, log.keyring.newest)
    call.record_use("label", f"{digest} in {project}")
    return {"label": encode_text(log.assign_label(project, patient_id, issuer))}


def derive_key(call: Call) -> dict[str, Any]:
    """Return the key with which engines make the UIDs of a project: 64 hex digits.

    No label and no digest can be made with it. The access trail has a row for each project and day.
    """
    project = call.body["project"]
    call.sender.require_project(project)
    log = call.service.limit(call.deadline)
    call.record_use("key", project)
    return {"key": derive_project_key(project, log.find_root(project)).hex()}


def block(call: Call) -> dict[str, Any]:
    """Block patients, by PatientID and issuer, or lift their blocks.

    Who and when are the service's own, and the access trail has a row of it before, with keyed
    digests of the patients.
    """
    names = ("patients", "project", "reason", "lift")
    patients, project, reason, lift = (call.body[name] for name in names)
    if not all(patient_id.strip("\0 ") for patient_id, _ in patients):
        raise NotAllowed("a block goes by PatientID, and one of these is empty: nobody was blocked")
    if not project:
        call.sender.require_all_projects()
    call.sender.require_project(project)
    log = call.service.limit(call.deadline)
    root = log.keyring.newest
    digests = (compute_patient_digest(number, issuer, root) for number, issuer in patients)
    call.record_access("lift" if lift else "block", " ".join(digests), [], reason)
    log.block(patients, project, call.sender.name, reason, lift)
    return {"done": True}


def read_records(call: Call) -> dict[str, Any]:
    """Read the records of the log after a cursor, in its order."""
    text = call.request.query_params.get("after", "0")
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise make_invalid("after must be the cursor of a page, or 0")
    page = call.service.log.backend.read(int(text), call.deadline)
    if any(map(_identifies, page.records)):
        ids = [record.log_id for record in page.records if isinstance(record, Entry)]
        call.record_access("read", "", ids)
    return {
        "records": list(map(encode_record, page.records)),
        "seals": list(page.seals),
        "cursor": str(page.cursor),
    }


def read_trail(call: Call) -> Stream:
    """Read the access trail and the seals of its records, from its beginning.

    An auditor gets the rows without what was asked and why.
    """
    whole = call.sender.may("read entries")

    def show(page: list[tuple[AccessRow, str]], first: bool) -> list[dict[str, Any]]:
        if not whole:
            page = [(erase_terms(row), seal) for row, seal in page]
        if any(_identifies(row) for row, _ in page):
            call.record_access("access", "", [])
        return [{"record": encode_record(row), "seal": seal} for row, seal in page]

    return Stream(iter(call.service.log.backend.trail(call.deadline)), _PAGE, show)


# How the service is.


async def say_alive(call: Call) -> dict[str, Any]:
    """Tell that the service is alive."""
    return {"alive": True}


async def say_ready(call: Call) -> Response:
    """Tell whether the log takes a write now.

    Anyone may ask, so the store is asked once a second at the most.
    """
    error = await call.service.check_for_all()
    if error is None:
        return JSONResponse({"done": True})
    problem = find_problem(error)  # where the log is concerns its administrators alone
    problem = Problem(problem.status, "the log can't be written", kind=problem.kind)
    return JSONResponse(problem.make_document(), problem.status)


def check(call: Call) -> dict[str, Any]:
    """Tell whether the log takes a write now, and who asks.

    ``key`` names the site secret that the log is served with.
    """
    call.service.limit(call.deadline).check()
    sender = call.sender
    return {
        "name": sender.name,
        "role": sender.role,
        "projects": list(sender.projects),
        "key": call.service.log.keyring.newest.name,
    }


async def show_metrics(call: Call) -> Response:
    """Return metrics for Prometheus."""
    text = generate_latest(call.service.metrics.registry)
    return Response(text, media_type="text/plain; version=0.0.4")


def _refuse_unsound(records: Sequence[Record]) -> None:
    """Raise unless these are what uploaders write: entries without digests, and their outcomes."""
    for record in records:
        if isinstance(record, Entry):
            if record.digest or record.key or record.patients:
                raise make_invalid("an entry comes without keyed digests: the service makes them")
        elif not isinstance(record, UploadEvent) or record.event not in _BY_UPLOADERS:
            raise NotAllowed("the role upload may log entries and what became of them only")


def _complete(call: Call, record: Record) -> Record:
    """Return an entry that has no keyed digests with them; any other record as it is."""
    if not isinstance(record, Entry) or record.key:
        return record
    return key_entry(record, list_identities(record), call.service.log.keyring.newest)


def _make_receipt(call: Call, log_id: str) -> dict[str, Any]:
    """Return the receipt of an entry. Raises LogUnavailable unless the log holds it whole."""
    # The log of the service, not one for this call: it knows the blocks that it proved before.
    log = call.service.log
    entry = log.resolve(log_id)
    blocked = log.is_blocked(entry)
    receipt = Receipt(entry.log_id, entry.project, entry.deid_uids, blocked=blocked)
    return {"receipt": RECEIPT.encode(receipt)}


_NOT_IDENTIFYING = frozenset(
    ("project", "created", "timestamp", "Modality", "StudyDescription", "SeriesDescription")
)
"""Of these the role ``search`` may ask for parts, ranges and lists, and for no other attribute."""


def _refuse_inexact(query: Query) -> None:
    """Raise NotAllowed for a query by which one could spell out what one may not read."""
    names = [(term.side, term.name) for term in query.terms if term.name not in _NOT_IDENTIFYING]
    exact = all(
        len(term.conditions) == 1 and _is_exact(term.conditions[0])
        for term in query.terms
        if term.name not in _NOT_IDENTIFYING
    )
    if not names or len(set(names)) < len(names) or not exact:
        raise NotAllowed(
            "the role search asks for one whole value of each attribute that identifies, and for"
            " at least one: no part, range, list or repeated keyword",
            "ask for whole values, or use a token with the role reidentify",
        )


def _is_exact(condition: Condition) -> bool:
    return isinstance(condition, Equal) or (
        isinstance(condition, Words) and not any(set(word) & set("*?") for word in condition.words)
    )


def _make_conflict(cause: str, remedy: str) -> Problem:
    return Problem(HTTPStatus.CONFLICT, cause, remedy, kind="LogUnavailable")


async def _require_projects(call: Call, records: Sequence[Record]) -> None:
    """Raise unless all of these are of projects that the token is for."""
    projects = {r.log_id: r.project for r in records if isinstance(r, Entry)}
    others = {getattr(r, "log_id", "") for r in records if not isinstance(r, Entry)} - set(projects)
    if others:
        log = call.service.limit(call.deadline)
        found = await call.service.ask(call.deadline, lambda: list(log.entries(others)))
        _refuse_altered(log, found)
        if len(found) < len(others):
            raise Problem(
                HTTPStatus.FORBIDDEN, "one of the entries is not there", kind="NotAllowed"
            )
        projects |= {entry.log_id: entry.project for entry in found}
    for project in projects.values():
        call.sender.require_project(project)


def _find_reached(call: Call, log_ids: Iterable[str]) -> set[str]:
    """Return those of the ids whose entries the token is for; no entry that was altered is."""
    if not call.sender.projects:
        return set(log_ids)
    log = call.service.limit(call.deadline)
    reached = {e.log_id for e in log.entries(log_ids) if call.sender.reaches(e.project)}
    return reached - log.altered.keys()


def _refuse_altered(log: Log, records: Iterable[Entry | UploadEvent | Tombstone]) -> None:
    """Raise Problem 409, which names the log id, if the log read one that is not as written."""
    for record in records:
        if what := log.altered.get(record.log_id):
            log_id = parse_log_id(record.log_id) or ""
            cause = f"the log was altered: {log_id or 'an id that is none'}: {what}"
            raise Problem(
                HTTPStatus.CONFLICT, cause, ALTERED_REMEDY, kind="LogError", log_id=log_id
            )


def _stamp(record: Record, at: str, who: str) -> Record:
    """Return a record as done by this person at this time.

    Entries that have keyed digests, as those of a history, are as they are, and so is when
    something was withdrawn from an archive.
    """
    if isinstance(record, Entry) and not record.key:
        return replace(record, created=at, uploader=_name_uploader(record.uploader, who))
    if isinstance(record, UploadEvent) and record.event in _BY_UPLOADERS:
        return replace(record, at=at, uploader=_name_uploader(record.uploader, who))
    if isinstance(record, Block):
        return replace(record, at=at, who=who)
    if isinstance(record, Tombstone):
        return replace(record, erasure=replace(record.erasure, at=at, who=who))
    return record


def _name_uploader(program: str, who: str) -> str:
    return f"{program} ({who})" if program else who


def _record_changes(call: Call, records: Iterable[Record]) -> None:
    """Write rows of the access trail for blocks, lifted blocks and tombstones that are sent."""
    found: dict[str, list[tuple[str, str, str]]] = {"block": [], "lift": [], "erase": []}
    for record in records:
        if isinstance(record, Block):
            action = "lift" if record.lifted else "block"
            found[action].append((record.patient, record.reason, record.who))
        elif isinstance(record, Tombstone):
            found["erase"].append((record.log_id, record.erasure.reason, record.erasure.who))
    for action, rows in found.items():
        if rows:
            asked, reasons, names = (
                list(dict.fromkeys(column)) for column in zip(*rows, strict=True)
            )
            log_ids = asked if action == "erase" else []
            where = _name_place(call, names)
            call.record_access(action, " ".join(asked), log_ids, "; ".join(reasons), where)


def _name_place(call: Call, names: Iterable[str]) -> str:
    """Return where a request comes from, with what its sender says of who it is, if anything."""
    said = ", ".join(filter(None, names))
    return f"{call.sender.address} ({said})" if said else call.sender.address


def _encode_for(record: Block | Tombstone, sender: Sender) -> dict[str, Any]:
    """Return the JSON of a record, with what people wrote in it only for who may read entries."""
    document = encode_record(record)
    if not sender.may("read entries"):
        document |= {"who": "", "reason": ""}
    return document


def _identifies(record: Record) -> bool:
    """Return whether reading it must be recorded in the access trail.

    Records of reading records hold nothing of a patient: they would have no end otherwise.
    """
    if isinstance(record, AccessRow):
        return bool(record.asked or record.reason)
    return isinstance(record, Entry | Block | Tombstone)
