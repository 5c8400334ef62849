"""post_deid fails closed: what can't be logged raises, with the cause and without values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from deid_hooks import (
    Acquisition,
    DeidHooks,
    LogUnavailable,
    PostDeid,
    UnableToLog,
    UploadRefused,
    hookimpl,
)
from deid_hooks.records.model import Entry, Erasure
from tests.hooks.conftest import Load
from tests.hooks.memory import Store
from tests.hooks.series import (
    CANARIES,
    assert_hides_everything,
    fill,
    logged,
    series,
    shown,
)

OPENING = "Unable to log de-identified data: "


def attempt(hooks: DeidHooks) -> UnableToLog:
    with hooks.acquisition() as acquisition:
        fill(acquisition, series())
        return refused(acquisition)


def refused(acquisition: Acquisition) -> UnableToLog:
    with pytest.raises(UnableToLog) as caught:
        acquisition.post_deid()
    assert str(caught.value).startswith(OPENING)
    assert_hides_everything(shown(caught.value))
    return caught.value


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        (["unavailable"], "503 Service Unavailable. Start the service."),
        (["lost", "lost"], "the reply to the commit was lost."),
        (["lost", "unavailable"], "503 Service Unavailable. Start the service."),
        (["written", "written"], "the reply to the commit was lost."),
        (["hang"], "the log did not answer in time."),
        (["driver"], "the backend of the log failed with RuntimeError."),
        (["lost", "driver"], "the backend of the log failed with RuntimeError."),
    ],
)
def test_a_log_that_fails_stops_the_acquisition(
    hooks: DeidHooks, store: Store, faults: list[str], message: str
) -> None:
    store.faults = list(faults)
    assert str(attempt(hooks)) == OPENING + message
    assert store.faults == []


@pytest.mark.parametrize("faults", [["lost"], ["written"]])
def test_an_unknown_append_is_repeated_with_the_same_id(
    hooks: DeidHooks, store: Store, faults: list[str]
) -> None:
    store.faults = list(faults)
    with hooks.acquisition() as acquisition:
        fill(acquisition, series())
        acquisition.post_deid()
    first, second = store.attempts
    assert first == second
    assert [entry.log_id for entry in store.entries] == [acquisition.log_id]


def test_nothing_leaves_between_an_unknown_append_and_its_repetition(
    hooks: DeidHooks, store: Store
) -> None:
    entries_when_called: list[int] = []

    class Watches:
        @hookimpl
        def post_deid(self, event: PostDeid) -> None:
            entries_when_called.append(len(store.entries))

    hooks.register(Watches(), "watches")
    store.faults = ["lost", "lost"]
    with hooks.acquisition() as acquisition:
        fill(acquisition, series())
        refused(acquisition)
        assert entries_when_called == []
        with pytest.raises(UploadRefused), hooks.uploading(acquisition.log_id, "folder:/out"):
            pytest.fail("it must not be sent")
        acquisition.post_deid()
    assert entries_when_called == [1]


def test_the_status_of_a_service_that_is_down_is_in_the_message(
    hooks: DeidHooks, store: Store
) -> None:
    store.faults = ["unavailable"]
    error = attempt(hooks)
    assert (error.cause, error.remedy) == ("503 Service Unavailable", "start the service")


def test_a_known_id_with_other_content_is_an_error(hooks: DeidHooks, store: Store) -> None:
    with hooks.acquisition() as acquisition:
        fill(acquisition, series())
        other = replace(acquisition.event().entry, timestamp="another")
        hooks.gate.open_log().append([other])
        assert "already holds another entry" in str(refused(acquisition))


def test_a_forgotten_id_does_not_come_back(hooks: DeidHooks, store: Store) -> None:
    with hooks.acquisition() as acquisition:
        fill(acquisition, series())
        acquisition.post_deid()
        hooks.gate.open_log().erase([acquisition.log_id], Erasure("", "dpo", "asked for"), 10)
        assert "was forgotten" in str(refused(acquisition))
    assert store.entries == []


def test_an_acquisition_without_instances_is_refused(hooks: DeidHooks) -> None:
    with hooks.acquisition() as acquisition:
        assert "holds no instance" in str(refused(acquisition))


def test_an_acquisition_that_was_left_is_refused(hooks: DeidHooks, store: Store) -> None:
    with hooks.acquisition() as acquisition:
        fill(acquisition, series())
    assert "was left before it was logged" in str(refused(acquisition))
    assert store.entries == []


def test_instances_of_two_patients_are_refused_by_keyword(hooks: DeidHooks, store: Store) -> None:
    with hooks.acquisition() as acquisition:
        fill(acquisition, [*series(1), *series(1, patient="CANARY-OTHER")])
        assert "disagree on PatientID" in str(refused(acquisition))
    assert store.entries == []


def test_instances_of_two_patients_are_logged_where_the_site_wants_it(load: Load) -> None:
    hooks = load(mixed_patients="log")
    with hooks.acquisition() as acquisition:
        fill(acquisition, [*series(1), series(2, patient="CANARY-OTHER")[1]])
        acquisition.post_deid()
    entry = hooks.gate.open_log().resolve(acquisition.log_id)
    assert isinstance(entry, Entry)
    assert set(entry.fields["PatientID"]) == {CANARIES["PatientID"], "CANARY-OTHER"}
    assert len(entry.patients) == 2


def test_two_instances_that_could_not_be_told_apart_are_refused_by_file(
    hooks: DeidHooks,
) -> None:
    one, other = series(1)[0], series(1)[0]
    other.StudyDescription = "CANARY of another"
    with hooks.acquisition() as acquisition:
        fill(acquisition, [one, other])
        with pytest.raises(UnableToLog, match="differs from it in what is removed") as refused:
            acquisition.post_deid()
    assert "CANARY" not in str(refused.value)


def test_of_an_unexpected_error_only_the_kind_is_in_the_message(
    hooks: DeidHooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*arguments: object) -> None:
        raise ValueError(CANARIES["PatientName"])

    monkeypatch.setattr("deid_hooks.acquisition.assemble", breaks)
    assert "ValueError while making the entry" in str(attempt(hooks))


def raises(event: object) -> None:
    raise ValueError(CANARIES["PatientName"])


def exits(event: object) -> None:
    raise SystemExit(CANARIES["PatientName"])


def interrupts(event: object) -> None:
    raise KeyboardInterrupt(CANARIES["PatientName"])


def answers(event: object) -> Any:
    return True


@pytest.mark.parametrize(
    ("does", "message"),
    [
        (raises, "the plugin mine raised ValueError in post_deid"),
        (exits, "the plugin mine called exit in post_deid"),
        (interrupts, "the plugin mine raised KeyboardInterrupt in post_deid"),
        (answers, "the plugin mine answered post_deid, which takes no answer"),
    ],
)
def test_a_plugin_stops_an_acquisition_that_is_logged(
    hooks: DeidHooks, store: Store, does: Callable[[object], Any], message: str
) -> None:
    class Mine:
        @hookimpl
        def post_deid(self, event: PostDeid) -> Any:
            assert [entry.log_id for entry in store.entries] == [event.log_id]
            assert event.entry.fields["PatientName"] == (CANARIES["PatientName"],)
            return does(event)

    hooks.register(Mine(), "mine")
    assert message in str(attempt(hooks))
    assert len(store.entries) == 1


def test_every_plugin_that_stops_an_acquisition_is_named(hooks: DeidHooks) -> None:
    class Stops:
        @hookimpl
        def post_deid(self, event: PostDeid) -> None:
            raise OSError

    for number in range(3):
        hooks.register(Stops(), f"plugin-{number}")
    error = attempt(hooks)
    assert all(f"the plugin plugin-{number} raised OSError" in str(error) for number in range(3))


def test_no_plugin_is_called_for_an_acquisition_that_is_not_logged(
    hooks: DeidHooks, store: Store
) -> None:
    received = []

    class Mine:
        @hookimpl
        def post_deid(self, event: PostDeid) -> None:
            received.append(event)

    hooks.register(Mine(), "mine")
    store.down = True
    attempt(hooks)
    assert received == []


def test_check_raises_what_is_wrong_with_the_log(hooks: DeidHooks, store: Store) -> None:
    hooks.check()
    store.down = True
    with pytest.raises(LogUnavailable, match=r"the log can't be reached\. Start it\."):
        hooks.check()


def test_check_translates_a_drivers_error(
    hooks: DeidHooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*arguments: object) -> None:
        raise RuntimeError(CANARIES["PatientName"])

    monkeypatch.setattr("tests.hooks.memory.MemoryBackend.check", breaks)
    with pytest.raises(LogUnavailable, match="failed with RuntimeError") as caught:
        hooks.check()
    assert_hides_everything(shown(caught.value))


def test_check_refuses_a_log_of_another_secret(
    load: Load, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged(load())
    monkeypatch.setenv("DEID_HOOKS_SECRET", "ab" * 32)
    hooks = DeidHooks.load(url="kept:site")
    with pytest.raises(LogUnavailable, match="another site secret"):
        hooks.check()


def test_closing_never_raises(
    hooks: DeidHooks, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def breaks(*arguments: object) -> None:
        raise RuntimeError(CANARIES["PatientName"])

    with monkeypatch.context() as patch:
        patch.setattr("tests.hooks.memory.MemoryBackend.close", breaks)
        hooks.close()
    assert "could not be closed: RuntimeError" in caplog.text
    assert_hides_everything(caplog.text)
