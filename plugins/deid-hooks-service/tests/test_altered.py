"""What somebody changed in the store, past the service, is answered to nobody as genuine."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable
from dataclasses import replace

import httpx
import pytest
from running import Site, packfile

from deid_hooks.deadline import Deadline
from deid_hooks.records.json_codec import encode_record
from deid_hooks.records.keys import compute_content_digest, compute_patient_digest
from deid_hooks.records.model import Block, Entry, UploadEvent, make_log_id
from deid_hooks.testing.records import make_entry

FORGED = "Forged^Name"


def write(site: Site) -> Entry:
    """Write an entry with an upload event to the log of a site, and return it."""
    root = site.recorder.keyring.newest
    patients = (compute_patient_digest("4711", "", root),)
    entry = make_entry(project="TRIAL7", key=root.name, patients=patients)
    entry = replace(entry, digest=compute_content_digest(entry, root))
    site.recorder.append([entry, UploadEvent(entry.log_id, "t", "cleared", "folder:/a", "sender")])
    return entry


def alter(site: Site, statement: str, *values: str) -> None:
    """Change the tables of the log, as the administrator of the store can."""
    with sqlite3.connect(site.log) as plain:
        assert plain.execute(statement, values).rowcount == 1


def ask_for(client: httpx.Client, log_id: str) -> list[httpx.Response]:
    """Return the answers of all that show an entry or its uploads."""
    body = {"log_ids": [log_id]}
    return [
        client.get(f"/v1/entries/{log_id}"),
        client.post("/v1/entries", json=body),
        client.post("/v1/uploads", json=body),
    ]


@pytest.mark.parametrize("projects", [(), ("TRIAL7",)])
def test_an_entry_that_was_altered_is_named_and_not_answered(
    site: Site, projects: tuple[str, ...]
) -> None:
    entry, whole = write(site), write(site)
    client = site.client(site.token("reidentify", *projects))
    assert [each.status_code for each in ask_for(client, entry.log_id)] == [200] * 3
    before = len(list(site.recorder.backend.trail(Deadline())))
    alter(site, "UPDATE deid_log SET PatientName = ? WHERE id = ?", FORGED, entry.log_id)
    for answer in ask_for(client, entry.log_id)[:2]:
        problem = answer.json()
        assert (answer.status_code, problem["kind"]) == (409, "LogError")
        assert problem["log_id"] == entry.log_id
        assert problem["cause"] == f"the log was altered: {entry.log_id}: it was changed"
        assert FORGED not in answer.text
    both = {"log_ids": [whole.log_id, entry.log_id]}
    assert client.post("/v1/entries", json=both).status_code == 409
    assert len(list(site.recorder.backend.trail(Deadline()))) == before, "nothing was shown"
    assert [each.status_code for each in ask_for(client, whole.log_id)] == [200] * 3


def test_an_entry_that_was_altered_is_not_erased(site: Site) -> None:
    entry, whole = write(site), write(site)
    alter(site, "UPDATE deid_log SET created = ? WHERE id = ?", "1999", entry.log_id)
    body = {"log_ids": [whole.log_id, entry.log_id], "at": "", "who": "", "reason": "r"}
    answer = site.client(site.token("admin")).post("/v1/erasures", json=body)
    assert (answer.status_code, answer.json()["log_id"]) == (409, entry.log_id)
    assert len(list(site.recorder.entries([whole.log_id, entry.log_id]))) == 2


def test_who_uploads_is_told_too(site: Site) -> None:
    entry = write(site)
    alter(site, "UPDATE deid_log SET created = ? WHERE id = ?", "1999", entry.log_id)
    answer = site.client(site.token("upload")).get(f"/v1/entries/{entry.log_id}")
    assert (answer.status_code, answer.json()["log_id"]) == (409, entry.log_id)


def test_a_project_that_was_altered_gives_nobody_an_entry(site: Site) -> None:
    entry = write(site)
    alter(site, "UPDATE deid_log SET project = 'TRIAL8' WHERE id = ?", entry.log_id)
    client = site.client(site.token("admin", "TRIAL8"))
    assert [each.status_code for each in ask_for(client, entry.log_id)] == [409, 409, 200]
    assert ask_for(client, entry.log_id)[2].text == '{"end":true}\n'
    assert client.post("/v1/digests", json={"digest": entry.digest}).status_code == 404
    erasure = {"log_ids": [entry.log_id], "at": "t", "who": "w", "reason": "r"}
    assert client.post("/v1/erasures", json=erasure).status_code == 409
    event = encode_record(UploadEvent(entry.log_id, "t", "uploaded", "d", "u"))
    assert client.post("/v1/records", json={"records": [event]}).status_code == 409


def test_an_upload_event_that_was_altered_is_named_and_not_answered(site: Site) -> None:
    entry = write(site)
    alter(site, "UPDATE deid_log_upload SET event = 'failed' WHERE log_id = ?", entry.log_id)
    client = site.client(site.token("search"))
    for body in ({"log_ids": [entry.log_id]}, {}):
        answer = client.post("/v1/uploads", json=body)
        assert (answer.status_code, answer.json()["log_id"]) == (409, entry.log_id)
    other = write(site)
    assert client.post("/v1/uploads", json={"log_ids": [other.log_id]}).status_code == 200


@pytest.mark.parametrize("seen", [True, False])
def test_a_block_that_was_removed_stops_uploads(
    site_of_its_own: Callable[..., Site], seen: bool
) -> None:
    site = site_of_its_own().start()
    patient = compute_patient_digest("withdrawn", "", site.recorder.keyring.newest)
    client = site.client(site.token("upload"))
    site.recorder.append([Block(make_log_id(), "t", patient, "", "dpo", "asked to")])
    if seen:
        assert client.post("/logs", json=packfile(PatientID="withdrawn")).status_code == 403
        assert client.post("/logs", json=packfile(PatientID="another")).status_code == 200
    else:
        write(site)
    alter(site, "DELETE FROM deid_log_block")
    alter(site, "DELETE FROM deid_log_chain WHERE seal LIKE ?", '[%,"block",%')
    there = write(site)
    if not seen:
        answer = client.get(f"/v1/receipts/{there.log_id}")
        assert (answer.status_code, answer.json()["kind"]) == (503, "LogUnavailable")
        assert answer.json()["cause"] == "the log was altered: a block was removed"
    answers = [client.post("/logs", json=packfile(PatientID=n)) for n in ("withdrawn", "other")]
    if seen:  # what was proven once is known for as long as the service runs
        assert [answer.status_code for answer in answers] == [403, 200]
    else:
        assert [answer.status_code for answer in answers] == [503, 503]
        assert "a block was removed" in json.dumps([answer.json() for answer in answers])


def test_a_log_that_was_cut_off_while_the_service_was_down_takes_no_upload(site: Site) -> None:
    write(site)
    site.stop()
    site.start()
    kept = site.folder / "secret.head"
    until = time.monotonic() + 20
    while not kept.exists() and time.monotonic() < until:
        time.sleep(0.05)
    client = site.client(site.token("upload"))
    assert client.get("/v1/check").status_code == 200
    assert kept.stat().st_mode & 0o777 == 0o600
    site.stop()
    with sqlite3.connect(site.log) as plain:
        plain.execute("DELETE FROM deid_log_upload")
        plain.execute(
            "DELETE FROM deid_log_chain WHERE seq = (SELECT max(seq) FROM deid_log_chain)"
        )
    site.start()
    answer = client.get("/v1/check")
    assert answer.status_code == 503
    assert "which it once had" in answer.text
