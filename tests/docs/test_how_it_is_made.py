"""The page "How it is made" shows the packages that there are, in the order of their imports."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "how-it-is-made.md").read_text(encoding="utf-8")


def find_named(heading: str, column: str) -> list[str]:
    """Return the names in backquotes of one column of the table under a heading."""
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line[:1] == "|"]
    at = rows[0].index(column)
    return [name for row in rows[2:] for name in re.findall(r"`([^`]+)`", row[at])]


def list_packages() -> set[str]:
    source = ROOT / "src" / "deid_hooks"
    packages = {f"{path.parent.name}/" for path in source.glob("*/__init__.py")}
    modules = {path.stem for path in source.glob("*.py")} - {"__init__"}
    return packages | modules


def test_the_packages_are_those_of_the_tree() -> None:
    named = find_named("The packages", "name")
    assert len(named) == len(set(named))
    assert set(named) == list_packages()


def test_their_order_is_the_one_that_imports_are_held_to() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    [contract] = project["tool"]["importlinter"]["contracts"]
    layers = [layer.split(" | ") for layer in contract["layers"]]
    named = iter(name.rstrip("/") for name in find_named("The packages", "name"))
    for layer in layers:
        assert {next(named) for _ in layer} == set(layer)


def test_every_place_on_the_path_of_an_upload_exists() -> None:
    for place in find_named("The path of one upload", "where"):
        path = ROOT / "src" / "deid_hooks" / place
        assert path.is_dir() or path.with_suffix(".py").is_file(), place
