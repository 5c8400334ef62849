"""Any uploader as a destination: a command that is given a folder of de-identified files."""

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
"""What stands for the folder among the words of a command."""

_LONGEST_VARIABLE = 100_000  # Linux takes 128 KiB with the name, MAX_ARG_STRLEN
_OURS = ("DEID_HOOKS_SECRET", "DEID_HOOKS_URL", "DEID_HOOKS_TOKEN")
_PASSED_ON = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGINT)


class Interrupted(BaseException):
    """We were told to end by this signal."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(f"ended by signal {number}")


class Command:
    """Runs ``words`` for each acquisition, with a folder of its files in place of ``{}``.

    Files are named by their de-identified UIDs, so that those of one run never take the place of
    another's wherever the command puts them: SOP_UID.dcm, and ``together``, when the folder holds
    several acquisitions, STUDY_UID/SERIES_UID/SOP_UID.dcm.

    The command finds the log ids in DEID_LOG_ID (of one acquisition) and DEID_LOG_IDS, and in
    DEID_LOG_MANIFEST the name of a JSON file that tells which file belongs to which; there alone
    where there are thousands, which the environment doesn't hold. Its output
    goes to standard error. Exit status 0 is ``uploaded``, anything else ``failed``; so is a
    signal that ends it. ``name`` is how the destination stands in the log.

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
        """Whether the command reaches anything shows when it runs."""

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
        told: list[dict[str, str]] = []
        with _private_folder(files[0].path.parent) as private:
            folder, manifest = private / "files", private / "manifest.json"
            make_private(folder)
            for at, file in enumerate(files):
                try:
                    path = self._placed(folder, file)
                except DestinationError as error:
                    unplaced[at] = Delivery("failed", str(error))
                else:
                    told.append({"file": str(path), "log_id": file.log_id, **_uids(file)})
            if not told:
                return list(unplaced.values())
            manifest.touch(0o600)
            manifest.write_text(json.dumps(told, indent=1), encoding="utf-8")
            status = self._run(folder, manifest, list(dict.fromkeys(t["log_id"] for t in told)))
        delivery = Delivery("uploaded")
        if status != 0:
            what = f"signal {-status}" if status < 0 else f"exit status {status}"
            delivery = Delivery("failed", f"the command ended with {what}")
        return [unplaced.get(at, delivery) for at in range(len(files))]

    def _placed(self, folder: Path, file: Outgoing) -> Path:
        """Where a file stands below ``folder``. DestinationError for what is no UID."""
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
    def passing_signals_on(self) -> Iterator[None]:
        """Within, signals that would end us end the command first. Raises Interrupted after it."""
        before = {number: signal.signal(number, self._pass_on) for number in _PASSED_ON}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def refuse_to_go_on(self) -> None:
        """Raise Interrupted if we were told to end while the command ran."""
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
            self._process = subprocess.Popen(  # noqa: S603 - it is what we were told to run
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

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        if not self._running:
            raise Interrupted(number)
        self._ended_by = number
        # A terminal sends Ctrl-C to the command as well; twice may mean something else to it.
        if self._process and not (number == signal.SIGINT and sys.stdin.isatty()):
            self._process.send_signal(number)


@contextmanager
def _private_folder(place: Path) -> Iterator[Path]:
    """A folder in ``place``, which itself is removed in the end, should this fail to be.

    The command may have left what is not ours to remove: that is no reason to say it had failed.
    """
    made = tempfile.TemporaryDirectory(dir=place, ignore_cleanup_errors=True)
    try:
        yield Path(made.name)
    finally:
        with suppress(OSError):
            made.cleanup()


def _uids(file: Outgoing) -> dict[str, str]:
    """De-identified, as they stand in the file."""
    return {
        "StudyInstanceUID": file.study_uid,
        "SeriesInstanceUID": file.series_uid,
        "SOPInstanceUID": file.sop_uid,
    }
