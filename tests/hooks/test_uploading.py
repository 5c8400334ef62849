"""An acquisition is cleared or refused, and its outcome is recorded."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from deid_hooks import DeidHooks, PostUpload, PreUpload, UploadRefused, hookimpl
from deid_hooks.deadline import Deadline
from deid_hooks.records.model import Entry, Erasure, make_log_id
from deid_hooks.testing.records import chain_seals
from tests.hooks.conftest import Load
from tests.hooks.memory import SECRET_OF_THE_DRIVER, Store
from tests.hooks.series import CANARIES, assert_hides_everything, engine, logged, series, shown

OPENING = "Unable to resolve de-identification ID. Acquisition was not uploaded: "
OUT = "folder:/out"


def refused(hooks: DeidHooks, log_id: str) -> UploadRefused:
    with pytest.raises(UploadRefused) as caught, hooks.uploading(log_id, OUT):
        pytest.fail("it must not be sent")
    assert str(caught.value).startswith(OPENING)
    assert_hides_everything(shown(caught.value))
    return caught.value


def events(store: Store) -> list[str]:
    return [event.event for event in store.events]


class Collects:
    """A plugin that keeps the events it receives."""

    def __init__(self) -> None:
        self.received: list[PostUpload] = []

    @hookimpl
    def post_upload(self, event: PostUpload) -> None:
        self.received.append(event)


@pytest.fixture
def received(hooks: DeidHooks) -> list[PostUpload]:
    plugin = Collects()
    hooks.register(plugin, "collects")
    return plugin.received


# Refusals


def test_an_id_the_log_does_not_know_is_refused(hooks: DeidHooks, store: Store) -> None:
    log_id = make_log_id()
    assert str(refused(hooks, log_id)) == f"{OPENING}the log has no entry {log_id}."
    assert events(store) == []


def test_what_is_not_a_log_id_is_refused_and_not_in_the_message(hooks: DeidHooks) -> None:
    assert "not a de-id log id" in str(refused(hooks, CANARIES["PatientID"]))
    assert "not a de-id log id" in str(refused(hooks, None))  # type: ignore[arg-type]


def test_a_log_that_is_down_is_refused(hooks: DeidHooks, store: Store) -> None:
    log_id, _ = logged(hooks)
    store.down = True
    assert "the log can't be reached. Start it." in str(refused(hooks, log_id))


def test_a_lost_entry_is_refused(hooks: DeidHooks, store: Store) -> None:
    log_id, _ = logged(hooks)
    store.records.clear()
    assert "the log has no entry" in str(refused(hooks, log_id))


def test_a_forgotten_entry_is_refused(hooks: DeidHooks) -> None:
    log_id, _ = logged(hooks)
    erasure = Erasure("2026-01-01T00:00:00.000000Z", "dpo", "asked for")
    hooks.gate.open_log().backend.erase([log_id], erasure, chain_seals, Deadline())
    assert "was forgotten" in str(refused(hooks, log_id))


@pytest.mark.parametrize(
    "altered",
    [
        lambda entry: replace(entry, project="OTHER"),
        lambda entry: replace(entry, timestamp=None),
        lambda entry: replace(entry, originals="{}"),
        lambda entry: replace(entry, fields={**entry.fields, "PatientID": ("CANARY-0",)}),
        lambda entry: replace(entry, instances=entry.instances[1:]),
        lambda entry: replace(entry, digest="0" * 64),
        lambda entry: replace(entry, log_id=make_log_id()),
    ],
)
def test_an_altered_entry_is_refused(
    hooks: DeidHooks, store: Store, altered: Callable[[Entry], Entry]
) -> None:
    log_id, _ = logged(hooks)
    store.altered = altered
    assert refused(hooks, log_id).reasons[0].startswith(("the entry", "the log has no entry"))
    assert events(store) == []


def test_an_entry_that_a_store_mixed_up_is_refused(
    hooks: DeidHooks, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = logged(hooks, 2)
    second, _ = logged(hooks, 3)
    other = next(entry for entry in store.entries if entry.log_id == second)
    monkeypatch.setattr("tests.hooks.memory.MemoryBackend.resolve", lambda *_: other)
    assert "altered in the store" in str(refused(hooks, first))


def test_an_entry_that_a_store_garbled_is_refused(hooks: DeidHooks, store: Store) -> None:
    log_id, _ = logged(hooks)
    store.altered = lambda entry: replace(entry, fields={"PatientID": None})  # type: ignore[dict-item]
    assert "failed with TypeError" in str(refused(hooks, log_id))


def test_an_entry_under_another_secret_is_refused(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_id, _ = logged(load())
    monkeypatch.setenv("DEID_HOOKS_SECRET", "ab" * 32)
    assert "another site secret" in str(refused(DeidHooks.load(url="kept:site"), log_id))


@pytest.mark.parametrize("fault", ["unavailable", "driver", "hang"])
def test_what_cant_be_recorded_as_cleared_does_not_leave(
    hooks: DeidHooks, store: Store, fault: str
) -> None:
    log_id, _ = logged(hooks)
    store.faults = [fault]
    refused(hooks, log_id)
    assert events(store) == []


def test_an_append_of_cleared_whose_end_is_unknown_is_repeated(
    hooks: DeidHooks, store: Store
) -> None:
    log_id, _ = logged(hooks)
    store.faults = ["written"]
    with hooks.uploading(log_id, OUT):
        assert events(store) == ["cleared"]


def test_of_a_drivers_error_while_resolving_only_the_kind_is_in_the_message(
    hooks: DeidHooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*arguments: object) -> None:
        raise RuntimeError(SECRET_OF_THE_DRIVER)

    log_id, _ = logged(hooks)
    monkeypatch.setattr("tests.hooks.memory.MemoryBackend.read", breaks)
    assert "failed with RuntimeError" in str(refused(hooks, log_id))


def test_a_missing_secret_is_a_refusal(hooks: DeidHooks, store: Store) -> None:
    log_id, _ = logged(hooks)
    hooks.settings.secret_file.unlink()
    assert "There is no site secret" in str(refused(DeidHooks.load(url="kept:site"), log_id))


# Clearance


def test_the_id_may_be_written_in_any_way(hooks: DeidHooks, store: Store) -> None:
    log_id, _ = logged(hooks)
    dashed = "-".join((log_id[:8], log_id[8:12], log_id[12:16], log_id[16:20], log_id[20:])).lower()
    with hooks.uploading(dashed, OUT) as upload:
        assert upload.log_id == log_id
        upload.sent_all()
    assert {event.log_id for event in store.events} == {log_id}
    assert hooks.outcome(dashed, OUT) == "uploaded"


def test_cleared_is_in_the_log_before_the_block_runs(hooks: DeidHooks, store: Store) -> None:
    log_id, _ = logged(hooks)
    with hooks.uploading(log_id, OUT):
        assert events(store) == ["cleared"]
        assert store.events[0].uploader == "tester/1.0"


def test_sending_without_the_block_is_refused_at_the_first_report(hooks: DeidHooks) -> None:
    log_id, uids = logged(hooks)
    upload = hooks.uploading(log_id, OUT)
    with pytest.raises(UploadRefused, match="never cleared"):
        upload.sent(uids[0])
    with pytest.raises(UploadRefused, match="never cleared"):
        upload.sent_all()


# Outcomes


def test_all_instances_delivered_is_uploaded(
    hooks: DeidHooks, store: Store, received: list[PostUpload]
) -> None:
    log_id, uids = logged(hooks)
    with hooks.uploading(log_id, OUT) as upload:
        for uid in uids:
            upload.sent(uid, ok=True)
        assert upload.outcome is None
    assert upload.outcome == hooks.outcome(log_id, OUT) == "uploaded"
    assert events(store) == ["cleared", "uploaded"]
    assert received == [PostUpload(log_id, OUT, "tester/1.0", "uploaded", ())]


def test_sent_all_is_uploaded(hooks: DeidHooks, received: list[PostUpload]) -> None:
    log_id, _ = logged(hooks)
    with hooks.uploading(log_id, OUT) as upload:
        upload.sent_all()
    assert received[0].outcome == upload.outcome == "uploaded"
    assert received[0].missing == ()


def test_some_instances_delivered_is_partial(hooks: DeidHooks, received: list[PostUpload]) -> None:
    log_id, uids = logged(hooks)
    with hooks.uploading(log_id, OUT) as upload:
        upload.sent(uids[0])
        upload.sent(uids[1], ok=False)
    assert hooks.outcome(log_id, OUT) == "partial"
    assert received[0].missing == tuple(sorted(uids[1:]))


def test_no_instance_delivered_is_failed(hooks: DeidHooks, received: list[PostUpload]) -> None:
    log_id, uids = logged(hooks)
    with hooks.uploading(log_id, OUT) as upload:
        for uid in uids:
            upload.sent(uid, ok=False)
    assert hooks.outcome(log_id, OUT) == "failed"
    assert received[0].missing == tuple(sorted(uids))


@pytest.mark.parametrize("kind", [OSError, KeyboardInterrupt, SystemExit])
def test_leaving_by_an_exception_is_failed_and_it_passes_through(
    hooks: DeidHooks, store: Store, kind: type[BaseException]
) -> None:
    log_id, uids = logged(hooks)
    with pytest.raises(kind), hooks.uploading(log_id, OUT) as upload:
        upload.sent(uids[0])
        raise kind
    assert upload.outcome == "failed"
    assert events(store) == ["cleared", "failed"]


def test_leaving_without_a_report_stays_pending(
    hooks: DeidHooks, store: Store, received: list[PostUpload]
) -> None:
    log_id, _ = logged(hooks)
    with hooks.uploading(log_id, OUT) as upload:
        pass
    assert upload.outcome is None
    assert hooks.outcome(log_id, OUT) == "pending"
    assert [event.log_id for event in hooks.gate.open_log().pending()] == [log_id]
    assert received == []


def test_what_was_never_cleared_has_no_outcome(hooks: DeidHooks) -> None:
    log_id, _ = logged(hooks)
    assert hooks.outcome(log_id, OUT) is None
    assert hooks.outcome("nonsense", OUT) is None


def test_each_destination_has_its_own_outcome(hooks: DeidHooks) -> None:
    log_id, _ = logged(hooks)
    with hooks.uploading(log_id, "folder:/a") as upload:
        upload.sent_all()
    assert hooks.outcome(log_id, "folder:/b") is None


def test_an_instance_that_failed_may_be_retried(hooks: DeidHooks) -> None:
    log_id, uids = logged(hooks)
    with hooks.uploading(log_id, OUT) as upload:
        upload.sent(uids[0], ok=False)
        for uid in uids:
            upload.sent(uid)
    assert upload.outcome == "uploaded"


def test_an_upload_may_be_retried(hooks: DeidHooks, store: Store) -> None:
    log_id, _ = logged(hooks)
    with pytest.raises(OSError), hooks.uploading(log_id, OUT):
        raise OSError
    with hooks.uploading(log_id, OUT) as upload:
        assert hooks.outcome(log_id, OUT) == "pending"
        upload.sent_all()
    assert events(store) == ["cleared", "failed", "cleared", "uploaded"]
    assert hooks.gate.open_log().pending() == []


def test_two_instances_of_one_uid_are_two_deliveries(
    hooks: DeidHooks, received: list[PostUpload]
) -> None:
    twins = [*series(1), *series(1)]
    with hooks.acquisition() as acquisition:
        for dataset in twins:
            with acquisition.deidentifying(dataset):
                engine(dataset)
        acquisition.post_deid()
    uid = str(twins[0].SOPInstanceUID)
    for times, outcome in ((1, "partial"), (2, "uploaded")):
        with hooks.uploading(acquisition.log_id, OUT) as upload:
            for _ in range(times):
                upload.sent(uid)
        assert upload.outcome == outcome
    assert [event.missing for event in received] == [(uid,), ()]


def test_an_instance_the_entry_does_not_hold_is_reported(
    hooks: DeidHooks, caplog: pytest.LogCaptureFixture
) -> None:
    log_id, uids = logged(hooks)
    with hooks.uploading(log_id, OUT) as upload:
        for uid in (*uids, "9.9.9"):
            upload.sent(uid)
    assert upload.outcome == "partial"
    assert f"{log_id}: 1 instances were reported that its entry does not hold" in caplog.text


@pytest.mark.parametrize("fault", ["unavailable", "driver", "hang"])
def test_failing_to_record_an_outcome_never_raises(
    hooks: DeidHooks, store: Store, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    log_id, _ = logged(hooks)
    with hooks.uploading(log_id, OUT) as upload:
        store.faults = [fault]
        upload.sent_all()
    assert f"{log_id}: the outcome uploaded was not recorded" in caplog.text
    assert_hides_everything(caplog.text)
    assert hooks.outcome(log_id, OUT) == "pending"


@pytest.mark.parametrize(
    ("destination", "recorded"),
    [
        ("dicomweb+https://me:hunter2@pacs/studies", "dicomweb+https://me:***@pacs/studies"),
        ("dicomweb+https://me:hun%2Fter2@pacs:8042", "dicomweb+https://me:***@pacs:8042"),
        ("dicomweb+https://me:hun/ter2@pacs", "dicomweb+https://me:***@pacs"),
        ("dicomweb+https://pacs/?token=hunter2&a=b", "dicomweb+https://pacs/?token=***&a=b"),
        ("dicom://ARCHIVE@pacs:11112", "dicom://ARCHIVE@pacs:11112"),
        ("http://[hunter2", "http://[hunter2"),
    ],
)
def test_a_password_in_the_destination_is_masked(
    hooks: DeidHooks, store: Store, destination: str, recorded: str
) -> None:
    log_id, _ = logged(hooks)
    with hooks.uploading(log_id, destination) as upload:
        upload.sent_all()
    assert {event.destination for event in store.events} == {recorded}
    assert hooks.outcome(log_id, destination) == "uploaded"


# Plugins


def test_every_reason_of_every_plugin_is_in_the_refusal(hooks: DeidHooks, store: Store) -> None:
    class Refuses:
        def __init__(self, reason: Any) -> None:
            self.reason = reason

        @hookimpl
        def pre_upload(self, event: PreUpload) -> Any:
            if isinstance(self.reason, BaseException):
                raise self.reason
            return self.reason

    log_id, _ = logged(hooks)
    answers = {
        "quota": "the trial has all the images it needs.",
        "consent": "consent was withdrawn",
        "broken": ValueError("Canary"),
        "empty": " ",
        "yes": True,
        "happy": None,
    }
    for name, reason in answers.items():
        hooks.register(Refuses(reason), name)
    assert set(refused(hooks, log_id).reasons) == {
        "the plugin quota refused: the trial has all the images it needs",
        "the plugin consent refused: consent was withdrawn",
        "the plugin broken raised ValueError in pre_upload",
        "the plugin empty refused without a reason",
        "the plugin yes refused without a reason",
    }
    assert events(store) == []


def test_post_upload_is_a_notification(hooks: DeidHooks, caplog: pytest.LogCaptureFixture) -> None:
    class Breaks:
        @hookimpl
        def post_upload(self, event: PostUpload) -> None:
            raise SystemExit("Canary")

    collects = Collects()
    hooks.register(collects, "first")
    hooks.register(Breaks(), "breaks")
    hooks.register(Collects(), "last")
    log_id, _ = logged(hooks)
    with hooks.uploading(log_id, OUT) as upload:
        upload.sent_all()
    assert len(collects.received) == 1
    assert [r.levelno for r in caplog.records] == [logging.ERROR]
    assert f"{log_id}: the plugin breaks called exit in post_upload" in caplog.text
    assert_hides_everything(caplog.text)
