"""What the pages show is what happens, and what there is stands in them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pydicom
import pytest

from deid_hooks.cli import app
from deid_hooks.plugins import HOOKS
from deid_hooks.settings import KEYS
from tests.docs.terminal import blocks, file_of, is_as_promised, run, steps

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
IMAGES = Path(pydicom.__file__).parent / "data" / "test_files" / "dicomdirtests" / "77654033"

COMMANDS = [
    *(str(command.name) for command in app.registered_commands),
    *(str(group.name) for group in app.registered_groups),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a reader has: an empty home, some images, and what the README's first command did."""
    (tmp_path / "home").mkdir()
    shutil.copytree(IMAGES, tmp_path / "images")
    run("deid-hooks upload images folder:delivered --project TRIAL7", tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_shows_what_its_commands_print(page: Path, folder: Path) -> None:
    for block in blocks(page):
        if name := file_of(block):
            (folder / name).write_text(block.text, encoding="utf-8")
        if block.language == "console":
            for step in steps(block):
                said = run(step.command, folder)
                assert is_as_promised(step.promised, said), f"$ {step.command}\n{said}"


def test_every_page_but_the_readme_is_reached_from_it() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for page in PAGES[1:]:
        assert f"docs/{page.name}" in readme


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_documented(hook: str) -> None:
    assert f"`{hook}(event)`" in (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("setting", KEYS)
def test_every_setting_is_documented(setting: str) -> None:
    assert f"| `{setting}` |" in (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_documented_with_an_example(command: str) -> None:
    assert any(f"deid-hooks {command}" in page.read_text(encoding="utf-8") for page in PAGES)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_an_example_in_its_help(command: str, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    said = run(f"deid-hooks {command} --help", tmp_path)
    assert re.search(rf"^  deid-hooks (--url \S+ )?{command}\b", said, re.MULTILINE)
