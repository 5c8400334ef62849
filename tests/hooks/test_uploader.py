"""An uploader that does what the documentation shows."""

from __future__ import annotations

import copy
import logging
import multiprocessing
import pickle
import shutil
import threading
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from itertools import groupby
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset

from deid_hooks import (
    Changes,
    DeidHooks,
    PostDeid,
    UnableToLog,
    UnusableDataset,
    changes,
    hookimpl,
    restore,
)
from deid_hooks.records.model import Entry
from tests.hooks.conftest import Load
from tests.hooks.memory import Store
from tests.hooks.series import (
    CANARIES,
    TEST_FILES,
    assert_hides_everything,
    deid_uid,
    engine,
    fill,
    read,
    series,
    shown,
)


def series_of(folder: Path) -> Iterable[list[Path]]:
    def uid(path: Path) -> str:
        return str(dcmread(path, stop_before_pixels=True).SeriesInstanceUID)

    return [list(paths) for _, paths in groupby(sorted(folder.iterdir(), key=uid), key=uid)]


class Staged(list[FileDataset]):
    def write(self, dataset: FileDataset) -> None:
        self.append(dataset)


def test_the_ten_lines_of_the_documentation_upload_a_folder(load: Load, store: Store) -> None:
    load()  # the log was set up before
    folder = Path("incoming")
    folder.mkdir()
    for name in ("CT_small.dcm", "MR_small.dcm", "rtplan.dcm"):
        shutil.copy(TEST_FILES / name, folder)
    arrived: list[str] = []

    def send(dataset: Dataset) -> bool:
        assert dataset.SOPInstanceUID in {i.deid_uid for e in store.entries for i in e.instances}
        arrived.append(dataset.SOPInstanceUID)
        return True

    with DeidHooks.load(uploader="sender/1.2", url="kept:site") as hooks:
        hooks.check()
        for paths in series_of(folder):
            staged = Staged()
            with hooks.acquisition(project="TRIAL7") as acquisition:
                for path in paths:
                    dataset = dcmread(path)
                    with acquisition.deidentifying(dataset):
                        engine(dataset)
                    staged.write(dataset)
                acquisition.post_deid()
            with hooks.uploading(
                acquisition.log_id, destination="dicom://ARCHIVE@pacs:11112"
            ) as upload:
                for dataset in staged:
                    upload.sent(dataset.SOPInstanceUID, ok=send(dataset))

    assert len(arrived) == 3
    assert [entry.project for entry in store.entries] == ["TRIAL7"] * 3
    assert [entry.uploader for entry in store.entries] == ["sender/1.2"] * 3
    assert [event.event for event in store.events] == ["cleared", "uploaded"] * 3
    assert {event.destination for event in store.events} == {"dicom://ARCHIVE@pacs:11112"}


def test_what_was_logged_brings_the_original_back(hooks: DeidHooks, store: Store) -> None:
    original, dataset = read(), read()
    with hooks.acquisition() as acquisition:
        with acquisition.deidentifying(dataset):
            engine(dataset)
        acquisition.post_deid()
    entry = hooks.gate.open_log().resolve(acquisition.log_id)
    assert isinstance(entry, Entry)
    restored = restore(dataset, entry)
    assert restored.dataset == original


def test_the_log_id_is_there_before_anything_is_logged(hooks: DeidHooks, store: Store) -> None:
    with hooks.acquisition() as acquisition:
        first = acquisition.log_id
        fill(acquisition, series())
        assert acquisition.post_deid() == first
    assert len(first) == 32
    assert [entry.log_id for entry in store.entries] == [first]


def test_several_acquisitions_at_once_are_not_mixed(hooks: DeidHooks, store: Store) -> None:
    barrier = threading.Barrier(4)

    def one(number: int) -> tuple[str, list[str]]:
        with hooks.acquisition(project=f"P{number}") as acquisition:
            barrier.wait()
            uids = fill(acquisition, series(5, patient=f"CANARY-{'x' * number}"))
            acquisition.post_deid()
        with hooks.uploading(acquisition.log_id, "folder:/out") as upload:
            barrier.wait()
            upload.sent_all()
        return acquisition.log_id, uids

    with ThreadPoolExecutor(4) as pool:
        made = dict(pool.map(one, range(4)))
    by_id = {entry.log_id: sorted(i.deid_uid for i in entry.instances) for entry in store.entries}
    assert by_id == {log_id: sorted(uids) for log_id, uids in made.items()}
    assert [event.event for event in store.events].count("uploaded") == 4


def test_threads_may_share_one_acquisition(hooks: DeidHooks, store: Store) -> None:
    datasets = series(24)
    with hooks.acquisition() as acquisition:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda some: fill(acquisition, [some]), datasets))
        acquisition.post_deid()
    assert len(store.entries[0].instances) == 24


def changes_in_a_worker(path: Path) -> Changes:
    original = dcmread(path)
    deidentified = copy.deepcopy(original)
    engine(deidentified)
    return changes(original, deidentified)


def test_worker_processes_make_the_changes(hooks: DeidHooks, store: Store) -> None:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool, hooks.acquisition() as acquisition:
        made = pool.submit(changes_in_a_worker, TEST_FILES / "CT_small.dcm").result()
        acquisition.add_changes(made)
        acquisition.post_deid()
    assert store.entries[0].fields["PatientName"] == (str(read().PatientName),)


def test_changes_are_small_and_hide_their_values() -> None:
    original, deidentified = series(1)[0], series(1)[0]
    engine(deidentified)
    made = changes(original, deidentified)
    assert len(pickle.dumps(made)) < 10_000
    assert_hides_everything(repr(made))


def test_an_engine_may_return_a_new_dataset(hooks: DeidHooks, store: Store) -> None:
    original = series(1)[0]
    deidentified = copy.deepcopy(original)
    engine(deidentified)
    with hooks.acquisition() as acquisition:
        acquisition.add(original, deidentified)
        acquisition.post_deid()
    (instance,) = store.entries[0].instances
    assert (instance.uid, instance.deid_uid) == (
        original.SOPInstanceUID,
        deid_uid(original.SOPInstanceUID),
    )
    assert store.entries[0].fields["PatientID"] == (CANARIES["PatientID"],)


def test_one_dataset_as_original_and_deidentified_is_refused(hooks: DeidHooks) -> None:
    dataset = series(1)[0]
    engine(dataset)
    with (
        hooks.acquisition() as acquisition,
        pytest.raises(UnusableDataset, match="are one object"),
    ):
        acquisition.add(dataset, dataset)


def test_an_engine_that_raises_leaves_nothing_behind(hooks: DeidHooks, store: Store) -> None:
    good, bad = series(2)
    with hooks.acquisition() as acquisition:
        with pytest.raises(ZeroDivisionError), acquisition.deidentifying(bad):
            del bad.PatientName
            raise ZeroDivisionError
        fill(acquisition, [good])
        acquisition.post_deid()
    assert [i.deid_uid for i in store.entries[0].instances] == [good.SOPInstanceUID]


def test_what_cant_be_compared_is_refused_without_its_values(
    hooks: DeidHooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*arguments: object) -> Changes:
        raise KeyError(CANARIES["PatientName"])

    monkeypatch.setattr("deid_hooks.acquisition.changes", breaks)
    with hooks.acquisition() as acquisition, pytest.raises(UnusableDataset) as caught:
        fill(acquisition, series(1))
    assert "KeyError while comparing" in str(caught.value)
    assert_hides_everything(shown(caught.value))


def test_what_cant_be_captured_is_refused_without_its_values(
    hooks: DeidHooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(dataset: Dataset) -> None:
        raise ValueError(CANARIES["PatientName"])

    monkeypatch.setattr("deid_hooks.acquisition.capture", breaks)
    with hooks.acquisition() as acquisition, pytest.raises(UnusableDataset) as caught:
        fill(acquisition, series(1))
    assert_hides_everything(shown(caught.value))


def test_an_instance_that_comes_after_post_deid_is_refused(hooks: DeidHooks, store: Store) -> None:
    first, late = series(2)
    with hooks.acquisition() as acquisition:
        fill(acquisition, [first])
        acquisition.post_deid()
        with pytest.raises(UnableToLog, match="added after"):
            fill(acquisition, [late])
    assert len(store.entries[0].instances) == 1


def test_an_instance_that_comes_after_the_block_is_refused(hooks: DeidHooks) -> None:
    with hooks.acquisition() as acquisition:
        pass
    with pytest.raises(UnableToLog, match="added after"):
        fill(acquisition, series(1))


def test_post_deid_twice_leaves_one_entry(hooks: DeidHooks, store: Store) -> None:
    with hooks.acquisition() as acquisition:
        fill(acquisition, series())
        assert acquisition.post_deid() == acquisition.post_deid()
    assert len(store.entries) == 1


def test_a_retry_after_a_failure_writes_the_same_entry(hooks: DeidHooks, store: Store) -> None:
    store.faults = ["written", "unavailable"]
    with hooks.acquisition() as acquisition:
        fill(acquisition, series())
        with pytest.raises(UnableToLog):
            acquisition.post_deid()
        acquisition.post_deid()
    assert [entry.log_id for entry in store.entries] == [acquisition.log_id]


def test_reuse_uses_an_equal_entry(hooks: DeidHooks, store: Store) -> None:
    ids = []
    for _ in range(2):
        with hooks.acquisition(project="TRIAL7") as acquisition:
            fill(acquisition, series())
            ids.append(acquisition.post_deid(reuse=True))
        assert acquisition.log_id == ids[0]
    assert ids[0] == ids[1]
    assert len(store.entries) == 1
    with hooks.uploading(acquisition.log_id, "folder:/out"):
        pass


def test_reuse_keeps_projects_apart(hooks: DeidHooks, store: Store) -> None:
    for project in ("TRIAL7", "TRIAL8"):
        with hooks.acquisition(project=project) as acquisition:
            fill(acquisition, series())
            acquisition.post_deid(reuse=True)
    assert len(store.entries) == 2


def test_reuse_takes_no_entry_of_other_content_whatever_the_store_answers(
    hooks: DeidHooks, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hooks.acquisition(project="TRIAL7") as acquisition:
        fill(acquisition, series())
        other = acquisition.post_deid()
    monkeypatch.setattr(type(hooks.gate.open_log().backend), "with_digest", lambda *_: other)
    with hooks.acquisition(project="TRIAL8") as acquisition:
        fill(acquisition, series())
        with pytest.raises(UnableToLog, match="and that is another entry"):
            acquisition.post_deid(reuse=True)
    assert len(store.entries) == 1


def test_without_reuse_a_second_attempt_is_a_second_entry(hooks: DeidHooks, store: Store) -> None:
    for _ in range(2):
        with hooks.acquisition() as acquisition:
            fill(acquisition, series())
            acquisition.post_deid()
    assert len(store.entries) == 2


def test_reuse_does_not_bypass_a_plugin_that_stopped_the_first_attempt(
    hooks: DeidHooks, store: Store
) -> None:
    received: list[str] = []

    class Stops:
        @hookimpl
        def post_deid(self, event: PostDeid) -> None:
            assert event.entry.log_id == event.log_id
            received.append(event.log_id)
            raise ValueError

    hooks.register(Stops(), "stops")
    for _ in range(2):
        with hooks.acquisition() as acquisition:
            fill(acquisition, series())
            with pytest.raises(UnableToLog, match="the plugin stops raised ValueError"):
                acquisition.post_deid(reuse=True)
    assert received == [store.entries[0].log_id] * 2


def test_what_is_not_kept_in_the_log_is_named_in_a_warning(
    hooks: DeidHooks, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = series(1)[0]
    with hooks.acquisition() as acquisition:
        with acquisition.deidentifying(dataset):
            engine(dataset)
            dataset.PixelData = bytes(len(dataset.PixelData))
        event = acquisition.event()
        acquisition.post_deid()
    assert "PixelData" in event.not_kept
    assert f"{acquisition.log_id}: PixelData changed" in caplog.text


def test_neither_events_nor_log_lines_show_an_original(
    hooks: DeidHooks, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with hooks.acquisition() as acquisition:
        fill(acquisition, series())
        assert_hides_everything(repr(acquisition.event()))
        acquisition.post_deid()
    with hooks.uploading(acquisition.log_id, "folder:/out") as upload:
        upload.sent("9.9.9")
    assert_hides_everything(caplog.text)
    assert_hides_everything(repr(store.entries) + repr(acquisition) + repr(hooks))


def test_pseudonyms_take_the_label_that_the_log_has_and_ask_once(
    hooks: DeidHooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    def subject(project: str, patient_id: str, issuer: str) -> str | None:
        asked.append((patient_id, issuer))
        return "S-007" if patient_id == "4711" else None

    monkeypatch.setattr(hooks, "subject", subject)
    pseudonyms = hooks.pseudonyms("TRIAL7")
    assert [pseudonyms.label(" 4711", "A") for _ in range(2)] == ["S-007"] * 2
    new = [pseudonyms.label("4712", "") for _ in range(2)]
    assert new[0] == new[1] == hooks.pseudonyms("TRIAL7", {}).label("4712", "")
    assert pseudonyms.label(" ", "") == ""
    assert asked == [("4711", "A"), ("4712", "")]
    sent = pickle.loads(pickle.dumps(pseudonyms))
    assert (sent.label("4711", "A"), sent.label("4712", "")) == ("S-007", new[0])
