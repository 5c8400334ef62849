"""Options of the tests."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--faults",
        default="sample",
        choices=("sample", "share", "whole"),
        help="how much of the campaign under tests/faults runs: a few tries, CI's share, or all",
    )
