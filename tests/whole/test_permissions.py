"""Whatever the umask: what we make is readable by its owner only, and staging is gone."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.whole.canaries import write_series
from tests.whole.site import PROGRAM, Site

LISTS = """
import os
from pathlib import Path
from deid_hooks import hookimpl
@hookimpl
def {moment}(event):
    with open("modes.txt", "a") as file:
        for folder in ("tmp", "home/.local", "delivered"):
            for path in Path(folder).rglob("*"):
                print(oct(path.lstat().st_mode & 0o777), path, file=file)
"""


def run_unmasked(site: Site, *words: str) -> subprocess.CompletedProcess[str]:
    program = "import os, sys; os.umask(0); os.execv(sys.argv[1], sys.argv[1:])"
    command = [sys.executable, "-c", program, str(PROGRAM), *words]
    return subprocess.run(
        command, env=site.environment, cwd=site.folder, capture_output=True, text=True
    )


@pytest.mark.parametrize("jobs", [1, 2])
def test_with_an_open_umask_others_may_read_nothing_at_any_time(tmp_path: Path, jobs: int) -> None:
    site = Site(tmp_path / "site", begun=False)
    del site.environment["DEID_HOOKS_SECRET"]
    write_series(site.folder / "incoming")
    for moment in ("post_deid", "post_upload"):
        site.plug_in(LISTS.format(moment=moment), name=moment)
    done = run_unmasked(
        site, "upload", "incoming", "folder:delivered", "--jobs", str(jobs), "--engine", "basic"
    )
    assert done.returncode == 0, done.stderr
    seen = [line.split(" ", 1) for line in (site.folder / "modes.txt").read_text().splitlines()]
    assert {mode for mode, _ in seen} == {"0o600", "0o700"}
    names = {Path(path).name for _, path in seen}
    assert {"log.db", "log.db-wal", "log.db-shm"} <= names
    assert any(name.endswith(".dcm") for name in names)
    assert any(path.startswith("tmp/deid-hooks-staging-") for _, path in seen)
    assert any(path.startswith("delivered/") for _, path in seen)
    assert list((site.folder / "tmp").iterdir()) == []
    for folder in ("home", "delivered"):
        for path in (site.folder / folder).rglob("*"):
            others = stat.S_IMODE(path.lstat().st_mode) & 0o077
            assert not others, path
