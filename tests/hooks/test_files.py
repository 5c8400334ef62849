"""Files that hold a secret, and long sequences some items at a time."""

from __future__ import annotations

from itertools import count, islice
from pathlib import Path

import pytest

from deid_hooks.batches import split_batches
from deid_hooks.files import NotPrivate, read_private


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_a_secret_that_others_may_use_is_not_read(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"\xff")
    path.chmod(0o600)
    assert read_private(path) == b"\xff"
    path.chmod(mode)
    with pytest.raises(NotPrivate, match="others may read it"):
        read_private(path)
    with pytest.raises(FileNotFoundError):
        read_private(tmp_path / "none")


def test_batches_are_full_but_the_last_and_taken_as_they_come() -> None:
    assert list(split_batches(range(5), 2)) == [[0, 1], [2, 3], [4]]
    assert list(split_batches([], 2)) == []
    assert next(split_batches(count(), 3)) == [0, 1, 2]
    assert list(islice(split_batches(count(), 1), 2)) == [[0], [1]]
