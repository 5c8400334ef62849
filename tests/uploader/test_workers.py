"""The processes that de-identify, and the folder into which they do."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from deid_hooks import DeidHooks
from deid_hooks.destinations import open_destination
from deid_hooks.uploader import upload
from deid_hooks.uploader.prepare import Refused, Work
from deid_hooks.uploader.scan import Scan


def test_they_end_before_their_folder_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What they write there meanwhile would keep it from being removed.
    seen: list[bool] = []

    def prepared(work: Work, series: object) -> Generator[list[Refused], None, None]:
        try:
            yield [Refused(tmp_path, "odd")]
        finally:
            seen.append(work.staging.exists())

    monkeypatch.setattr(upload, "prepare_series", prepared)
    target = open_destination(f"folder:{tmp_path}/out")
    with DeidHooks.load("test/1", url="none:") as hooks:
        results = upload.upload(hooks, Scan((), ()), target, upload.UploadOptions())
        next(results)
        del results  # as an interrupt does
    assert seen == [True]
