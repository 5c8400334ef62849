"""A file that ends before its data do is named, and nothing of it leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.whole.site import SERIES, Site, rows

WHOLE = [SERIES.parent / name for name in ("CT_small.dcm", "MR_small.dcm", "rtplan.dcm")]


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_file_that_is_cut_short_is_refused_and_the_others_are_sent(
    tmp_path: Path, jobs: str
) -> None:
    site, source = Site(tmp_path / "site"), tmp_path / "source"
    source.mkdir()
    for path in WHOLE:
        (source / path.name).write_bytes(path.read_bytes())
    cut = source / WHOLE[0].name
    cut.write_bytes(cut.read_bytes()[:-1000])
    sent = site.upload(source, "--jobs", jobs)
    assert sent.returncode == 3
    refused = [row for row in rows(sent.stdout) if row["status"] != "uploaded"]
    assert [(row["file"], row["reason"]) for row in refused] == [
        (str(cut), "the file is cut short, or the length of PixelData is wrong")
    ]
    assert len(site.files()) == len(WHOLE) - 1
