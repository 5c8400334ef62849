"""What every command does when its output can't be written."""

from __future__ import annotations

import io
import os
import sys
from contextlib import redirect_stderr
from pathlib import Path

import pytest

from deid_hooks.cli import main
from tests.admin.conftest import Desk

FULL = Path("/dev/full")
COMMANDS = [
    *("--help", "show --help", "check", "config", "plugins", "init", "stats", "pending"),
    *("stats --format table", "access", "access --format table"),
    *("show ID", "show ID --format table", "show ID --format ids", "show ID --format csv"),
    *("report Doe", "report Doe --format table", "search Doe", "search Doe --format json"),
    *("search Doe --explain", "export", "export --join", "export --format csv"),
    *("withdrawn folder:delivered ID --at 2026-11-24", "block Doe --reason asked"),
    *("forget ID --reason asked --dry-run", "forget ID --reason asked --yes"),
]


@pytest.mark.parametrize("buffering", [1, -1], ids=["by line", "at the end"])
def test_a_full_disk_ends_every_command_in_words(
    delivered: Desk, monkeypatch: pytest.MonkeyPatch, buffering: int
) -> None:
    delivered.sql("DELETE FROM deid_log_upload WHERE seq = (SELECT max(seq) FROM deid_log_upload)")
    log_id = delivered("search", "Doe", "--format", "ids").ids[0]
    for command in COMMANDS:
        words = command.replace("ID", log_id).split()
        monkeypatch.setattr(sys, "argv", ["deid-hooks", *words])
        told = io.StringIO()
        with FULL.open("w", buffering, encoding="utf-8") as full, redirect_stderr(told):
            monkeypatch.setattr(sys, "stdout", full)
            with pytest.raises(SystemExit) as ended:
                main()
        assert ended.value.code, command
        lines = told.getvalue().splitlines()
        written = [line for line in lines if line.startswith("Standard output can't be written")]
        assert len(written) == 1, (command, lines)
        assert "Internal error" not in told.getvalue()


def test_originals_are_written_to_a_file_that_is_ones_own(delivered: Desk, tmp_path: Path) -> None:
    log_id = delivered("search", "Doe", "--format", "ids").ids[0]
    before = os.umask(0)
    try:
        for words in (["search", "Doe"], ["report", "Doe"], ["show", log_id], ["access"]):
            output = tmp_path / words[0]
            done = delivered(*words, "--output", str(output), "--format", "jsonl")
            assert (done.code, done.out) == (0, ""), done.err
            assert output.stat().st_mode & 0o777 == 0o600
            assert log_id in output.read_text()
            again = delivered(*words, "--output", str(output))
            assert again.code == 2
            assert "nothing is overwritten" in again.err
    finally:
        os.umask(before)
