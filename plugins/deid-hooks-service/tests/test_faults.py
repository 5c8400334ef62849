"""The service in trouble: an answer in time, and no id that does not resolve."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Callable

from posting import Posting
from running import Site, packfile

from deid_hooks.deadline import Deadline
from deid_hooks.records.model import Entry

UNABLE = "Unable to log de-identified data: "


def test_a_store_that_somebody_holds_is_answered_in_time_and_goes_on_afterwards(
    site_of_its_own: Callable[..., Site],
) -> None:
    site = site_of_its_own(deadline=1).start()
    client = site.client(site.token("upload"))
    with sqlite3.connect(site.log) as holder:
        holder.execute("BEGIN IMMEDIATE")
        answer = client.post("/logs", json=packfile(PatientID="4711"))
        assert answer.status_code == 503
        assert answer.json()["message"].startswith(f"{UNABLE}503 Service Unavailable: the log")
        assert client.get("/ready").status_code == 503
        assert client.get("/health").status_code == 200
        holder.rollback()
    again = client.post("/logs", json=packfile(PatientID="4711"))
    while again.status_code == 503:  # a busy machine may take longer than the short deadline
        again = client.post("/logs", json=packfile(PatientID="4711"))
    assert isinstance(site.recorder.resolve(again.json()["id"]), Entry)


def test_a_store_that_is_gone_is_said_to_be_gone(site_of_its_own: Callable[..., Site]) -> None:
    site = site_of_its_own().start()
    client = site.client(site.token("upload"))
    assert client.post("/logs", json=packfile(PatientID="1")).status_code == 200
    site.log.unlink()
    answer = client.post("/logs", json=packfile(PatientID="2"))
    assert answer.status_code == 503
    assert answer.json()["message"].startswith(UNABLE)


def test_what_was_answered_before_a_kill_is_in_the_log(
    site_of_its_own: Callable[..., Site],
) -> None:
    site = site_of_its_own().start()
    posting = Posting(site)
    site.stop(signal.SIGKILL)
    posting.end()
    assert len(set(posting.ids)) == len(posting.ids)
    for log_id in posting.ids:
        assert isinstance(site.recorder.resolve(log_id), Entry)


def test_a_stop_finishes_what_was_accepted(site_of_its_own: Callable[..., Site]) -> None:
    site = site_of_its_own().start()
    posting = Posting(site)
    assert site.stop(signal.SIGTERM) in (0, -signal.SIGTERM)
    assert "Application shutdown complete" in site.said()
    posting.end()
    assert set(posting.others) <= {503}
    entries = [r for r in site.recorder.backend.everything(Deadline()) if isinstance(r, Entry)]
    written = {entry.log_id for entry in entries}
    assert written == set(posting.ids), "some were written and not answered"


def test_a_file_of_tokens_that_is_damaged_is_told_to_who_runs_the_service(
    site_of_its_own: Callable[..., Site],
) -> None:
    site = site_of_its_own().start()
    client = site.client(site.token("upload"))
    whole = site.tokens.path.read_text()
    site.tokens.path.write_text(whole[:-1])
    answer = client.post("/logs", json=packfile(PatientID="4711"))
    assert answer.status_code == 503
    assert answer.json()["message"].startswith(
        f"{UNABLE}503 Service Unavailable: the service can't read its tokens."
    )
    assert f"The file of tokens {site.tokens.path} is damaged." in site.said()
    site.tokens.path.write_text(whole)
    assert client.post("/logs", json=packfile(PatientID="4711")).status_code == 200


def test_wrong_tokens_slow_their_sender_down_and_nobody_else(
    site_of_its_own: Callable[..., Site],
) -> None:
    site = site_of_its_own().start()
    token = site.token("upload")
    wrong = site.client("w" * 40)
    for _ in range(5):
        assert wrong.get("/v1/check").status_code == 401
    slow = wrong.get("/v1/check")
    assert slow.status_code == 401
    assert slow.elapsed.total_seconds() > 0.2
    assert site.client(token).get("/v1/check").status_code == 200
