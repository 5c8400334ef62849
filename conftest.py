"""What the whole test suite does at a desk, and what of it is left to CI."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

if not os.environ.get("CI"):  # there, hypothesis has a profile of its own, with its own numbers
    settings.register_profile("desk", max_examples=25, deadline=None)
    settings.load_profile("desk")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--ci", action="store_true", help="run what takes long too (marked ci)")
    parser.addoption(
        "--faults",
        default="sample",
        choices=("sample", "share", "whole"),
        help="how much of the campaign under tests/faults runs: a few tries, CI's share, or all",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what takes long, before a fixture of it is made."""
    wanted = item.config.getoption("--ci") or item.config.getoption("--faults") != "sample"
    if item.get_closest_marker("ci") and not wanted:
        pytest.skip("takes long, and is left to .ci/run; run it with --ci")
