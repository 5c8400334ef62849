"""Who may do what, and what of it stands in the access trail before it is answered."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest
from running import Site, lines, packfile

from deid_hooks.deadline import Deadline
from deid_hooks.query.json_codec import encode_query
from deid_hooks.query.parser import parse_terms
from deid_hooks.records.chain import Verification
from deid_hooks.records.json_codec import encode_record
from deid_hooks.records.keys import (
    Pseudonyms,
    compute_content_digest,
    compute_patient_digest,
    make_sealer,
)
from deid_hooks.records.model import (
    AccessRow,
    Block,
    Entry,
    Erased,
    Erasure,
    Instance,
    Tombstone,
    UploadEvent,
    make_log_id,
)
from deid_hooks.testing.records import make_entry
from deid_hooks_service.forms import Problem
from deid_hooks_service.service import Uses

CANARY = "Zyxwvut^Canary"


def an_entry(site: Site, project: str = "", patient: str = "4711") -> Entry:
    """An entry as a machine with the keyring makes it."""
    root = site.recorder.keyring.newest
    digest = compute_patient_digest(patient, "", root)
    entry = make_entry(
        project=project,
        key=root.name,
        fields={"PatientName": (CANARY,), "PatientID": (patient,)},
        originals=json.dumps({"00100010": {"vr": "PN", "Value": [{"Alphabetic": CANARY}]}}),
        deid={"PatientID": (f"SUBJ-{digest[:10]}",)},
        patients=(digest,),
    )
    return replace(entry, digest=compute_content_digest(entry, root))


def plain(entry: Entry) -> Entry:
    """An entry as an uploader sends it: without keyed digests."""
    return replace(entry, digest="", key="", patients=())


def append(client: httpx.Client, *records: Any) -> httpx.Response:
    return client.post(
        "/v1/records", json={"records": [encode_record(record) for record in records]}
    )


def query(*terms: str) -> dict[str, Any]:
    return {"query": encode_query(parse_terms(terms)), "reason": "finding"}


def read_trail(site: Site) -> list[tuple[AccessRow, str]]:
    return list(site.recorder.backend.trail(Deadline()))


def rows(site: Site) -> list[AccessRow]:
    return [row for row, _ in read_trail(site)]


def find_faults(site: Site) -> list[str]:
    """What is wrong with the log of a site."""
    log = site.recorder
    verification = Verification(make_sealer(log.keyring))
    for record, seal in log.backend.chain(Deadline()):
        assert not list(verification.check(record, seal)), record
    return [fault.what for fault in verification.finish()]


BLOCK = {"patients": [["1234", ""]], "project": "", "reason": "asked to", "lift": False}
EVERYTHING: list[tuple[str, str, Any]] = [
    ("POST", "/v1/search", query("PatientID=4711")),
    ("POST", "/v1/entries", {"log_ids": []}),
    ("GET", "/v1/records", None),
    ("GET", "/v1/trail", None),
    ("POST", "/v1/uploads", {}),
    ("POST", "/v1/erasures", {"log_ids": [], "at": "", "who": "", "reason": ""}),
    ("PUT", "/v1/store", None),
    ("POST", "/v1/records", {"records": []}),
    ("POST", "/v1/equal", {"record": encode_record(make_entry(digest="", key=""))}),
    ("POST", "/v1/labels", {"project": "TRIAL7", "patient_id": "4711", "issuer": ""}),
    ("POST", "/v1/keys", {"project": "TRIAL7"}),
    ("POST", "/v1/blocks", BLOCK),
]
MAY = {
    "upload": {"/v1/records POST", "/v1/equal POST", "/v1/labels POST", "/v1/keys POST"},
    "search": {"/v1/search POST", "/v1/uploads POST"},
    "reidentify": {"/v1/search POST", "/v1/uploads POST", "/v1/entries POST"},
}


@pytest.mark.parametrize("role", MAY)
def test_a_role_may_do_what_is_its_own_and_is_told_what_it_may_not(site: Site, role: str) -> None:
    client = site.client(site.token(role))
    for method, path, body in EVERYTHING:
        answer = client.request(method, path, json=body)
        if f"{path} {method}" in MAY[role]:
            assert answer.status_code in (200, 404), path
        else:
            assert answer.status_code == 403, path
            assert f"has the role {role}, which may not" in answer.json()["message"]


def test_nothing_is_answered_without_a_token_that_is_good(site: Site) -> None:
    expired = site.token("admin", expires="2020-01-01T00:00:00.000000Z")
    revoked = site.token("admin")
    good = site.client(revoked)
    assert good.get("/v1/check").status_code == 200
    site.tokens.revoke(site.tokens.all()[-1].name)
    for form in (None, "Bearer", f"Bearer {expired}", f"Bearer {revoked}", f"Basic {revoked}"):
        headers = {"Authorization": form} if form else {}
        answer = httpx.get(f"{site.url}/v1/records", headers=headers)
        assert answer.status_code == 401
        assert "message" in answer.json()


def test_an_uploader_reads_nothing_that_identifies_not_even_what_it_wrote(site: Site) -> None:
    uploader = site.client(site.token("upload"))
    entry = an_entry(site)
    assert append(uploader, plain(entry)).json() == {"log_ids": [entry.log_id]}
    before = rows(site)
    answers = [uploader.get(f"/v1/{name}/{entry.log_id}") for name in ("receipts", "entries")]
    for answer in answers:
        assert answer.json()["receipt"] == {
            "log_id": entry.log_id,
            "project": "",
            "deid_uids": list(entry.deid_uids),
            "blocked": False,
            **{"digest": "", "key": "", "patients": []},
        }
    for sent in (plain(entry), plain(replace(entry, timestamp="another"))):
        answers.append(uploader.post("/v1/equal", json={"record": encode_record(sent)}))
    answers.append(uploader.post("/v1/uploads", json={"log_ids": [entry.log_id]}))
    assert [each.status_code for each in answers] == [200, 200, 200, 404, 200]
    assert not any(CANARY in each.text or "4711" in each.text for each in answers)
    assert rows(site) == before, "nothing to record"


def test_an_uploader_hears_that_a_patient_is_blocked_and_not_by_whom_and_why(site: Site) -> None:
    uploader = site.client(site.token("upload"))
    before, later = (an_entry(site, patient="withdrawn") for _ in range(2))
    assert append(uploader, plain(before)).status_code == 200
    body = {**BLOCK, "patients": [["withdrawn", ""]], "reason": CANARY}
    assert site.client(site.token("admin")).post("/v1/blocks", json=body).status_code == 200
    receipt = uploader.get(f"/v1/receipts/{before.log_id}")
    assert receipt.json()["receipt"]["blocked"] is True
    refused = append(uploader, plain(later))
    assert (refused.status_code, refused.json()["cause"]) == (
        403,
        "uploads of this patient are blocked",
    )
    assert not any(CANARY in answer.text for answer in (receipt, refused))


def test_a_block_is_in_the_name_of_the_token_and_in_the_trail_before(site: Site) -> None:
    admin = site.client(site.token("admin"))
    name = site.tokens.all()[-1].name
    body = {**BLOCK, "patients": [["on request", "A"]], "project": "TRIAL7"}
    for lift in (False, True):
        assert admin.post("/v1/blocks", json={**body, "lift": lift}).status_code == 200
    digest = compute_patient_digest("on request", "A", site.recorder.keyring.newest)
    blocks = list(site.recorder.backend.blocks([digest], Deadline()))
    assert [(block.who, block.project, block.lifted) for block in blocks] == [
        (name, "TRIAL7", False),
        (name, "TRIAL7", True),
    ]
    found = [(row.action, row.asked, row.who) for row in rows(site) if row.asked == digest]
    assert found == [("block", digest, name), ("lift", digest, name)]
    nobody = admin.post("/v1/blocks", json={**body, "patients": [["4711", ""], [" ", "A"]]})
    assert (nobody.status_code, "nobody was blocked" in nobody.json()["cause"]) == (403, True)
    held = site.client(site.token("admin", "TRIAL7"))
    assert held.post("/v1/blocks", json=body).status_code == 200
    for project in ("TRIAL8", ""):
        assert held.post("/v1/blocks", json={**body, "project": project}).status_code == 403


def test_asking_for_a_label_tells_nobody_whether_the_patient_is_known(site: Site) -> None:
    known = an_entry(site, "LABELS", "known")
    site.recorder.append([known])
    uploader = site.client(site.token("upload", "LABELS"))
    name = site.tokens.all()[-1].name

    def ask(patient: str, project: str = "LABELS") -> httpx.Response:
        body = {"project": project, "patient_id": patient, "issuer": ""}
        return uploader.post("/v1/labels", json=body)

    before = len(rows(site))
    answers = [ask(patient) for patient in ("known", "unknown", "known", "unknown")]
    assert [answer.json()["label"] for answer in answers[:2]] == [
        answer.json()["label"] for answer in answers[2:]
    ]
    assert answers[0].json() == {"label": known.deid["PatientID"][0]}
    assert re.fullmatch("SUBJ-[0-9A-Z]{10}", answers[1].json()["label"])
    assert ask("known", "TRIAL8").status_code == 403
    written = rows(site)[before:]
    assert [(row.action, row.who, row.log_ids) for row in written] == [("label", name, ())] * 2
    assert not any("known" in row.asked for row in written)


def test_a_label_that_is_another_patients_already_is_made_longer(site: Site) -> None:
    taken = site.recorder.make_pseudonyms("TAKEN", {}).label("second", "")
    first = replace(plain(an_entry(site, "TAKEN", "first")), deid={"PatientID": (taken,)})
    uploader = site.client(site.token("upload", "TAKEN"))
    assert append(uploader, first).status_code == 200
    body = {"project": "TAKEN", "patient_id": "second", "issuer": ""}
    label = uploader.post("/v1/labels", json=body).json()["label"]
    assert (label[: len(taken)], len(label)) == (taken, len(taken) + 2)


def test_a_token_gets_the_labels_of_so_many_patients_an_hour(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    uses = Uses()
    monkeypatch.setattr("deid_hooks_service.service._MOST_AN_HOUR", 2)
    assert [uses.is_new("ws12", what) for what in "ab"] == [True, True]
    uses.note("ws12", "a")
    assert not uses.is_new("ws12", "a"), "once more, and not recorded again"
    with pytest.raises(Problem, match="2 patients in an hour") as refused:
        uses.is_new("ws12", "c")
    assert (refused.value.status, refused.value.kind) == (429, "NotAllowed")
    assert uses.is_new("ws13", "c")


def test_a_key_that_makes_uids_makes_no_labels(site: Site) -> None:
    uploader = site.client(site.token("upload", "KEYS"))
    key = bytes.fromhex(uploader.post("/v1/keys", json={"project": "KEYS"}).json()["key"])
    there = site.recorder.make_pseudonyms("KEYS", {})
    here = Pseudonyms("KEYS", key)
    assert here.uid("1.2.3") == there.uid("1.2.3")
    assert here.label("4711", "") != there.label("4711", "")
    body = {"project": "KEYS", "patient_id": "4711", "issuer": ""}
    assert uploader.post("/v1/labels", json=body).json()["label"] == there.label("4711", "")
    assert uploader.post("/v1/keys", json={"project": "TRIAL7"}).status_code == 403


def test_a_planted_label_is_refused(site: Site) -> None:
    uploader, admin = (site.client(site.token(role)) for role in ("upload", "admin"))

    def labelled(patient: str, label: str) -> Entry:
        return replace(plain(an_entry(site, "PLANTED", patient)), deid={"PatientID": (label,)})

    assert append(uploader, labelled("first", "SUBJ-1")).status_code == 200
    assert append(uploader, labelled("first", "SUBJ-1")).status_code == 200
    refused = append(uploader, labelled("second", "SUBJ-1"))
    assert refused.status_code == 403
    assert "is another patient's" in refused.json()["cause"]
    both = append(uploader, labelled("third", "SUBJ-3"), labelled("fourth", "SUBJ-3"))
    assert both.status_code == 403
    assert append(admin, labelled("second", "SUBJ-1")).status_code == 200, "who joins them"
    assert append(uploader, labelled("second", "SUBJ-1")).status_code == 200


def test_an_uploader_writes_sound_entries_and_outcomes_only(site: Site) -> None:
    uploader = site.client(site.token("upload"))
    entry = an_entry(site)
    event = UploadEvent(entry.log_id, "t", "uploaded", "d", "sender/1")
    assert append(uploader, plain(entry), event).status_code == 200
    name = site.tokens.all()[-1].name
    there = site.recorder.resolve(entry.log_id)
    assert isinstance(there, Entry)
    assert replace(there, created=entry.created, uploader=entry.uploader) == entry
    assert (there.uploader, there.created > "2026-11") == (f"sender/1.2 ({name})", True)
    [kept] = site.recorder.uploads([entry.log_id])
    assert (kept.uploader, kept.at > "2026-11") == (f"sender/1 ({name})", True)
    assert append(uploader, entry).status_code == 422, "the service makes the digests"
    for record in (
        AccessRow(make_log_id(), "t", "who", "host", "show", "", ()),
        Block(make_log_id(), "t", "ab", "", "who", "why"),
        replace(event, event="withdrawn"),
    ):
        assert append(uploader, record).status_code == 403


def test_one_bad_record_fails_its_own_request_and_no_other(site: Site) -> None:
    client = site.client(site.token("admin"))
    entry, new = an_entry(site), an_entry(site)
    append(client, entry)
    conflict = append(client, new, replace(entry, project="other"))
    assert (conflict.status_code, conflict.json()["kind"]) == (409, "IdConflict")
    assert client.get(f"/v1/entries/{new.log_id}").status_code == 404
    assert append(client, new).status_code == 200


def test_who_asked_and_why_is_in_the_trail_before_the_answer(site: Site) -> None:
    entry = an_entry(site, patient="asked for")
    site.recorder.append([entry])
    token = site.token("reidentify")
    name = site.tokens.all()[-1].name
    client = site.client(token)
    before = len(rows(site))
    [line] = lines(client.post("/v1/search", json=query("PatientID=asked for")))
    assert line == {"log_id": entry.log_id}
    body = {"log_ids": [entry.log_id], "reason": "finding"}
    [line] = lines(client.post("/v1/entries", json=body))
    assert line["record"] == encode_record(entry)
    assert client.get(f"/v1/entries/{entry.log_id}").json() == {"record": encode_record(entry)}
    assert not list(lines(client.post("/v1/search", json=query("PatientID=nobody"))))
    search, show, resolve, nothing = rows(site)[before:]
    assert "asked for" in search.asked
    assert (search.action, search.reason, search.log_ids) == ("search", "finding", (entry.log_id,))
    assert (show.action, show.asked, show.reason) == ("show", entry.log_id, "finding")
    assert (resolve.action, resolve.log_ids) == ("show", (entry.log_id,))
    assert (nothing.action, nothing.log_ids) == ("search", ())
    assert {(row.who, row.where) for row in rows(site)[before:]} == {(name, "127.0.0.1")}
    assert find_faults(site) == []


def test_an_administrator_who_reads_the_log_is_in_the_trail_and_comes_to_its_end(
    site: Site,
) -> None:
    site.recorder.append([an_entry(site)])
    client = site.client(site.token("admin"))
    name = site.tokens.all()[-1].name
    cursor, pages = "0", 0
    while (page := client.get(f"/v1/records?after={cursor}").json())["records"]:
        cursor, pages = page["cursor"], pages + 1
        assert pages < 100
    assert [row.action for row in rows(site) if row.who == name] == ["read"] * (pages - 1)
    before = read_trail(site)
    trail = list(lines(client.get("/v1/trail")))
    assert [(row["record"]["id"], row["seal"]) for row in trail][: len(before)] == [
        (row.id, seal) for row, seal in before
    ]
    assert [row.action for row in rows(site)[len(before) :]] == ["access"]


def test_nobody_writes_access_rows_but_who_keeps_the_trail(site: Site) -> None:
    [row, *_] = rows(site)
    forged = replace(row, id=make_log_id(), who="somebody else")
    before = rows(site)
    refused = append(site.client(site.token("admin")), an_entry(site), forged)
    assert (refused.status_code, refused.json()["kind"]) == (403, "NotAllowed")
    assert rows(site) == before
    keeper = site.client(site.tokens.add("keeper of the trail", "admin", keeps_trail=True))
    assert append(keeper, *before).status_code == 200
    spoilt = replace(row, id=make_log_id(), reason="another")
    assert append(keeper, spoilt).status_code == 409, "verify would name it for ever"
    assert find_faults(site) == []


ESCAPE = "\x1b]0;owned\x07"
MALFORMED: list[tuple[str, dict[str, Any]]] = [
    ("the project", {"project": "\u202eX"}),
    ("the project", {"project": "x" * 201}),
    ("the name of the uploader", {"uploader": ESCAPE}),
    ("a label", {"deid": {"PatientID": (f"SUBJ{ESCAPE}",)}}),
    ("a label", {"deid": {"PatientID": ("S" * 65,)}}),
    ("a UID", {"instances": (Instance("1.2", f"2.25.1{ESCAPE}"),)}),
    ("a UID", {"uids": (("2.25.9\n", "1.2"),)}),
    ("a keyword", {"fields": {ESCAPE: ()}}),
    ("when an entry was made", {"created": "yesterday"}),
    ("when images were acquired", {"timestamp": "2006-08-15 10:00"}),
    ("the originals", {"originals": "[]"}),
    ("the originals", {"instances": (Instance("1.2", "2.25.1", '{"a":1}'),)}),
]


@pytest.mark.parametrize(("what", "values"), MALFORMED)
def test_an_entry_that_nobody_should_have_to_read_is_refused(
    site: Site, what: str, values: dict[str, Any]
) -> None:
    entry = make_entry(digest="", key="", **values)
    answer = append(site.client(site.token("upload")), entry)
    assert answer.status_code == 422
    assert answer.json()["cause"].startswith(what)


def test_an_event_that_nobody_should_have_to_read_is_refused(site: Site) -> None:
    entry = an_entry(site)
    site.recorder.append([entry])
    client = site.client(site.token("admin"))
    good = UploadEvent(entry.log_id, "2026-01-01T00:00:00Z", "withdrawn", "folder:/a", "sender")
    for event in (
        replace(good, destination=ESCAPE),
        replace(good, event="praised"),
        replace(good, at="2026"),
        replace(good, uploader="x" * 5001),
    ):
        assert append(client, event).status_code == 422
    assert append(client, good).status_code == 200


def test_a_token_that_is_held_to_projects_reaches_no_other(site: Site) -> None:
    ours, other = an_entry(site, "TRIAL7", "held"), an_entry(site, "TRIAL8", "held")
    site.recorder.append([ours, other])
    client = site.client(site.token("reidentify", "TRIAL7"))
    assert list(lines(client.post("/v1/search", json=query("PatientID=held")))) == [
        {"log_id": ours.log_id}
    ]
    both = {"log_ids": [ours.log_id, other.log_id]}
    assert len(list(lines(client.post("/v1/entries", json=both)))) == 1
    assert client.get(f"/v1/entries/{other.log_id}").status_code == 404
    uploader = site.client(site.token("upload", "TRIAL7"))
    body = {"record": encode_record(plain(other))}
    assert uploader.post("/v1/equal", json=body).status_code == 403
    assert append(uploader, plain(an_entry(site, "TRIAL8"))).status_code == 403
    event = UploadEvent(other.log_id, "t", "uploaded", "d", "u")
    assert append(uploader, event).status_code == 403
    assert append(uploader, replace(event, log_id=ours.log_id)).status_code == 200
    admin = site.client(site.token("admin", "TRIAL7"))
    assert admin.get("/v1/records").status_code == 403
    erasure = {"log_ids": [other.log_id], "at": "t", "who": "w", "reason": "r"}
    assert admin.post("/v1/erasures", json=erasure).status_code == 403
    assert isinstance(site.recorder.resolve(other.log_id), Entry)


def test_the_place_of_an_erased_entry_is_taken_from_who_keeps_the_trail_alone(site: Site) -> None:
    place, entry = Erased("entry", make_log_id()), an_entry(site)
    for role in ("upload", "admin"):
        refused = append(site.client(site.token(role)), entry, place)
        assert (refused.status_code, refused.json()["kind"]) == (403, "NotAllowed")
    keeper = site.client(site.token("admin", keeps_trail=True))
    assert append(keeper, entry, place).json() == {"log_ids": [entry.log_id]}
    assert find_faults(site) == [], "the service seals itself, and has no such place"


def test_who_and_when_of_a_block_are_the_services_own_and_a_retry_changes_nothing(
    site: Site,
) -> None:
    client = site.client(site.token("admin"))
    name = site.tokens.all()[-1].name
    block = Block(make_log_id(), "1999", "a" * 64, "", "Dr. Who", CANARY)
    before = len(rows(site))
    assert append(client, block).status_code == 200
    [written] = site.recorder.backend.blocks(["a" * 64], Deadline())
    assert (written.who, written.at > "2026") == (name, True)
    assert replace(written, at="1999", who="Dr. Who") == block
    assert append(client, replace(block, at="2000", who="another")).status_code == 200
    assert list(site.recorder.backend.blocks(["a" * 64], Deadline())) == [written]
    lift = replace(block, id=make_log_id(), lifted=True)
    assert append(client, lift).status_code == 200
    assert [(row.action, row.who, row.where, row.reason) for row in rows(site)[before:]] == [
        ("block", name, "127.0.0.1 (Dr. Who)", CANARY),
        ("block", name, "127.0.0.1 (another)", CANARY),
        ("lift", name, "127.0.0.1 (Dr. Who)", CANARY),
    ]
    order = [type(each) for each in site.recorder.backend.everything(Deadline())][-5:]
    assert order == [AccessRow, Block, AccessRow, AccessRow, Block]
    assert append(client, replace(block, reason="")).json()["kind"] == "IdConflict"


def test_a_tombstone_that_is_sent_is_in_the_name_of_the_token(site: Site) -> None:
    client = site.client(site.token("admin"))
    name = site.tokens.all()[-1].name
    stone = Tombstone(
        make_log_id(), "2026-01-01T00:00:00Z", (), Erasure("1999", "Dr. Who", "asked to")
    )
    for _ in range(2):
        assert append(client, stone).status_code == 200
    found = site.recorder.backend.resolve(stone.log_id, Deadline())
    assert isinstance(found, Tombstone)
    assert (found.erasure.who, found.erasure.at > "2026") == (name, True)
    assert rows(site)[-1].log_ids == (stone.log_id,)
    assert find_faults(site) == []


def test_who_keeps_the_trail_copies_blocks_and_erasures_as_they_are(site: Site) -> None:
    entry, block = an_entry(site), Block(make_log_id(), "1999", "b" * 64, "", "Dr. Who")
    site.recorder.append([entry])
    before = rows(site)
    keeper = site.client(site.token("admin", keeps_trail=True))
    assert append(keeper, block).status_code == 200
    assert list(site.recorder.backend.blocks(["b" * 64], Deadline())) == [block]
    body = {"log_ids": [entry.log_id], "at": "1999", "who": "Dr. Who", "reason": "r"}
    assert keeper.post("/v1/erasures", json=body).status_code == 200
    stone = site.recorder.backend.resolve(entry.log_id, Deadline())
    assert isinstance(stone, Tombstone)
    assert stone.erasure == Erasure("1999", "Dr. Who", "r")
    assert rows(site) == before


def test_an_erasure_that_fails_is_in_the_trail(site_of_its_own: Callable[..., Site]) -> None:
    site = site_of_its_own().start()
    entry = an_entry(site)
    site.recorder.append([entry])
    with sqlite3.connect(site.log) as plain:
        plain.execute(
            "CREATE TRIGGER no BEFORE DELETE ON deid_log BEGIN SELECT raise(ABORT, 'no'); END"
        )
    body = {"log_ids": [entry.log_id], "at": "t", "who": "alice", "reason": "asked to"}
    assert site.client(site.token("admin")).post("/v1/erasures", json=body).status_code >= 400
    [row] = rows(site)
    assert (row.action, row.who, row.where) == ("erase", "admin-0", "127.0.0.1 (alice)")
    assert (row.asked, row.log_ids, row.reason) == (entry.log_id, (entry.log_id,), "asked to")


def test_an_erasure_names_the_token_and_leaves_a_tombstone(site: Site) -> None:
    entry = an_entry(site)
    site.recorder.append([entry])
    client = site.client(site.token("admin"))
    name = site.tokens.all()[-1].name
    body = {
        "log_ids": [entry.log_id, make_log_id()],
        "at": "1999",
        "who": "alice",
        "reason": CANARY,
    }
    assert client.post("/v1/erasures", json=body).status_code == 200
    row = rows(site)[-1]
    assert (row.action, row.who, row.where) == ("erase", name, "127.0.0.1 (alice)")
    *_, last, _ = site.recorder.backend.everything(Deadline())
    assert last == row, "the row is there before the erasure takes effect"
    assert find_faults(site) == []
    stone = client.get(f"/v1/entries/{entry.log_id}").json()["record"]
    assert (stone["record"], stone["who"], stone["reason"]) == (
        "tombstone",
        name,
        CANARY,
    )
    assert stone["at"] > "2026"
    seen = site.client(site.token("upload")).get(f"/v1/entries/{entry.log_id}").json()["record"]
    assert (seen["who"], seen["reason"]) == ("", "")
    assert append(client, entry).json()["kind"] == "Forgotten"
    assert isinstance(site.recorder.backend.resolve(entry.log_id, Deadline()), Tombstone)


def test_logs_and_metrics_and_probes_hold_nothing_of_a_patient(site: Site) -> None:
    uploader = site.client(site.token("upload"))
    uploader.post("/logs", json=packfile(PatientName=CANARY))
    uploader.post("/logs", json={"indexed_fields": {CANARY: CANARY}})
    uploader.get(f"/v1/entries/{CANARY}")
    uploader.get(f"/{CANARY}?{CANARY}={CANARY}")
    metrics = site.client(site.token("auditor")).get("/metrics").text
    assert 'deid_hooks_service_requests_total{route="/logs",status="200"}' in metrics
    assert httpx.get(f"{site.url}/health").json() == {"alive": True}
    assert httpx.get(f"{site.url}/ready").json() == {"done": True}
    for line in site.said().splitlines():
        json.loads(line)
    assert CANARY not in site.said() + metrics
