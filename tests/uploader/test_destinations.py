from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from deid_hooks.destinations import DestinationError, open_destination
from deid_hooks.errors import SettingsError


def test_a_folder_is_found_by_its_scheme(tmp_path: Path) -> None:
    assert open_destination(f"folder:{tmp_path}").name == f"folder:{tmp_path}"


def test_one_folder_has_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "link").symlink_to(tmp_path / "out")
    names = {
        open_destination(text).name
        for text in ("folder:out", "folder:./x/../out/", "folder:link", "folder:~/out")
    }
    assert names == {f"folder:{tmp_path}/out"}


def test_opening_touches_nothing(tmp_path: Path) -> None:
    open_destination(f"folder:{tmp_path}/out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["ftp://user:secret@host", "out", "/srv/out", "", "./a:b"])
def test_an_unknown_kind_is_refused_with_the_known_ones(text: str) -> None:
    with pytest.raises(SettingsError, match="folder:PATH") as caught:
        open_destination(text)
    assert "secret" not in str(caught.value)


def test_a_folder_without_a_path_is_refused() -> None:
    with pytest.raises(SettingsError, match="folder:PATH"):
        open_destination("folder:")


def test_a_path_that_leads_nowhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in (f"{tmp_path}/loop", f"{tmp_path}/loop/x", "~nobody-of-this-name/x"):
        with pytest.raises(SettingsError, match="leads nowhere"):
            open_destination(f"folder:{path}")


def test_an_error_says_what_to_do_and_survives_a_process_boundary() -> None:
    error = DestinationError("the destination is full", "make room")
    assert str(error) == "The destination is full. Make room."
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert str(DestinationError("it is broken")) == "It is broken."


def test_images_leave_the_machine_over_tls_or_on_purpose_without() -> None:
    with pytest.raises(SettingsError, match=r"over TLS: write \?tls=yes"):
        open_destination("dicom://ARCHIVE@pacs.example:104")
    for url in (
        "dicom://ARCHIVE@pacs.example:104?insecure=yes",
        "dicom://ARCHIVE@pacs.example:104?tls=yes",
        "dicom://ARCHIVE@127.0.0.1:104",
        "dicom://ARCHIVE@[::1]:104",
        "dicom://ARCHIVE@localhost:104",
    ):
        assert open_destination(url).name == url.partition("?")[0]
