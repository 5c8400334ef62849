"""What an engine took away comes back, element by element, byte by byte."""

from __future__ import annotations

import json
import pickle
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import DataElement, Dataset, dcmread

from deid_hooks import Changes, UnableToLog, UnusableDataset, capture, changes, restore
from deid_hooks.dicom import encoding
from deid_hooks.dicom.difference import Policy, assemble, list_patients, refuse_mixed_patients
from deid_hooks.records.fields import INDEXED_FIELDS
from deid_hooks.records.json_codec import write_canonical_json
from deid_hooks.records.keys import RootKey, key_entry
from deid_hooks.records.model import Entry, make_log_id
from tests.dicom.engines import ENGINES, Engine
from tests.dicom.files import (
    CT,
    DIRECTORIES,
    INSTANCES,
    WITHOUT_UID,
    differing,
    item,
    leaves,
    made,
    read,
    sent,
)

MIXED = ("SC_rgb_jpeg.dcm", "UN_sequence.dcm")
"""These mix implicit VR into explicit: pydicom can't write them again as they were."""
READABLE = [path for path in INSTANCES if path.name not in MIXED]


def entry_of(*gathered: Changes, policy: Policy = "all") -> Entry:
    return assemble(gathered, make_log_id(), "TRIAL7", "test", INDEXED_FIELDS, policy)


def deidentified(path: Path, engine: Engine) -> tuple[Changes, Dataset]:
    dataset = read(path)
    captured = capture(dataset)
    engine(dataset)
    return changes(captured, dataset), sent(dataset)


@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
def test_every_file_of_pydicom_comes_back_but_for_what_is_named(engine: Engine) -> None:
    for path in READABLE:
        changed, arrived = deidentified(path, engine)
        restored = restore(arrived, entry_of(changed))
        differs = differing(leaves(read(path)), leaves(sent(restored.dataset)))
        if restored.not_restored:  # an icon's pixels: pixel data is never logged
            assert restored.not_restored == ("PixelData",), path.name
            assert all("7FE00010" in where for where in differs), path.name
        else:
            assert differs == [], path.name


def test_instances_that_share_a_uid_are_told_apart() -> None:
    by_uid = defaultdict(list)
    for path in READABLE:
        if path not in WITHOUT_UID:
            by_uid[str(read(path).SOPInstanceUID)].append(path)
    shared = [paths for paths in by_uid.values() if len(paths) > 1]
    assert shared
    for paths in shared:
        pairs = [deidentified(path, ENGINES["dicognito"]) for path in paths]
        entry = entry_of(*(changed for changed, _ in pairs))
        assert len(entry.instances) == len(paths)
        for path, (_, arrived) in zip(paths, pairs, strict=True):
            try:
                restored = restore(arrived, entry).dataset
            except UnusableDataset as error:
                assert "can't be told apart" in str(error)  # said, never guessed
            else:
                assert differing(leaves(read(path)), leaves(sent(restored))) == [], path


@pytest.mark.parametrize("path", [*DIRECTORIES, *WITHOUT_UID], ids=lambda path: path.name)
def test_what_is_no_instance_is_refused(path: Path) -> None:
    dataset = dcmread(path, force=True)
    with pytest.raises(UnusableDataset):
        changes(capture(dataset), dataset)


def test_the_snapshot_is_not_touched_by_edits_in_place() -> None:
    dataset = made(ImageType=["ORIGINAL", "PRIMARY"], OtherPatientIDsSequence=[item(PatientID="1")])
    captured = capture(dataset)
    dataset.ImageType[0] = "DERIVED"
    dataset.OtherPatientIDsSequence[0].PatientID = "changed"
    dataset.OtherPatientIDsSequence.append(item(PatientID="new"))
    originals = changes(captured, dataset).originals
    assert json.loads(originals["00080008"])["Value"] == ["ORIGINAL", "PRIMARY"]
    (only,) = json.loads(originals["00101002"])["Value"]
    assert only["00100020"]["Value"] == ["1"]


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm", "MR_small_bigendian.dcm"])
def test_what_an_engine_only_reads_is_not_logged(name: str) -> None:
    dataset = read(next(path for path in INSTANCES if path.name == name))
    captured = capture(dataset)
    assert all(isinstance(element, DataElement) for element in dataset.iterall())  # decoded now
    assert not changes(captured, dataset).originals


def test_a_letter_that_ascii_lacks_is_no_question_mark() -> None:
    dataset = made(StudyDescription="?")
    captured = capture(dataset)
    dataset.StudyDescription = "\u00e9"
    assert "00081030" in changes(captured, dataset).originals


def test_pixel_data_that_changed_is_named_and_not_logged() -> None:
    dataset = dcmread(CT)
    captured = capture(dataset)
    dataset.PixelData = bytes(len(dataset.PixelData))
    changed = changes(captured, dataset)
    assert changed.not_kept == ("PixelData",)
    assert "Value" not in changed.originals["7FE00010"]
    assert "InlineBinary" not in changed.originals["7FE00010"]


@pytest.mark.parametrize("kept", [True, False])
def test_a_large_value_is_kept_once_and_a_too_large_one_is_named(kept: bool) -> None:
    gathered = []
    for number in "12":
        dataset = made(SOPInstanceUID=f"1.2.{number}", EncapsulatedDocument=b"x" * 3_000_000)
        captured = capture(dataset)
        del dataset.EncapsulatedDocument
        limit = 3_000_000 - (not kept)
        gathered.append(changes(captured, dataset, large_values=limit, not_kept="log"))
    entry = entry_of(*gathered)
    assert len(entry.large) == kept
    restored = restore(sent(dataset), entry)
    assert ("EncapsulatedDocument" in restored.dataset) == kept
    assert restored.not_restored == (() if kept else ("EncapsulatedDocument",))


def test_a_too_large_value_is_refused_unless_that_is_wanted() -> None:
    dataset = made(EncapsulatedDocument=b"canary" * 100_000)
    captured = capture(dataset)
    del dataset.EncapsulatedDocument
    with pytest.raises(UnusableDataset, match="EncapsulatedDocument is changed and has more bytes"):
        changes(captured, dataset, large_values=100_000)
    assert changes(captured, dataset).large  # 64 MiB


def test_the_policy_identifying_keeps_no_more_than_fields_and_uids() -> None:
    dataset = made(PatientID="4711", ImageComments="canary", FrameOfReferenceUID="1.2.9")
    captured = capture(dataset)
    dataset.PatientID, dataset.ImageComments, dataset.FrameOfReferenceUID = "S", "", "2.25.1"
    entry = entry_of(changes(captured, dataset), policy="identifying")
    assert "canary" not in entry.originals
    restored = restore(sent(dataset), entry)
    assert restored.dataset.PatientID == "4711"
    assert restored.dataset.FrameOfReferenceUID == "1.2.9"
    assert restored.not_restored == ("ImageComments",)


def test_the_order_of_instances_makes_no_difference_to_the_digest() -> None:
    gathered = [deidentified(path, ENGINES["dicognito"])[0] for path in READABLE[:6]]

    def digest(*instances: Changes) -> str:
        return key_entry(entry_of(*instances), list_patients(instances), RootKey(bytes(32))).digest

    assert digest(*gathered) == digest(*reversed(gathered))
    assert digest(*gathered) != digest(*gathered[1:])


def test_every_uid_that_changed_is_found_wherever_it_stood() -> None:
    reference = item(ReferencedSOPInstanceUID="1.2.3")
    dataset = made(FrameOfReferenceUID="1.2.9", ReferencedImageSequence=[reference])
    captured = capture(dataset)
    dataset.FrameOfReferenceUID = "2.25.9"
    dataset.ReferencedImageSequence[0].ReferencedSOPInstanceUID = "2.25.3"
    assert set(changes(captured, dataset).uids) == {("2.25.9", "1.2.9"), ("2.25.3", "1.2.3")}


def test_instances_of_two_patients_are_refused_by_file_and_keyword_and_not_by_value() -> None:
    one, other = (changes(ds, ds) for ds in (made(PatientID="CANARY1"), made(PatientID="CANARY2")))
    with pytest.raises(UnableToLog, match="disagree on PatientID") as refused:
        refuse_mixed_patients([one, other])
    assert "CANARY" not in str(refused.value)


def test_a_name_in_another_spelling_is_no_other_patient() -> None:
    names = ("Doe^John", "DOE ^ JOHN^^", "doe^john")
    refuse_mixed_patients([changes(ds, ds) for ds in (made(PatientName=n) for n in names)])


def test_nothing_identifying_is_shown_or_lost_by_changes_in_other_processes() -> None:
    dataset = made(PatientName="Canary^Carl")
    captured = capture(dataset)
    dataset.PatientName = "S"
    changed = changes(captured, dataset)
    assert "Canary" not in repr(changed) + repr(captured) + repr(entry_of(changed))
    assert pickle.loads(pickle.dumps(changed)) == changed


@given(
    vr=st.sampled_from(sorted(encoding.TEXT_VRS | {"US", "FD", "FL", "AT", "OB", "UN", "SV"})),
    value=st.binary(max_size=40),
    charset=st.sampled_from(
        [
            b"",
            b"ISO_IR 100",
            b"ISO_IR 192",
            b"GB18030",
            b"ISO_IR 13",
            rb"\ISO 2022 IR 149",
            rb"\ISO 2022 IR 87\ISO 2022 IR 159",
            rb"ISO 2022 IR 13\ISO 2022 IR 87",
        ]
    ),
    little_endian=st.booleans(),
)
def test_the_codec_loses_no_byte(
    vr: str, value: bytes, charset: bytes, little_endian: bool
) -> None:
    encodings = encoding.parse_encodings(charset)
    element = encoding.encode(vr, value, encodings, little_endian)
    again = json.loads(write_canonical_json(element))
    assert encoding.decode(again, encodings, little_endian) == value
