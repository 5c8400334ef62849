"""What the system is asked to do, in which order: the entry is on the disk, then a byte leaves."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from tests.needed import program
from tests.whole.site import LOG, PROGRAM, SERIES, Site

CALLS = "openat,open,creat,link,linkat,rename,renameat,renameat2,write,pwrite64,fsync,fdatasync"
OPENED_FOR_WRITING = re.compile(r"\b(?:O_WRONLY|O_RDWR|O_CREAT|O_TMPFILE)\b")


def traced(site: Site, source: Path) -> list[str]:
    """The calls that an upload makes, each in a line, with the paths of its descriptors."""
    strace, trace = program("strace"), site.folder / "trace.txt"
    command = [strace, "-f", "-y", "-s", "70000", "-e", f"trace={CALLS}", "-o", str(trace)]
    upload = [str(PROGRAM), "upload", str(source), "folder:delivered"]
    subprocess.run(
        [*command, *upload], env=site.environment, cwd=site.folder, check=True, capture_output=True
    )
    lines = trace.read_text(errors="replace").splitlines()
    return [line for line in lines if " = -1 " not in line]


def places(lines: list[str], *wanted: str) -> list[int]:
    """Where the lines are that have all of this in them."""
    return [number for number, line in enumerate(lines) if all(each in line for each in wanted)]


def test_the_entry_is_brought_to_the_disk_before_a_file_of_its_acquisition_is_begun(
    site: Site,
) -> None:
    lines = traced(site, SERIES / "77654033")
    wal, delivered = str(site.folder / f"{LOG}-wal"), str(site.delivered)
    synced = [n for n in places(lines, f"<{wal}>") if re.search(r"f(?:data)?sync\(", lines[n])]
    begun = [
        n
        for n in places(lines, f'"{delivered}')
        if "open" in lines[n] and OPENED_FOR_WRITING.search(lines[n])
    ]
    named = [n for n in range(len(lines)) if re.search(r"\d +(?:link|rename)\w*\(", lines[n])]
    named = [n for n in named if delivered in lines[n]]
    files = site.files()
    assert len(named) == len(files) == 7
    for path in files:
        uid = Path(path).name.removesuffix(".dcm")
        (name,) = [n for n in named if f"{uid}.dcm" in lines[n]]
        begin = max(n for n in begun if n < name)
        entered = min(n for n in places(lines, "write", f"<{wal}>", uid))
        assert any(entered < n < begin for n in synced)


def test_a_file_is_on_the_disk_before_it_has_a_name(site: Site) -> None:
    lines = traced(site, SERIES / "77654033" / "CR1")
    (name,) = [n for n, line in enumerate(lines) if "linkat(" in line and ".dcm" in line]
    unnamed = f"<{site.delivered}{os.sep}"
    writes = places(lines, "write(", unnamed)
    synced = [n for n in places(lines, "fsync(", unnamed) if n < name]
    assert writes
    assert max(writes) < max(synced) < name
