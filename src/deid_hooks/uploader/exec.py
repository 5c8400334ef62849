"""Run any uploader as a destination: a command that is given a folder of files."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from deid_hooks import SettingsError
from deid_hooks.destinations import Delivery, DestinationError, Outgoing
from deid_hooks.destinations.folder import find_series_folder, list_names, make_private

PLACE = "{}"
"""The word of a command that the folder replaces."""

_LONGEST_VARIABLE = 100_000  # Linux takes 128 KiB with the name, MAX_ARG_STRLEN
_OURS = ("DEID_HOOKS_SECRET", "DEID_HOOKS_URL", "DEID_HOOKS_TOKEN")
_FORWARDED = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGINT)


class Interrupted(BaseException):
    """A signal of this number ended the upload."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(f"ended by signal {number}")


class Command:
    """Runs ``words`` for each acquisition, with a folder of its files in place of ``{}``.

    Files are named by their de-identified UIDs, so that those of one run never take the place of
    another's wherever the command puts them: SOP_UID.dcm, and ``together``, when the folder holds
    several acquisitions, STUDY_UID/SERIES_UID/SOP_UID.dcm.

    The command finds the log ids in DEID_LOG_ID (of one acquisition) and DEID_LOG_IDS, and in
    DEID_LOG_MANIFEST the name of a JSON file with the log id of each file. Only that file has them
    where there are thousands, which the environment doesn't hold. The command's output goes to
    standard error. Exit status 0 is ``uploaded``; any other, or a signal that ends it, is
    ``failed``. ``name`` is the destination's name in the log.

    Raises SettingsError for a command without ``{}``, or that can't be found.
    """

    def __init__(self, words: Sequence[str], name: str, together: bool = False) -> None:
        if not any(PLACE in word for word in words):
            raise SettingsError("The command needs {} where the folder of files belongs.")
        if shutil.which(words[0]) is None:
            raise SettingsError(f"The command {words[0]} is not there, or can't be run.")
        if not name.strip():
            raise SettingsError("The destination needs a name: --as NAME.")
        self._words = list(words)
        self.name = name
        self._together = together
        self._running = False
        self._process: subprocess.Popen[bytes] | None = None
        self._ended_by = 0

    def check(self) -> None:
        """Do nothing: whether the command reaches anything shows when it runs."""

    def deliver(self, files: Sequence[Outgoing], tried_before: bool) -> list[Delivery]:
        try:
            return self._deliver(files)
        except OSError as error:
            raise DestinationError(
                "the folder for the command can't be made in the temporary folder:"
                f" {str(error.strerror).lower()}",
                "make room there, or let TMPDIR name another folder",
            ) from None

    def _deliver(self, files: Sequence[Outgoing]) -> list[Delivery]:
        unplaced: dict[int, Delivery] = {}
        manifest_rows: list[dict[str, str]] = []
        with _private_folder(files[0].path.parent) as private:
            folder, manifest = private / "files", private / "manifest.json"
            make_private(folder)
            for at, file in enumerate(files):
                try:
                    path = self._place(folder, file)
                except DestinationError as error:
                    unplaced[at] = Delivery("failed", str(error))
                else:
                    manifest_rows.append(
                        {
                            "file": str(path),
                            "log_id": file.log_id,
                            "StudyInstanceUID": file.study_uid,
                            "SeriesInstanceUID": file.series_uid,
                            "SOPInstanceUID": file.sop_uid,
                        }
                    )
            if not manifest_rows:
                return list(unplaced.values())
            manifest.touch(0o600)
            manifest.write_text(json.dumps(manifest_rows, indent=1), encoding="utf-8")
            log_ids = dict.fromkeys(row["log_id"] for row in manifest_rows)
            status = self._run(folder, manifest, list(log_ids))
        delivery = Delivery("uploaded")
        if status != 0:
            what = f"signal {-status}" if status < 0 else f"exit status {status}"
            delivery = Delivery("failed", f"the command ended with {what}")
        return [unplaced.get(at, delivery) for at in range(len(files))]

    def _place(self, folder: Path, file: Outgoing) -> Path:
        """Link a file into ``folder`` and return its path. DestinationError for what is no UID."""
        place = folder
        if self._together:
            place = find_series_folder(folder, file)
            make_private(place.parent)
            make_private(place)
        for path in list_names(place, file):
            with suppress(FileExistsError):
                os.link(file.path, path)
                return path
        raise AssertionError("there is always another name")

    @contextmanager
    def forward_signals(self) -> Iterator[None]:
        """Let signals that would end us end the command first, then raise Interrupted."""
        before = {number: signal.signal(number, self._forward) for number in _FORWARDED}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def refuse_to_go_on(self) -> None:
        """Raise Interrupted if a signal came while the command ran."""
        if self._ended_by:
            raise Interrupted(self._ended_by)

    def _run(self, folder: Path, manifest: Path, log_ids: Sequence[str]) -> int:
        environment = {name: value for name, value in os.environ.items() if name not in _OURS}
        if len(together := " ".join(log_ids)) < _LONGEST_VARIABLE:
            environment["DEID_LOG_IDS"] = together
        environment["DEID_LOG_MANIFEST"] = str(manifest)
        if len(log_ids) == 1:
            environment["DEID_LOG_ID"] = log_ids[0]
        words = [word.replace(PLACE, str(folder)) for word in self._words]
        self._running = True
        try:
            self._process = subprocess.Popen(  # noqa: S603 - it is what the user wants run
                words, env=environment, stdout=sys.stderr.fileno()
            )
            if self._ended_by:  # while it began
                self._process.send_signal(self._ended_by)
            return self._process.wait()
        except OSError as error:
            raise SettingsError(
                f"The command {self._words[0]} can't be run: {error.strerror}."
            ) from None
        finally:
            self._running, self._process = False, None

    def _forward(self, number: int, frame: FrameType | None) -> None:
        if not self._running:
            raise Interrupted(number)
        self._ended_by = number
        # A terminal sends Ctrl-C to the command as well; twice may mean something else to it.
        if self._process and not (number == signal.SIGINT and sys.stdin.isatty()):
            self._process.send_signal(number)


@contextmanager
def _private_folder(place: Path) -> Iterator[Path]:
    """Make a folder in ``place``, and remove it in the end.

    The command may have left there what can't be removed: that doesn't make it a failure, and
    ``place`` itself is removed later.
    """
    made = tempfile.TemporaryDirectory(dir=place, ignore_cleanup_errors=True)
    try:
        yield Path(made.name)
    finally:
        with suppress(OSError):
            made.cleanup()
