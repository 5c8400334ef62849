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


@pytest.mark.ci
def test_the_page_on_testing_an_uploader_proves_that_one_fails_closed(tmp_path: Path) -> None:
    files = {file_of(block): block.text for block in blocks(ROOT / "docs" / "testing.md")}
    for name in ("sender.py", "test_sender.py"):
        (tmp_path / name).write_text(files[name], encoding="utf-8")
    run = run_pytest(tmp_path)
    assert run.returncode == 0, run.stdout[-3000:]
    sending = (
        files["sender.py"].partition("        with hooks.uploading(")[2].partition("\n\n\n")[0]
    )
    careless = files["sender.py"].replace("            acquisition.post_deid()\n", "")
    careless = careless.replace(
        "        with hooks.uploading(" + sending, "        archive += images"
    )
    (tmp_path / "sender.py").write_text(careless, encoding="utf-8")
    assert "6 failed" in run_pytest(tmp_path).stdout, "an uploader that does not log passes"


def run_pytest(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", "."],
        cwd=folder,
        capture_output=True,
        text=True,
    )


@pytest.mark.ci
def test_the_tutorial_ends_with_a_backend_that_passes_the_kit(tmp_path: Path) -> None:
    parts = [block.text for block in BLOCKS if block.language == "python" and not file_of(block)]
    (tmp_path / "deid_hooks_jsonl.py").write_text("\n".join(parts), encoding="utf-8")
    [test] = [block.text for block in BLOCKS if file_of(block) == "test_jsonl.py"]
    (tmp_path / "test_jsonl.py").write_text(test, encoding="utf-8")
    run = run_pytest(tmp_path)
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
