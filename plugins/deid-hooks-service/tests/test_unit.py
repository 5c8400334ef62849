"""The systemd unit is one that systemd takes."""

from __future__ import annotations

import subprocess
from pathlib import Path

from running import BIN
from tests.needed import program

UNIT = Path(__file__).parents[1] / "deploy" / "deid-hooks-service.service"


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/deid-hooks/bin", str(BIN)))
    done = subprocess.run(
        [program("systemd-analyze"), "verify", "--man=no", unit], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
