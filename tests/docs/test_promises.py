"""The page of promises names every adversary that is tried."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ADVERSARIES = sorted(
    path
    for path in (ROOT / "tests" / "adversaries").glob("test_*.py")
    if path.stem != "test_promises"
)


@pytest.mark.parametrize("file", ADVERSARIES, ids=lambda file: file.stem)
def test_every_adversary_that_is_tried_is_in_the_table(file: Path) -> None:
    page = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")
    assert f"(`{file.name}`)" in page.partition("## Attacks")[2]
