"""What Flywheel's clients post is logged, once, and only what is logged gets an id."""

from __future__ import annotations

import json
import sqlite3
import threading
from dataclasses import replace

import httpx
import pytest
from running import Site, packfile

from deid_hooks.deadline import Deadline
from deid_hooks.query.parser import parse_terms
from deid_hooks.records.keys import compute_patient_digest
from deid_hooks.records.model import Block, Entry, make_log_id

UNABLE = "Unable to log de-identified data: "


@pytest.fixture(scope="module")
def uploader(site: Site) -> httpx.Client:
    return site.client(site.token("upload"))


def logged(site: Site, answer: httpx.Response) -> Entry:
    """The entry behind the id of an answer, found in the store itself."""
    assert answer.status_code == 200, answer.text
    entry = site.recorder.resolve(answer.json()["id"])
    assert isinstance(entry, Entry)
    return entry


def found(site: Site, *terms: str) -> list[str]:
    return list(site.recorder.search(parse_terms(terms)))


def _post_ascii(client: httpx.Client, body: object) -> httpx.Response:
    """As the client writes it: everything beyond ASCII as an escape."""
    return client.post(
        "/logs", content=json.dumps(body), headers={"Content-Type": "application/json"}
    )


@pytest.mark.parametrize("path", ["/logs", "//logs"])
def test_a_packfile_is_logged_with_what_was_sent(
    site: Site, uploader: httpx.Client, path: str
) -> None:
    fields = {
        "PatientName": "Müller^Jörg",
        "PatientID": f"4711{path}",
        "StudyDate": "20060815",
        "StudyTime": "101500",
        "StudyDateTime": "2006-08-15T10:15:00",
        "SeriesDescription": "",
    }
    entry = logged(
        site, httpx.post(site.url + path, headers=uploader.headers, json=packfile(**fields))
    )
    assert {name: values[0] for name, values in entry.fields.items()} == fields
    assert entry.timestamp == "2006-08-15T10:15:00"
    assert found(site, f"PatientID=={fields['PatientID']}") == [entry.log_id]
    assert found(site, "jorg muller", f"PatientID=={fields['PatientID']}") == [entry.log_id]


def test_both_forms_of_authorization_are_taken(site: Site) -> None:
    token = site.token("upload")
    for form in (f"Bearer {token}", f"scitran-user flywheel.example:443:__force_insecure:{token}"):
        answer = httpx.post(
            f"{site.url}/logs", headers={"Authorization": form}, json=packfile(StudyID=form[:6])
        )
        assert logged(site, answer).uploader == site.tokens.all()[-1].name


def test_a_retry_gets_the_same_id_and_leaves_no_second_row(
    site: Site, uploader: httpx.Client
) -> None:
    body = packfile(PatientID="retried", SeriesInstanceUID="1.2.3")
    ids = {uploader.post("/logs", json=body).json()["id"] for _ in range(3)}
    assert len(ids) == 1
    assert found(site, "PatientID=retried") == list(ids)


def test_two_packfiles_of_one_series_are_one_entry_with_two_uploads(
    site: Site, uploader: httpx.Client
) -> None:
    body = packfile(PatientID="localizer", SeriesInstanceUID="1.2.4")
    log_id, _ = [uploader.post("/logs", json=body).json()["id"] for _ in range(2)]
    events = list(site.recorder.uploads([log_id]))
    assert [event.event for event in events] == ["cleared", "cleared"]
    assert len({event.at for event in events}) == 2


def test_the_same_post_from_many_at_once_is_one_entry(site: Site, uploader: httpx.Client) -> None:
    body = packfile(PatientID="at once")
    ids: list[str] = []

    def post() -> None:
        with httpx.Client(headers=uploader.headers) as client:
            ids.extend(client.post(f"{site.url}/logs", json=body).json()["id"] for _ in range(5))

    threads = [threading.Thread(target=post) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 40
    assert found(site, "PatientID=at once") == list(set(ids))


def test_the_tags_of_older_clients_are_originals_and_searchable(
    site: Site, uploader: httpx.Client
) -> None:
    tags = {
        "00080080": {"vr": "LO", "Value": ["St. Elsewhere"]},
        "00181030": {"vr": "LO", "Value": ["\ud800 lone"]},
        "00180050": {"vr": "DS", "Value": [1.5]},
        "0008103e": {"vr": "LO"},
        "00091001": {"vr": "UN", "InlineBinary": "AAEC"},
        "00081140": {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": ["1.2.99"]}}]},
    }
    body = {"indexed_fields": {"PatientID": "older"}, "deidentified_tags": tags}
    log_id = logged(site, _post_ascii(uploader, body)).log_id
    for term in ("InstitutionName=St. *", "SliceThickness=1.50", "ReferencedSOPInstanceUID=1.2.99"):
        assert found(site, "PatientID=older", term) == [log_id]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"\xff", 400),
        (b"[" * 100_000, 400),
        (b'{"indexed_fields": {"PatientID": NaN}}', 400),
        (b"[]", 422),
        (b"{}", 422),
        (b'{"indexed_fields": {"PatientID": 4711}}', 422),
        (b'{"indexed_fields": {"Zyxwvut": "x"}}', 422),
        (b'{"indexed_fields": {}, "Zyxwvut": {}}', 422),
        (b'{"indexed_fields": {}, "deidentified_tags": {"Zyxwvut": {"vr": "LO"}}}', 422),
        (b'{"indexed_fields": {}, "deidentified_tags": {"00100010": "Zyxwvut"}}', 422),
        (
            b'{"indexed_fields": {}, "deidentified_tags": {"00180050": {"vr":"DS", "Value":'
            b"[1e999]}}}",
            422,
        ),
    ],
)
def test_what_can_not_be_used_is_refused_in_the_words_users_know_and_not_quoted(
    uploader: httpx.Client, body: bytes, status: int
) -> None:
    answer = uploader.post("/logs", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status
    assert answer.json()["message"].startswith(f"{UNABLE}{status} ")
    assert "id" not in answer.json()
    assert "Zyxwvut" not in answer.text


def test_a_body_without_end_is_refused(uploader: httpx.Client) -> None:
    answer = uploader.post("/logs", json={"indexed_fields": {"PatientID": "x" * (65 << 20)}})
    assert answer.status_code == 413


def test_a_patient_who_is_blocked_is_refused_and_nothing_is_logged(
    site: Site, uploader: httpx.Client
) -> None:
    patient = compute_patient_digest("blocked", "", site.recorder.keyring.newest)
    block = Block(make_log_id(), "t", patient, "", "who", "why")
    site.recorder.append([block])
    answer = uploader.post("/logs", json=packfile(PatientID="blocked"))
    assert answer.status_code == 403
    assert (
        answer.json()["message"] == f"{UNABLE}403 Forbidden: uploads of this patient are blocked."
    )
    assert found(site, "PatientID=blocked") == []
    site.recorder.append([replace(block, id=make_log_id(), lifted=True)])
    logged(site, uploader.post("/logs", json=packfile(PatientID="blocked")))


def test_a_token_that_is_held_to_a_project_logs_into_it(site: Site) -> None:
    one = site.client(site.token("upload", "TRIAL7"))
    assert logged(site, one.post("/logs", json=packfile(PatientID="held"))).project == "TRIAL7"
    several = site.client(site.token("upload", "TRIAL7", "TRIAL8"))
    assert several.post("/logs", json=packfile(PatientID="held")).status_code == 403


def test_an_entry_that_was_altered_in_the_store_gets_no_id(
    site: Site, uploader: httpx.Client
) -> None:
    body = packfile(PatientID="altered")
    log_id = uploader.post("/logs", json=body).json()["id"]
    with sqlite3.connect(site.log) as store:
        store.execute("UPDATE deid_log SET project = 'other' WHERE id = ?", (log_id,))
    answer = uploader.post("/logs", json=body)
    assert answer.status_code == 503
    assert answer.json()["message"].startswith(f"{UNABLE}503 Service Unavailable: ")
    site.recorder.backend.check(Deadline())
