"""The programs of the page, as they stand there, against real archives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.terminal import blocks, file_of
from tests.orthanc import Orthanc
from tests.receivers.conftest import PATIENT, archive, free_port
from tests.receivers.test_archives import outcomes
from tests.whole.site import Site

PAGE = Path(__file__).parents[2] / "docs" / "examples.md"
PROGRAMS = {name: block.text for block in blocks(PAGE) if (name := file_of(block))}


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    folder = tmp_path / "programs"
    folder.mkdir()
    for name, text in PROGRAMS.items():
        (folder / name).write_text(text)
    return folder


def run(site: Site, program: Path, *words: str, network: tuple[str, ...] = ()) -> str:
    ran = subprocess.run(
        [*network, sys.executable, str(program), *words],
        env=site.environment,
        cwd=site.folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
    return ran.stdout


@pytest.mark.parametrize("name", [name for name in PROGRAMS if name != "engine.py"])
def test_a_program_has_fewer_than_fifty_lines(name: str) -> None:
    code = [line for line in PROGRAMS[name].splitlines() if line.strip()]
    assert len(code) < 50


def test_the_pynetdicom_script_sends_what_is_in_the_log(
    site: Site, programs: Path, tmp_path: Path
) -> None:
    port, folder = free_port(), tmp_path / "received"
    with archive(port, folder):
        said = run(site, programs / "store_scu.py", str(PATIENT), "127.0.0.1", str(port), "ARCHIVE")
    assert {line.split()[1] for line in said.splitlines()} == {"uploaded"}
    assert {path.stem for path in folder.iterdir()} == site.logged()
    assert {event for event, _ in outcomes(site)} == {"uploaded"}


def test_the_dicomweb_script_sends_what_is_in_the_log(
    networked: Site, orthanc: Orthanc, programs: Path
) -> None:
    url = "http://127.0.0.1:8042/dicom-web"
    said = run(networked, programs / "stow.py", str(PATIENT), url, network=orthanc.network)
    assert {line.split()[1] for line in said.splitlines()} == {"uploaded"}
    assert orthanc.instances() == networked.logged()


def test_what_was_packed_by_one_process_is_shipped_by_another(
    networked: Site, orthanc: Orthanc, programs: Path, tmp_path: Path
) -> None:
    packed = tmp_path / "packed"
    packed.mkdir()
    run(networked, programs / "pack.py", "pack", str(PATIENT), str(packed))
    assert outcomes(networked) == set()
    assert len(list(packed.iterdir())) == 4
    url = "http://127.0.0.1:8042/instances"
    run(networked, programs / "pack.py", "ship", str(packed), url, network=orthanc.network)
    assert orthanc.instances() == networked.logged()
    assert outcomes(networked) == {("uploaded", url)}


def test_a_refusal_stops_the_script_from_sending(
    site: Site, programs: Path, tmp_path: Path
) -> None:
    words = [sys.executable, str(programs / "store_scu.py"), str(PATIENT)]
    url = "sqlite:////nowhere/log.db"
    port, folder = free_port(), tmp_path / "received"
    with archive(port, folder):
        ran = subprocess.run(
            [*words, "127.0.0.1", str(port), "ARCHIVE"],
            env={**site.environment, "DEID_HOOKS_URL": url},
            cwd=site.folder,
            capture_output=True,
            text=True,
        )
    assert ran.returncode != 0
    assert "there is no log at /nowhere/log.db" in ran.stderr
    assert list(folder.iterdir()) == []
