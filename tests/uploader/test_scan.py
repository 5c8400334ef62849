from __future__ import annotations

import gzip
import os
import shutil
import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from deid_hooks.dicom.elements import TOO_LARGE
from deid_hooks.dicom.part10 import read_dicom
from deid_hooks.errors import UnusableDataset
from deid_hooks.uploader.scan import Scan, scan
from tests.dicom.handmade import PIXELS, description, even, explicit, identity, implicit, meta
from tests.dicom.handmade import image as made_by_hand

MakeImage = Callable[..., Path]


def every_file(scanned: Scan) -> list[Path]:
    found = [path for series in scanned.series for path in series.paths]
    return sorted(found + [left.path for left in scanned.left_out])


def reasons(scanned: Scan) -> dict[str, tuple[str, str]]:
    return {left.path.name: (left.kind, left.reason) for left in scanned.left_out}


@pytest.fixture
def image(tmp_path: Path) -> MakeImage:
    def make(name: str, study: str = "1.2", series: str = "1.2.1", **attributes: object) -> Path:
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.SOPClassUID = CTImageStorage
        dataset.SOPInstanceUID = "1.2.1.1"
        dataset.StudyInstanceUID = study
        dataset.SeriesInstanceUID = series
        for keyword, value in attributes.items():
            if isinstance(value, DataElement):
                dataset[keyword] = value
            else:
                setattr(dataset, keyword, value)
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        dataset.preamble = bytes(128)
        dataset.save_as(path)
        return path

    return make


def test_every_file_of_pydicom_is_accounted_for(folders_of_pydicom: list[Path]) -> None:
    for folder in folders_of_pydicom:
        scanned = scan(folder)
        assert every_file(scanned) == sorted(p for p in folder.rglob("*") if p.is_file())
        assert all(left.reason for left in scanned.left_out)


def test_what_is_no_dicom_and_what_is_refused_are_told_apart(
    folders_of_pydicom: list[Path],
) -> None:
    scanned = scan(folders_of_pydicom[0])
    no_dicom = {left.path.name for left in scanned.left_out if left.kind == "no DICOM"}
    assert {"README.txt", "test1.json"} <= no_dicom
    refused = [left for left in scanned.left_out if left.kind == "refused"]
    assert sum(left.kind == "no image" for left in scanned.left_out) == 8
    assert {left.reason for left in refused} == {
        "it is compressed with gzip: unpack it first",
        "its elements have no value representation, which its transfer syntax asks for",
        "no SOPInstanceUID",
        "no StudyInstanceUID",
    }


def test_dicom_without_prefix_is_taken_if_it_names_itself(folders_of_pydicom: list[Path]) -> None:
    names = {path.name for series in scan(folders_of_pydicom[0]).series for path in series.paths}
    assert {"ExplVR_BigEndNoMeta.dcm", "ExplVR_LitEndNoMeta.dcm", "rtstruct.dcm"} <= names


def test_a_file_is_in_the_series_that_it_names(folders_of_pydicom: list[Path]) -> None:
    checked = 0
    for series in scan(folders_of_pydicom[0]).series:
        for path in series.paths:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                dataset = dcmread(path, force=True, stop_before_pixels=True)
            assert dataset.StudyInstanceUID == series.study_uid
            assert dataset.SeriesInstanceUID == series.series_uid
            checked += 1
    assert checked > 100


def test_a_series_is_gathered_from_wherever_its_files_lie(image: MakeImage, tmp_path: Path) -> None:
    image("b/1.dcm", series="1.2.1")
    image("b/2.dcm", series="1.2.2")
    image("a/.hidden/3", series="1.2.2")
    image("c.dcm", series="1.2.1")
    image("d.dcm", series="1.2.1", study="1.3")
    series = scan(tmp_path).series
    assert [[str(p.relative_to(tmp_path)) for p in each.paths] for each in series] == [
        ["a/.hidden/3", "b/2.dcm"],
        ["b/1.dcm", "c.dcm"],
        ["d.dcm"],
    ]


def test_one_file_can_be_scanned(image: MakeImage) -> None:
    path = image("1.dcm")
    (series,) = scan(path).series
    assert series.paths == (path,)


@pytest.mark.parametrize("keyword", ["SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"])
def test_a_missing_or_empty_uid_is_named(image: MakeImage, keyword: str) -> None:
    path = image("1.dcm", **{keyword: ""})
    assert reasons(scan(path)) == {"1.dcm": ("refused", f"no {keyword}")}


def test_a_dicomdir_is_known_by_its_class_not_its_name(
    image: MakeImage, folders_of_pydicom: list[Path], tmp_path: Path
) -> None:
    directory = next(p for p in folders_of_pydicom[0].rglob("DICOMDIR"))
    shutil.copy(directory, tmp_path / "IM0001.dcm")
    image("DICOMDIR")
    scanned = scan(tmp_path)
    assert reasons(scanned) == {"IM0001.dcm": ("no image", "a DICOMDIR, not an image")}
    assert [path.name for path in scanned.series[0].paths] == ["DICOMDIR"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (made_by_hand()[128:], "DICM stands at its first byte"),
        (gzip.compress(made_by_hand(), mtime=0), "it is compressed with gzip: unpack it first"),
        (implicit(0, "UL", bytes(4)) + identity(implicit), "it begins with another group"),
        (implicit(0x00040000, "UL", bytes(4)) + identity(implicit), "it begins with another"),
        (explicit(0x00040000, "UL", bytes(4)) + identity(), "it begins with another group"),
    ],
)
def test_what_may_be_dicom_but_begins_otherwise_is_refused(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    (tmp_path / "1").write_bytes(content)
    ((kind, said),) = reasons(scan(tmp_path)).values()
    assert kind == "refused"
    assert reason in said


@pytest.mark.parametrize(
    "content",
    [
        gzip.compress(b"x" * 200, mtime=0),
        b"\x1f\x8b" * 300,
        b"\x04\x00" * 300,
        implicit(0, "UL", bytes(4)),
    ],
)
def test_what_only_seems_so_is_no_dicom(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "1").write_bytes(content)
    ((kind, _),) = reasons(scan(tmp_path)).values()
    assert kind == "no DICOM"


def test_tags_in_any_order_are_found(tmp_path: Path) -> None:
    private = explicit(0x00290010, "LO", "ACME") + explicit(0x00291001, "LO", "x ")
    pixels = description() + PIXELS
    patient = identity()[identity().index(explicit(0x00100010, "PN", even("Testcase^Canary"))) :]
    (tmp_path / "1").write_bytes(meta() + private + identity() + pixels)
    (tmp_path / "2").write_bytes(
        meta() + identity().replace(patient, b"") + private + pixels + patient
    )
    (series,) = scan(tmp_path).series
    assert len(series.files) == 2
    assert series.patients == {("CANARY-77", "")}


def test_broken_dicom_is_refused_and_never_taken_for_something_else(tmp_path: Path) -> None:
    (tmp_path / "1.dcm").write_bytes(bytes(128) + b"DICM" + b"\x02\x00\x00\x00UL\x04")
    assert reasons(scan(tmp_path))["1.dcm"][0] == "refused"


def test_files_of_nothing_or_of_zeros_are_no_dicom(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "zeros").write_bytes(bytes(5000))
    (tmp_path / "almost").write_bytes(b"\x08\x00" * 500)
    kinds = {name: kind for name, (kind, _) in reasons(scan(tmp_path)).items()}
    assert kinds == dict.fromkeys(("almost", "empty", "zeros"), "no DICOM")


def test_what_can_not_be_read_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "gone.dcm").symlink_to(tmp_path / "elsewhere")
    expected = ("refused", "it can't be read: no such file or directory")
    assert reasons(scan(tmp_path)) == {"gone.dcm": expected}
    assert reasons(scan(tmp_path / "nowhere")) == {"nowhere": expected}


@pytest.mark.parametrize(
    "call",
    ["pathlib.Path.open", "pathlib.Path.iterdir", "pathlib.Path.stat"],
)
def test_what_may_not_be_read_is_refused_without_what_the_system_says(
    image: MakeImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    image("1.dcm")

    def forbidden(*args: object, **kwargs: object) -> None:
        # Made up, because nothing is forbidden to root.
        raise PermissionError(13, "Permission denied", "/secret/Doe^John")

    monkeypatch.setattr(call, forbidden)
    (left,) = scan(tmp_path).left_out
    assert (left.kind, left.reason) == ("refused", "it can't be read: permission denied")


def test_a_pipe_is_passed_over_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert reasons(scan(tmp_path)) == {"pipe": ("no DICOM", "neither a file nor a folder")}


def test_a_loop_of_links_ends(image: MakeImage, tmp_path: Path) -> None:
    path = image("a/1.dcm")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    scanned = scan(tmp_path)
    assert [series.paths for series in scanned.series] == [(path,)]
    assert [left.path.name for left in scanned.left_out] == ["loop"]


def test_a_link_out_of_the_folder_is_refused(image: MakeImage, tmp_path: Path) -> None:
    image("elsewhere/1.dcm")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "folder").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "source" / "file").symlink_to(tmp_path / "elsewhere" / "1.dcm")
    scanned = scan(tmp_path / "source")
    assert not scanned.series
    assert {left.kind for left in scanned.left_out} == {"refused"}
    assert all("--follow-links" in left.reason for left in scanned.left_out)


def test_a_source_that_is_a_link_is_searched_with_the_links_within(
    image: MakeImage, tmp_path: Path
) -> None:
    image("source/a/1.dcm")
    (tmp_path / "source" / "b.dcm").symlink_to(tmp_path / "source" / "a" / "1.dcm")
    (tmp_path / "link").symlink_to(tmp_path / "source")
    [series] = scan(tmp_path / "link").series
    assert len(series.paths) == 2


def deflate(path: Path, content: bytes) -> None:
    """Add a private element of this content to an image, and deflate it."""
    dataset = dcmread(path)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.private_block(0x0021, "x", create=True).add_new(0x01, "UN", content)
    dataset.save_as(path, enforce_file_format=True)


def test_a_deflated_file_that_grows_without_bound_is_refused(
    image: MakeImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = image("bomb.dcm")
    deflate(path, bytes(8 << 20))
    assert path.stat().st_size < 20_000
    assert len(scan(path).series) == 1
    dataset, _ = read_dicom(BytesIO(path.read_bytes()))
    assert len(dataset[0x00211001].value) == 8 << 20
    monkeypatch.setattr("deid_hooks.dicom.elements._MOST_INFLATED", 4 << 20)
    assert reasons(scan(path)) == {"bomb.dcm": ("refused", TOO_LARGE)}
    with pytest.raises(UnusableDataset, match="too much memory"):
        read_dicom(BytesIO(path.read_bytes()))


def test_a_file_of_very_many_items_is_refused(
    image: MakeImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deid_hooks.dicom.elements._MOST_SEQUENCE_ITEMS", 500)
    path = image("items.dcm", ReferencedStudySequence=[Dataset() for _ in range(501)])
    with pytest.raises(UnusableDataset, match="too many items"):
        read_dicom(BytesIO(path.read_bytes()))
    # Of undefined length they are read at once, when the folder is scanned.
    without_length = Dataset()
    without_length.ReferencedStudySequence = [Dataset() for _ in range(501)]
    without_length["ReferencedStudySequence"].is_undefined_length = True
    path = image("read.dcm", ReferencedStudySequence=without_length["ReferencedStudySequence"])
    assert reasons(scan(path)) == {"read.dcm": ("refused", TOO_LARGE)}
    deflated = image("deflated.dcm", ReferencedStudySequence=[Dataset() for _ in range(501)])
    deflate(deflated, b"")
    assert reasons(scan(deflated)) == {"deflated.dcm": ("refused", TOO_LARGE)}


def test_file_meta_that_goes_on_and_on_hides_nothing(
    image: MakeImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deid_hooks.dicom.elements._MOST_INFLATED", 4 << 20)
    path = image("bomb.dcm")
    deflate(path, bytes(8 << 20))
    whole = path.read_bytes()
    long = b"\x02\x00\x02\x01OB\x00\x00" + (5000).to_bytes(4, "little") + bytes(5000)
    path.write_bytes(whole[:144] + long + whole[144:])  # behind the prefix and the group length
    assert reasons(scan(path))["bomb.dcm"] == ("refused", TOO_LARGE)


def test_sequences_nested_without_end_are_refused(image: MakeImage) -> None:
    path = image("deep.dcm")
    head = b"\x08\x00\x10\x11SQ\x00\x00\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    whole = path.read_bytes()
    at = whole.index(b"\x20\x00\x0d\x00")
    path.write_bytes(whole[:at] + head * 5_000)
    assert reasons(scan(path))["deep.dcm"][0] == "refused"


def test_a_linked_folder_is_searched_if_links_are_followed(
    image: MakeImage, tmp_path: Path
) -> None:
    image("elsewhere/1.dcm")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "link").symlink_to(tmp_path / "elsewhere")
    (series,) = scan(tmp_path / "source", follow_links=True).series
    assert series.paths == (tmp_path / "source" / "link" / "1.dcm",)


def test_links_that_lead_to_the_destination_are_not_followed(
    image: MakeImage, tmp_path: Path
) -> None:
    delivered = image("out/1.2/1.2.1/1.dcm")
    original = image("source/1.dcm")
    source = tmp_path / "source"
    (source / "whole").symlink_to(tmp_path / "out")
    (source / "part").symlink_to(delivered.parent)
    (source / "file.dcm").symlink_to(delivered)
    (source / "above").symlink_to(tmp_path)
    scanned = scan(source, tmp_path / "out", follow_links=True)
    assert [series.paths for series in scanned.series] == [(original,)]
    left = {str(left.path.relative_to(source)): left.reason for left in scanned.left_out}
    assert left.pop("above/source").startswith("a link to a folder that is searched")
    assert left == dict.fromkeys(
        ("whole", "part", "file.dcm", "above/out"), "it leads to the destination, not to originals"
    )


def test_two_scans_give_the_same(folders_of_pydicom: list[Path]) -> None:
    assert scan(folders_of_pydicom[0]) == scan(folders_of_pydicom[0])


def test_nothing_is_printed_of_what_a_file_holds(folders_of_pydicom: list[Path]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scanned = scan(folders_of_pydicom[0])
    for series in scanned.series:
        assert series.study_uid not in repr(series)
        assert series.series_uid not in repr(series)
