"""The programs that are attacked: as they are installed, and with one defence taken away."""

from __future__ import annotations

import sys
from pathlib import Path

_PROGRAM = """#!{python}
import {module}
{patch}
if __name__ == "__main__":
    {module}.main()
"""


def weaken(folder: Path, patch: str, module: str = "deid_hooks.cli") -> Path:
    """Write a program that is ours but for what these lines change, and return its path."""
    path = folder / "weakened"
    path.write_text(_PROGRAM.format(python=sys.executable, module=module, patch=patch))
    path.chmod(0o700)
    return path
