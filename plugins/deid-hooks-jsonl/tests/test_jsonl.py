"""The log in JSON Lines keeps the whole contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from deid_hooks import LogUnavailable
from deid_hooks.backends import Deadline
from deid_hooks.testing import BackendConformance
from deid_hooks.testing.records import chain_seals, make_entry
from deid_hooks_jsonl import JSONLinesBackend


class TestJSONLines(BackendConformance):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"jsonl:///{tmp_path}/log.jsonl"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.jsonl"


@pytest.fixture
def log(path: Path) -> JSONLinesBackend:
    made = JSONLinesBackend(f"jsonl:///{path}")
    made.create(Deadline())
    return made


def test_an_append_that_a_crash_cut_short_is_no_record_and_in_nobodys_way(
    log: JSONLinesBackend, path: Path
) -> None:
    first, cut, last = make_entry(), make_entry(), make_entry()
    log.append([first], chain_seals, Deadline())
    log.append([cut], chain_seals, Deadline())
    path.write_bytes(path.read_bytes()[:-5])
    assert list(log.everything(Deadline())) == [first]
    log.append([last], chain_seals, Deadline())
    assert list(log.everything(Deadline())) == [first, last]


def test_its_file_is_its_owners_only(log: JSONLinesBackend, path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["log.jsonl"]


@pytest.mark.parametrize("content", [b"", b"something\n", b"[]\n", b'{"deid-hooks":"log"}\n'])
def test_a_file_that_is_no_log_is_refused_and_left_as_it_is(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    log = JSONLinesBackend(f"jsonl:///{path}")
    with pytest.raises(LogUnavailable, match="no de-id log"):
        log.append([make_entry()], chain_seals, Deadline())
    assert path.read_bytes() == content


def test_a_log_that_was_replaced_while_in_use_is_read_anew(
    log: JSONLinesBackend, path: Path, tmp_path: Path
) -> None:
    log.append([make_entry()], chain_seals, Deadline())
    other = JSONLinesBackend(f"jsonl:///{tmp_path}/other.jsonl")
    other.create(Deadline())
    entry = make_entry()
    other.append([entry], chain_seals, Deadline())
    (tmp_path / "other.jsonl").replace(path)
    assert list(log.everything(Deadline())) == [entry]
