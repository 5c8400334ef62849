"""Profiles as sites have them: what they remove is in the log, whatever their rules."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from flywheel_migration.deidentify import load_profile
from fs.osfs import OSFS
from pydicom import Dataset, dcmread
from pydicom.dataset import FileDataset

from deid_hooks import (
    DeidHooks,
    Pseudonyms,
    SettingsError,
    UnableToLog,
    UnusableDataset,
    restore,
)
from deid_hooks.records.model import Entry
from deid_hooks_flywheel import engine
from deid_hooks_flywheel.log import HooksDeIdLog

FILES = Path(pydicom.__file__).parent / "data" / "test_files"
SERIES = FILES / "dicomdirtests" / "77654033" / "CT2"
PSEUDONYMS = Pseudonyms("TRIAL7", bytes(32))

PROFILE = """
name: site
dicom:
  patient-age-from-birthdate: true
  date-increment: -17
  recurse-sequence: true
  {options}
  fields:
    - name: PatientID
      replace-with: SUBJ-7
    - name: PatientName
      remove: true
    - name: PatientBirthDate
      remove: true
    - name: StudyDate
      increment-date: true
    - name: (0009, "GEMS_IDEN_01", 04)
      replace-with: XX
    - name: StudyInstanceUID
      hashuid: true
    - name: SeriesInstanceUID
      hashuid: true
    - name: SOPInstanceUID
      hashuid: true
    - name: PixelData
      keep: true
"""
OPTIONS = ["", "remove-private-tags: true", "remove-undefined: true"]


@pytest.fixture(params=OPTIONS, ids=lambda options: options.partition(":")[0] or "plain")
def profile(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "profile.yml"
    path.write_text(PROFILE.format(options=request.param))
    return path


@pytest.fixture
def hooks(tmp_path: Path) -> Iterator[DeidHooks]:
    with DeidHooks.load(
        "test/1", url=f"sqlite:///{tmp_path}/log.db", secret_file=tmp_path / "secret"
    ) as hooks:
        hooks.init()
        yield hooks


def logged(hooks: DeidHooks, log_id: str) -> Entry:
    entry = hooks.gate.open_log().resolve(log_id)
    assert isinstance(entry, Entry)
    return entry


def assert_restored(entry: Entry, deidentified: Dataset, original: Dataset) -> None:
    restored = restore(deidentified, entry)
    assert restored.dataset == original
    assert restored.not_restored == ()


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm", "rtplan.dcm", "test-SR.dcm"])
def test_what_a_profile_removes_is_in_the_log(hooks: DeidHooks, profile: Path, name: str) -> None:
    deidentify = engine(str(profile), PSEUDONYMS)
    original = dcmread(FILES / name)
    dataset = copy.deepcopy(original)
    with hooks.acquisition(project="TRIAL7") as acquisition:
        with acquisition.deidentifying(dataset):
            deidentify(dataset)
        acquisition.post_deid()
    assert dataset.PatientID == "SUBJ-7"
    assert "PatientName" not in dataset
    assert dataset.SOPInstanceUID != original.SOPInstanceUID
    assert_restored(logged(hooks, acquisition.log_id), dataset, original)


def test_the_engine_is_the_same_in_every_process(profile: Path) -> None:
    deidentify = engine(str(profile), PSEUDONYMS)
    first, second = dcmread(FILES / "CT_small.dcm"), dcmread(FILES / "CT_small.dcm")
    deidentify(first)
    pickle.loads(pickle.dumps(deidentify))(second)
    assert first == second


def test_instances_that_share_a_uid_are_not_passed_over(profile: Path) -> None:
    deidentify = engine(str(profile), PSEUDONYMS)
    for _ in range(2):
        dataset = dcmread(FILES / "CT_small.dcm")
        deidentify(dataset)
        assert dataset.PatientID == "SUBJ-7"


def test_what_the_library_cannot_read_is_refused(profile: Path) -> None:
    empty = FileDataset("", {}, file_meta=dcmread(FILES / "CT_small.dcm").file_meta)
    with pytest.raises(UnusableDataset):
        engine(str(profile), PSEUDONYMS)(empty)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "secret-canary",
        "{",
        "name: x\ndicom:\n  fields:\n    - name: secret-canary\n      remove: true\n",
        "name: x\ndicom:\n  alter_pixels: {detect: [secret-canary]}\n  fields: []\n",
    ],
)
def test_a_profile_that_is_none_is_refused_and_not_quoted(tmp_path: Path, content: str) -> None:
    path = tmp_path / "profile.yml"
    path.write_text(content)
    for argument in ("", str(tmp_path / "missing.yml"), str(path)):
        with pytest.raises(SettingsError) as caught:
            engine(argument, PSEUDONYMS)
        assert "canary" not in str(caught.value)


def series(folder: Path) -> list[str]:
    folder.mkdir()
    for path in sorted(SERIES.iterdir()):
        (folder / f"{path.name}.dcm").write_bytes(path.read_bytes())
    return sorted(path.name for path in folder.iterdir())


def process(profile: Any, source: Path, target: Path, names: list[str]) -> None:
    target.mkdir(exist_ok=True)
    with OSFS(str(source)) as src, OSFS(str(target)) as dst:
        profile.process_packfile("dicom", src, dst, names)


def test_a_program_built_on_the_library_logs_what_its_profile_removes(
    hooks: DeidHooks, profile: Path, tmp_path: Path
) -> None:
    loaded = load_profile(str(profile))
    log = HooksDeIdLog(hooks, project="TRIAL7")
    log.attach(loaded)
    source, target = tmp_path / "source", tmp_path / "target"
    names = series(source)
    with log.acquisition() as acquisition:
        process(loaded, source, target, names)
        acquisition.post_deid()
    entry = logged(hooks, acquisition.log_id)
    assert len(entry.instances) == len(names)
    originals = {i.deid_uid: i.uid for i in entry.instances}
    for path in target.iterdir():
        deidentified = dcmread(path)
        [original] = [
            dataset
            for name in names
            if (dataset := dcmread(source / name)).SOPInstanceUID
            == originals[deidentified.SOPInstanceUID]
        ]
        assert_restored(entry, deidentified, original)
    assert len(list(target.iterdir())) == len(names)


def test_a_profile_applied_outside_an_acquisition_is_stopped(
    hooks: DeidHooks, profile: Path, tmp_path: Path
) -> None:
    loaded = load_profile(str(profile))
    HooksDeIdLog(hooks).attach(loaded)
    names = series(tmp_path / "source")
    with pytest.raises(UnableToLog, match="outside an acquisition"):
        process(loaded, tmp_path / "source", tmp_path / "target", names)
    assert not any((tmp_path / "target").iterdir())


def test_files_that_were_written_without_a_word_are_noticed(
    hooks: DeidHooks, tmp_path: Path
) -> None:
    path = tmp_path / "profile.yml"
    path.write_text("name: nothing\ndicom:\n  fields: []\n")
    loaded = load_profile(str(path))
    log = HooksDeIdLog(hooks)
    log.attach(loaded)
    names = series(tmp_path / "source")
    with log.acquisition() as acquisition:
        process(loaded, tmp_path / "source", tmp_path / "target", names)
        with pytest.raises(UnableToLog, match="without a word"):
            acquisition.post_deid()
