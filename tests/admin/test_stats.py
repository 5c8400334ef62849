"""The log in numbers: the same ones, whether the store counts or is read."""

from __future__ import annotations

import pytest

from deid_hooks.backends.sqlite import SQLiteBackend
from tests.admin.conftest import SERIES, Desk


def test_the_numbers_are_those_of_the_log(delivered: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    delivered.upload(SERIES / "98892001", to="elsewhere")
    delivered("block", "PatientID=77654033", "--reason", "r")
    delivered("withdrawn", "folder:delivered", "Doe", "Modality=CR")
    delivered("forget", "PatientID=77654033", "Modality=CT", "--reason", "r", "--yes")
    with delivered.hooks() as hooks:
        counted = hooks.gate.open_log().statistics()
        monkeypatch.delattr(SQLiteBackend, "statistics")
        read = hooks.gate.open_log().statistics()
    assert counted == read
    assert counted.counts["forgotten"] == counted.counts["blocked"] == 1
    assert counted.counts["patients"] == 2
    assert counted.counts["accesses"] == 3
    assert {(event, count) for _, event, count in counted.copies} >= {("withdrawn", 3)}


def test_they_fit_one_screen_and_show_nobody(delivered: Desk) -> None:
    said = delivered("stats", "--format", "table").out
    assert len(said.splitlines()) < 24
    assert "Doe" not in said
    assert delivered.trail() == []
    rows = {row["what"]: row["count"] for row in delivered("stats").rows}
    assert (rows["entries"], rows["instances"], rows["patients"]) == (4, 7, 1)


def test_an_empty_log_has_numbers_too(desk: Desk) -> None:
    assert desk("stats", "--format", "table").code == 0
