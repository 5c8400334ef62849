"""Every endpoint, asked with every role, for all projects and for another one."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import httpx
import pytest
from running import Site, packfile

from deid_hooks.query.json_codec import encode_query
from deid_hooks.query.parser import parse_terms
from deid_hooks.records.json_codec import encode_record
from deid_hooks.records.keys import key_entry
from deid_hooks.records.model import AccessRow, Entry, make_log_id
from deid_hooks.testing.records import make_entry
from deid_hooks_service.endpoints import ENDPOINTS, Endpoint
from deid_hooks_service.tokens import RIGHTS

SECRET = "Qxoriginal"
ROLES = (*RIGHTS, "admin")
AT = "2026-11-26T00:00:00.000000Z"
ROUTES = [endpoint.route for endpoint in ENDPOINTS]


def make_plain(project: str = "TRIAL8") -> Entry:
    fields = {"PatientID": (SECRET,), "PatientName": (SECRET,)}
    return make_entry(project=project, digest="", key="", fields=fields)


@pytest.fixture(scope="module")
def entry(site: Site) -> Entry:
    """An entry of TRIAL8."""
    made = key_entry(make_plain(), [(SECRET, "")], site.recorder.keyring.newest)
    site.recorder.append([made])
    return made


@pytest.fixture(scope="module")
def clients(site: Site) -> dict[tuple[str, str], httpx.Client]:
    """A client for each role, of all projects and of TRIAL7 alone."""
    return {
        (role, project): site.client(site.token(role, *([project] if project else [])))
        for role in ROLES
        for project in ("", "TRIAL7")
    }


def make_body(route: str, entry: Entry) -> Any:
    """Return a body about this entry that an endpoint takes; None where it takes none."""
    row = AccessRow(make_log_id(), AT, "who", "host", "search", "", ())
    bodies = {
        "POST /logs": packfile(PatientID="4711"),
        "POST /v1/records": {"records": [encode_record(make_plain())]},
        "POST /v1/entries": {"log_ids": [entry.log_id]},
        "POST /v1/search": {"query": encode_query(parse_terms([f"PatientID={SECRET}"]))},
        "POST /v1/equal": {"record": encode_record(replace(make_plain(), log_id=entry.log_id))},
        "POST /v1/uploads": {"log_ids": [entry.log_id]},
        "POST /v1/blocks": {
            **{"patients": [["nobody", ""]], "project": "TRIAL8"},
            **{"reason": "asked to", "lift": False},
        },
        "POST /v1/labels": {"project": "TRIAL8", "patient_id": SECRET, "issuer": ""},
        "POST /v1/keys": {"project": "TRIAL8"},
        "POST /v1/access": encode_record(row),
        "POST /v1/erasures": {"log_ids": [], "at": AT, "who": "who", "reason": "why"},
    }
    wanted = {endpoint.route for endpoint in ENDPOINTS if endpoint.body is not None}
    assert set(bodies) == wanted, "a new endpoint needs a body here"
    return bodies.get(route)


def ask(client: httpx.Client, endpoint: Endpoint, entry: Entry) -> httpx.Response:
    method, path = endpoint.route.split(" ")
    path = path.replace("{log_id}", entry.log_id)
    return client.request(method, path, json=make_body(endpoint.route, entry))


@pytest.mark.parametrize("role", ROLES)
def test_a_role_reaches_what_it_has_the_right_for_and_nothing_else(
    clients: dict[tuple[str, str], httpx.Client], entry: Entry, role: str
) -> None:
    for endpoint in ENDPOINTS:
        answer = ask(clients[role, ""], endpoint, entry)
        if endpoint.right is None or role == "admin" or endpoint.right in RIGHTS[role]:
            assert answer.status_code in (200, 404), endpoint.route
        else:
            assert answer.status_code == 403, endpoint.route
            assert f"has the role {role}, which may not" in answer.json()["message"]
            assert SECRET not in answer.text, endpoint.route


@pytest.mark.parametrize("role", ROLES)
def test_a_token_of_another_project_learns_nothing(
    clients: dict[tuple[str, str], httpx.Client], entry: Entry, role: str
) -> None:
    """Not even whether there is such an entry: an id that never was is answered alike."""
    client, never = clients[role, "TRIAL7"], replace(entry, log_id=make_log_id())
    for endpoint in ENDPOINTS:
        answer, other = (ask(client, endpoint, each) for each in (entry, never))
        assert SECRET not in answer.text, endpoint.route
        assert entry.log_id not in answer.text.replace(f"no entry {entry.log_id}", "")
        if endpoint.route not in ("POST /logs", "GET /metrics", "GET /v1/trail"):
            assert answer.status_code == other.status_code, endpoint.route
            assert answer.text.replace(entry.log_id, "") == other.text.replace(never.log_id, "")


@pytest.mark.ci  # each waits, as after any request without a token
@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=ROUTES)
def test_without_a_token_only_what_is_public_is_answered(
    site: Site, entry: Entry, endpoint: Endpoint
) -> None:
    with httpx.Client(base_url=site.url, timeout=30) as client:
        answer = ask(client, endpoint, entry)
    assert (answer.status_code == 401) is not endpoint.public
    assert SECRET not in answer.text


@pytest.mark.parametrize(
    "terms",
    [
        *(["PatientID=Qx*"], ["PatientName=Qx?riginal"], ["PatientBirthDate=19000101-19501231"]),
        *(["StudyInstanceUID=1.2.3,1.2.4"], ["PatientID=1", "PatientID=2"], ["Qx*"]),
        *(["Modality=CT"], ["project=TRIAL8"], ["created=2026"], ["deid:PatientID=S*"]),
    ],
    ids=str,
)
def test_a_clerk_asks_for_whole_values(
    clients: dict[tuple[str, str], httpx.Client], terms: list[str]
) -> None:
    body = {"query": encode_query(parse_terms(terms))}
    answer = clients["search", ""].post("/v1/search", json=body)
    assert answer.status_code == 403
    assert "one whole value" in answer.json()["message"]
    assert clients["reidentify", ""].post("/v1/search", json=body).status_code == 200


@pytest.mark.parametrize("terms", [[f"PatientID={SECRET}", "created=2026"], ["Doe John"]], ids=str)
def test_a_clerk_finds_who_is_known_exactly(
    clients: dict[tuple[str, str], httpx.Client], terms: list[str]
) -> None:
    body = {"query": encode_query(parse_terms(terms))}
    assert clients["search", ""].post("/v1/search", json=body).status_code == 200


def test_a_clerk_asks_so_many_questions_a_minute(site: Site) -> None:
    client = site.client(site.token("search"))
    body = {"query": encode_query(parse_terms(["PatientID=nobody"]))}
    answers = [client.post("/v1/search", json=body).status_code for _ in range(61)]
    assert answers == [200] * 60 + [429]


def test_an_auditor_sees_who_and_when_and_not_what_was_asked(
    site: Site, clients: dict[tuple[str, str], httpx.Client]
) -> None:
    row = AccessRow(make_log_id(), AT, "w", "h", "search", f"PatientID={SECRET}", (), SECRET)
    site.recorder.record_access(row)
    rows = [json.loads(line) for line in clients["auditor", ""].get("/v1/trail").text.splitlines()]
    there = next(line for line in rows if line.get("record", {}).get("id") == row.id)
    assert (there["record"]["action"], there["record"]["asked"]) == ("search", "")
    assert not any(SECRET in str(line) for line in rows)
    assert SECRET in clients["admin", ""].get("/v1/trail").text
