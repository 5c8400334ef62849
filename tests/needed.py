"""What a test needs that not every machine has: skipped with a reason, or a failure in CI."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def program(name: str) -> str:
    """The path of a program; the test is skipped without it."""
    return shutil.which(name) or missing(f"the program {name} is not installed")


def missing(what: str) -> NoReturn:
    """Skip with this reason, or fail where nothing may be skipped."""
    if os.environ.get("NOTHING_MAY_BE_SKIPPED"):
        pytest.fail(f"nothing may be skipped here, but {what}")
    pytest.skip(what)
