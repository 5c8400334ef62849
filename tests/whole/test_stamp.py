"""The log id in delivered files, where a site wants it there, and out of them again."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.sequence import Sequence
from pydicom.uid import UID

from deid_hooks import stamp, unstamp
from tests.whole.site import SERIES, Site

SOURCE = SERIES / "77654033" / "CT2"
LOG_ID = "65774D086757457C9DCF96E762803606"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "site")


def delivered(site: Site) -> list[Dataset]:
    return [dcmread(path) for path in sorted(site.delivered.rglob("*.dcm"))]


def test_without_a_wish_for_it_no_file_holds_the_log_id(site: Site) -> None:
    site.upload(SOURCE)
    [log_id] = site.run("search", "Modality=CT", "--format", "ids").stdout.split()
    assert all(log_id.encode() not in content for content in site.files().values())


@pytest.mark.parametrize("kind", ["equipment", "private"])
def test_the_stamp_is_in_the_files_and_outside_the_digest(site: Site, kind: str) -> None:
    site.upload(SOURCE)
    plain = delivered(site)
    [log_id] = site.run("search", "Modality=CT", "--format", "ids").stdout.split()
    stamped = site.run(
        *("upload", str(SOURCE), "folder:delivered", "--project", "TRIAL7", "--again"),
        DEID_HOOKS_STAMP=kind,
    )
    assert stamped.returncode == 0, stamped.stderr
    assert site.run("search", "Modality=CT", "--format", "ids").stdout.split() == [log_id]
    found = [dataset for dataset in delivered(site) if dataset not in plain]
    assert len(found) == len(plain)
    for dataset in found:
        assert unstamp(dataset) == log_id
        assert dataset in plain


@pytest.mark.parametrize("kind", ["equipment", "private"])
def test_another_stamp_takes_the_place_of_the_first_and_nothing_else(kind: str) -> None:
    dataset = dcmread(next(SOURCE.iterdir()))
    other = Dataset()
    other.Manufacturer = "Another"
    dataset.ContributingEquipmentSequence = Sequence([other])
    dataset.private_block(0x0011, "Another", create=True).add_new(0x01, "LO", "x")
    before = dcmread(next(SOURCE.iterdir()))
    before.update({e.tag: e for e in dataset})
    stamp(dataset, "0" * 32, "equipment")
    stamp(dataset, LOG_ID, kind)  # type: ignore[arg-type]
    assert unstamp(dataset) == LOG_ID
    assert unstamp(dataset) is None
    assert dataset == before


def test_a_stamp_alone_selects_no_entry(site: Site, tmp_path: Path) -> None:
    site.run(
        *("upload", str(SOURCE), "folder:delivered", "--project", "TRIAL7"),
        DEID_HOOKS_STAMP="equipment",
    )
    derived = delivered(site)[0]
    derived.SOPInstanceUID = derived.file_meta.MediaStorageSOPInstanceUID = UID("2.25.1")
    derived.save_as(tmp_path / "derived.dcm")
    shown = site.run("show", str(tmp_path / "derived.dcm"))
    assert shown.returncode == 1
    assert "no entry" in shown.stderr


def test_an_engine_that_leaves_its_duty_out_is_named_once(site: Site, tmp_path: Path) -> None:
    profile = tmp_path / "profile.yml"
    profile.write_text("name: x\ndicom:\n  fields:\n    - {name: PatientName, remove: true}\n")
    source = tmp_path / "source"
    source.mkdir()
    for path in (p for p in (SERIES / "77654033").rglob("*") if p.is_file()):
        dataset = dcmread(path)
        del dataset.PatientIdentityRemoved
        dataset.save_as(source / path.name)
    sent = site.upload(source, "--engine", f"flywheel:{profile}")
    assert sent.stderr.count("leaves out Patient Identity Removed") == 1
    assert "leaves out" not in site.upload(SOURCE, "--engine", "dicognito").stderr
