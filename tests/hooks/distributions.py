"""Throw-away distributions, installed as pip would: found by their entry points, nothing else."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent

import pytest


class Distributions:
    """Makes distributions in a folder and puts them on ``sys.path`` for one test."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self._monkeypatch = monkeypatch
        self._modules: list[str] = []

    def install(
        self,
        name: str,
        entry_points: Mapping[str, Mapping[str, str]],
        modules: Mapping[str, str] | None = None,
        version: str = "1.0",
    ) -> Path:
        """Make a distribution with these entry points (group, name, target) and these modules."""
        site = self._folder / name
        info = site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        info.joinpath("METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        info.joinpath("entry_points.txt").write_text(
            "".join(
                f"[{group}]\n" + "".join(f"{key} = {target}\n" for key, target in points.items())
                for group, points in entry_points.items()
            )
        )
        for module, source in (modules or {}).items():
            site.joinpath(f"{module}.py").write_text(dedent(source))
            self._modules.append(module)
        self._monkeypatch.syspath_prepend(site)
        return site

    def plugin(self, name: str, source: str, target: str = "", distribution: str = "") -> Path:
        """Make a distribution with one plugin, in a module of its own that imports hookimpl."""
        module = f"module_of_{name}"
        return self.install(
            distribution or f"dist-of-{name}",
            {"deid_hooks": {name: f"{module}{target}"}},
            {module: "from deid_hooks import hookimpl\n" + dedent(source)},
        )

    def forget(self) -> None:
        for module in self._modules:
            sys.modules.pop(module, None)
