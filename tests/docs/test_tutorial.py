"""The tutorial's own code blocks, put together, are a backend that keeps the whole contract."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.terminal import blocks, file_of

ROOT = Path(__file__).parents[2]
PLUGIN = ROOT / "plugins" / "deid-hooks-jsonl"
BLOCKS = blocks(ROOT / "docs" / "backend.md")


def test_the_tutorial_ends_with_a_backend_that_passes_the_kit(tmp_path: Path) -> None:
    parts = [block.text for block in BLOCKS if block.language == "python" and not file_of(block)]
    (tmp_path / "deid_hooks_jsonl.py").write_text("\n".join(parts), encoding="utf-8")
    [test] = [block.text for block in BLOCKS if file_of(block) == "test_jsonl.py"]
    (tmp_path / "test_jsonl.py").write_text(test, encoding="utf-8")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", "."],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-3000:]


@pytest.mark.parametrize("name", ["pyproject.toml"])
def test_the_tutorial_is_the_plugin_that_one_copies(name: str) -> None:
    [shown] = [block.text for block in BLOCKS if file_of(block) == name]
    assert shown.partition("\n")[2] == (PLUGIN / name).read_text(encoding="utf-8")
    parts = [block.text for block in BLOCKS if block.language == "python" and not file_of(block)]
    module = PLUGIN / "src" / "deid_hooks_jsonl" / "__init__.py"
    assert _lines("\n".join(parts)) == _lines(module.read_text(encoding="utf-8"))


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line]
