"""Who supplies images chooses the files of a folder, and nothing of what is done with them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian

from tests.adversaries.programs import run_on_terminal, weaken
from tests.commands import run_command
from tests.whole.site import PROGRAM, SERIES, Site, rows

IMPORTED_BY_WORKERS = "multiprocessing pickle re socket tempfile threading struct signal"
PAYLOAD = "import os\nopen({ran!r}, 'a').write(__name__)\nos._exit(0)\n"


class Supplied:
    """A folder from somebody else, which the uploader works in."""

    def __init__(self, folder: Path) -> None:
        self.site = Site(folder / "site")
        self.folder, self.ran = folder / "supplied", folder / "ran"
        self.environment = folder / "environment"
        shutil.copytree(SERIES / "77654033" / "CR1", self.folder)

    def plant_modules(self) -> None:
        for name in IMPORTED_BY_WORKERS.split():
            (self.folder / f"{name}.py").write_text(PAYLOAD.format(ran=str(self.ran)))

    def plant_settings(self) -> None:
        (self.folder / "deid-hooks.toml").write_text('url = "none:"\n')

    def link_to_another(self, folder: Path) -> None:
        """Link to an image that lies somewhere else on the machine."""
        other = folder / "other.dcm"
        shutil.copy(SERIES / "77654033" / "CR2" / "6247", other)
        (self.folder / "z").symlink_to(other)

    def plant_plugin(self) -> None:
        """Plant what would be an installed plugin if the folder were on Python's path."""
        info = self.folder / "planted-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: planted\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[deid_hooks]\nplanted = planted\n")
        (self.folder / "planted.py").write_text(PAYLOAD.format(ran=str(self.ran)))

    def execute(self, program: Path = PROGRAM, *more: str) -> list[str]:
        """Upload the folder from within, by a command; return the statuses of its images."""
        words: list[str | Path] = [program, "exec", ".", "--as", "pacs", "--format", "jsonl", *more]
        command = ["sh", "-c", 'env > "$1"', "sh", str(self.environment), "{}"]
        words += ["--", *command]
        done = run_command(words, env=self.site.environment, cwd=self.folder)
        return [row["status"] for row in rows(done.stdout) if row["status"] != "no DICOM"]


@pytest.fixture
def supplied(tmp_path: Path) -> Supplied:
    return Supplied(tmp_path)


def test_no_worker_imports_a_module_of_the_folder(supplied: Supplied) -> None:
    supplied.plant_modules()
    assert supplied.execute(PROGRAM, "--jobs", "2") == ["uploaded"]
    assert not supplied.ran.exists()
    assert "PYTHONSAFEPATH" not in supplied.environment.read_text()  # the command is not ours


def test_twin_workers_that_look_into_the_folder_run_its_modules(
    supplied: Supplied, tmp_path: Path
) -> None:
    supplied.plant_modules()
    program = weaken(
        tmp_path,
        "import contextlib, deid_hooks.uploader.prepare as prepare\n"
        "prepare._ignore_current_folder = contextlib.nullcontext\n",
    )
    assert supplied.execute(program, "--jobs", "2") == []
    assert supplied.ran.exists()


def test_no_settings_of_the_folder_are_read(supplied: Supplied) -> None:
    supplied.plant_settings()
    assert supplied.execute() == ["uploaded"]
    assert len(supplied.site.logged()) == 1


def test_twin_settings_of_the_folder_have_images_sent_unlogged(
    supplied: Supplied, tmp_path: Path
) -> None:
    supplied.plant_settings()
    program = weaken(
        tmp_path,
        "from pathlib import Path\nimport deid_hooks.settings as settings\n"
        "settings.find_config_file = lambda: Path('deid-hooks.toml').absolute()\n",
    )
    assert supplied.execute(program) == ["uploaded"]
    assert supplied.site.logged() == set()


def test_no_entry_point_of_the_folder_is_loaded(supplied: Supplied) -> None:
    supplied.plant_plugin()
    assert supplied.execute() == ["uploaded"]
    assert not supplied.ran.exists()


def test_twin_a_folder_on_the_path_has_its_plugins_loaded(
    supplied: Supplied, tmp_path: Path
) -> None:
    supplied.plant_plugin()
    program = weaken(tmp_path, "import sys\nsys.path.insert(0, '')\n")
    assert supplied.execute(program) == []
    assert supplied.ran.exists()


COMMANDS_OF_TERMINALS = ("\x1b", "\x9b", "\x07", "\u202e")
SHOWN = ["search", "StudyDate=*", "--show", "SeriesDescription,StudyDescription", "--format"]


def supply_commands_of_terminals(supplied: Supplied) -> None:
    [path] = (each for each in supplied.folder.iterdir() if each.is_file())
    dataset = dcmread(path)
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SeriesDescription = "head\x1b]0;owned\x07"
    dataset.StudyDescription = "\x9b31m\u202ekcen"
    dataset.save_as(path)
    assert supplied.execute() == ["uploaded"]


def test_no_value_of_an_image_commands_a_terminal(supplied: Supplied) -> None:
    supply_commands_of_terminals(supplied)
    environment, folder = supplied.site.environment, supplied.site.folder
    [[log_id]] = supplied.site.sql("SELECT id FROM deid_log")
    for words in ([*SHOWN, "csv"], [*SHOWN, "jsonl"], [*SHOWN, "table"], ["show", log_id]):
        shown = run_on_terminal([PROGRAM, *words], environment, folder)
        assert "head" in shown, shown
        assert not any(each in shown for each in COMMANDS_OF_TERMINALS), words


def test_twin_without_the_streams_a_value_commands_the_terminal(
    supplied: Supplied, tmp_path: Path
) -> None:
    supply_commands_of_terminals(supplied)
    patch = (
        "import deid_hooks.cli.output as output\n"
        "output._Plain.write = lambda self, text: self._stream.write(text)\n"
    )
    program = weaken(tmp_path, patch)
    environment, folder = supplied.site.environment, supplied.site.folder
    shown = run_on_terminal([program, *SHOWN, "csv"], environment, folder)
    assert all(each in shown for each in COMMANDS_OF_TERMINALS)


def test_no_link_leads_out_of_the_folder(supplied: Supplied, tmp_path: Path) -> None:
    supplied.link_to_another(tmp_path)
    assert supplied.execute() == ["refused", "uploaded"]


def test_twin_links_that_are_followed_lead_anywhere(supplied: Supplied, tmp_path: Path) -> None:
    supplied.link_to_another(tmp_path)
    assert supplied.execute(PROGRAM, "--follow-links") == ["uploaded", "uploaded"]


def upload_bomb(supplied: Supplied, folder: Path, most: int) -> list[str]:
    """Upload a file of 10 KB that inflates to 8 MB, where so many bytes are allowed."""
    [path] = supplied.folder.iterdir()
    dataset = dcmread(path)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.private_block(0x0021, "x", create=True).add_new(0x01, "UN", bytes(8 << 20))
    dataset.save_as(path)
    patch = f"import deid_hooks.dicom.elements as elements\nelements._MOST_INFLATED = {most}\n"
    return supplied.execute(weaken(folder, patch))


def test_a_small_file_takes_no_more_memory_than_it_may(supplied: Supplied, tmp_path: Path) -> None:
    assert upload_bomb(supplied, tmp_path, 4 << 20) == ["refused"]


def test_twin_without_a_bound_a_small_file_takes_any_memory(
    supplied: Supplied, tmp_path: Path
) -> None:
    assert upload_bomb(supplied, tmp_path, 1 << 60) == ["uploaded"]
