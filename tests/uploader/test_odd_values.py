"""Values that are none, as scanners and other tools write them: emptied or named, never shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.dicom.handmade import PIXELS, description, even, explicit, identity, image, meta
from tests.dicom.round_trip import travel, values

DATES = [
    "1950.12.11",
    "00000000",
    "***",
    "UNKNOWN",
    "19501301",
    "1950",
    "20240229-20240301",
    "20240229+0100",
    "20240229\\20240301",
    "29.02.2024",
    "2024-02-29",
    " 20240229",
    "00010101",
]


@pytest.mark.parametrize("engine", ["basic", "dicognito"])
@pytest.mark.parametrize("date", DATES)
def test_what_is_no_date_is_delivered_without_it_and_comes_back(
    tmp_path: Path, engine: str, date: str
) -> None:
    content = image(study_date=date, birth=date)
    trip = travel(content, tmp_path, engine)
    assert trip.refused == ""
    if engine == "dicognito" and not date.startswith(("1950.", "1950", "20240229")):
        assert values(trip.delivered)["00080020"][1] == b""
    if date != "00010101":  # which is the dummy value of basic
        assert values(trip.delivered)["00080020"][1].strip() != date.encode()
    assert trip.restored == content


@pytest.mark.parametrize(
    "moment", ["***", "2024-02-29T10:11:12Z", "20240229 10:11", "2024022912Canary"]
)
def test_what_is_no_time_is_delivered_without_it_and_comes_back(
    tmp_path: Path, moment: str
) -> None:
    when = explicit(0x00080020, "DA", "20240229") + explicit(0x00080030, "TM", even(moment))
    content = image(more_8=explicit(0x0008002A, "DT", even(moment))).replace(
        explicit(0x00080020, "DA", "20240229") + explicit(0x00080030, "TM", "101112"), when
    )
    trip = travel(content, tmp_path, "dicognito")
    delivered = values(trip.delivered)
    assert delivered["00080030"][1] == delivered["0008002A"][1] == b""
    assert delivered["00080020"][1] not in (b"", b"20240229")
    assert values(trip.restored) == values(content)


@pytest.mark.parametrize("engine", ["basic", "dicognito"])
def test_a_method_code_that_another_tool_wrote_as_text_breaks_nothing(
    tmp_path: Path, engine: str
) -> None:
    text = explicit(0x00120064, "LO", "113100/113105 ")
    content = image(more_10=text)
    trip = travel(content, tmp_path, engine)
    assert trip.refused == ""
    assert trip.restored == content


@pytest.mark.parametrize("engine", ["basic", "dicognito"])
def test_an_engine_that_fails_names_the_element_and_no_value(tmp_path: Path, engine: str) -> None:
    broken = explicit(0x00189073, "FD", b"Canary")  # of six bytes, where eight are a number
    trip = travel(meta() + identity() + broken + description() + PIXELS, tmp_path, engine)
    if engine == "basic":  # it leaves what it doesn't have to change
        assert trip.refused == ""
    else:
        assert "AcquisitionDuration" in trip.refused
        assert "Canary" not in trip.refused
    trip = travel(
        image(more_8=explicit(0x00081140, "SQ", b"")).replace(
            explicit(0x0020000D, "UI", even("1.2.826.0.1.3680043.10.543.1", "\0")),
            explicit(0x0020000D, "FD", b"Canary"),
        ),
        tmp_path,
        engine,
    )
    assert "StudyInstanceUID" in trip.refused
    assert "Canary" not in trip.refused
