"""What the page "What we promise" says of attacks is what is carried out here."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "promises.md"


def test_the_page_names_every_attack_and_no_other() -> None:
    section = PAGE.read_text(encoding="utf-8").partition("## Attacks\n")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line[:1] == "|"]
    named = [name for row in rows for name in re.findall(r"`(\w+_\w+)`", row[-1])]
    carried_out = []
    for path in Path(__file__).parent.glob("test_*.py"):
        module = import_module(f"tests.adversaries.{path.stem}")
        for attacks in (getattr(module, name, []) for name in ("ATTACKS", "OVER_HTTP")):
            carried_out += [attack.id for attack in attacks]
    assert sorted(named) == sorted(carried_out)
