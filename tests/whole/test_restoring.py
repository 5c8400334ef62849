"""There and back: what the real program delivered and logged gives the originals again."""

from __future__ import annotations

import pytest
from pydicom import Dataset, dcmread
from pydicom.tag import BaseTag

from deid_hooks import restore
from deid_hooks.backends.sqlite import SQLiteBackend
from deid_hooks.deadline import Deadline
from deid_hooks.records.model import Entry
from tests.dicom.files import differing, item, leaves, sent
from tests.whole.canaries import dataset
from tests.whole.site import LOG, Site, rows

ROOT = "1.2.826.0.1.3680043.10.778"


def ct(series: int, number: int) -> Dataset:
    """An instance with much that can get lost: nested, private, in scripts, odd in its form."""
    made = dataset(f"{ROOT}.{series}.{number}")
    made.SpecificCharacterSet = ["ISO_IR 100", "ISO_IR 192", ["", "ISO 2022 IR 87"]][series % 3]
    made.SeriesInstanceUID = f"{ROOT}.{series}"
    made.StudyInstanceUID = f"{ROOT}.9{series % 2}"
    made.PatientName = ["Müller^Jürgen", "山田^太郎", "Yamada^Tarou=山田^太郎=やまだ^たろう"][
        series % 3
    ]
    made.InstanceNumber, made.SliceThickness = number, "01.50"
    made.ImagePositionPatient = ["-1.0e2", "+3", f"{number}.000"]
    made.AcquisitionTime = f"10171{number}.250000"
    made.OtherPatientIDsSequence = [item(PatientID="A"), item(PatientID=""), item()]
    made.ReferencedImageSequence = [
        item(ReferencedSOPInstanceUID=f"{ROOT}.{series}.{other}") for other in range(number + 1)
    ]
    block = made.private_block(0x0011, "DEID HOOKS TEST", create=True)
    block.add_new(0x01, "LO", f"per instance {number}")
    block.add_new(0x02, "SQ", [item(PatientName="Nested^Nora", StudyDate="20060801")])
    block.add_new(0x03, "UN", b"unknown\0bytes\xff")
    if number:  # not in every instance
        made.PatientComments = "only some have it"
        made.PatientAge = ""
    return made


@pytest.mark.parametrize("engine", ["basic", "dicognito"])
def test_every_delivered_file_comes_back_equal_element_by_element(site: Site, engine: str) -> None:
    source = site.folder / "incoming"
    source.mkdir()
    for series in range(3):
        for number in range(3):
            path = source / f"{series}-{number}.dcm"
            ct(series, number).save_as(path, enforce_file_format=True)
    done = site.upload(source, "--engine", engine)
    assert done.returncode == 0
    log = SQLiteBackend(f"sqlite:///{site.folder / LOG}")
    entries = [log.resolve(row["log_id"], Deadline()) for row in rows(done.stdout)]
    owner = {i.deid_uid: (e, i.uid) for e in entries if isinstance(e, Entry) for i in e.instances}
    originals = {dcmread(path).SOPInstanceUID: path for path in source.iterdir()}
    for name in site.files():
        delivered = dcmread(site.delivered / name)
        assert len(differing(leaves(delivered), leaves(ct(0, 0)))) > 20
        entry, uid = owner[delivered.SOPInstanceUID]
        restored = restore(delivered, entry)
        assert restored.not_restored == ()
        original = dcmread(originals.pop(uid))
        assert BaseTag(0x00111002) in original
        assert differing(leaves(original), leaves(sent(restored.dataset))) == []
    assert originals == {}
    log.close()
