"""The destination ``folder:PATH``: STUDY_UID/SERIES_UID/SOP_UID.dcm, de-identified UIDs.

The folder holds whole files and nothing else, at whatever instant a process is killed or the power
fails. Two files with one UID are two files: the second is SOP_UID-2.dcm. Files and folders made
here are readable by their owner only (0600, 0700), whatever the umask.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from deid_hooks import SettingsError
from deid_hooks.destinations import Delivery, DestinationError, Outgoing
from deid_hooks.files import make_new_file, remove_leftovers

_UID = re.compile(r"[0-9]+(\.[0-9]+)*", re.ASCII)
_LONGEST_UID = 64  # PS3.5, section 9.1
_BLOCK = 1 << 20

_AGAIN = "then run it again: what has arrived is not sent twice"
_NOT_IN_ONE_STEP = ("can't take a file in one step", "use another file system")
_CAUSES = {
    errno.ENOSPC: ("is full", f"make room, {_AGAIN}"),
    errno.EDQUOT: ("has no room left in the quota", f"make room, {_AGAIN}"),
    errno.EROFS: ("is read-only", f"mount it for writing, {_AGAIN}"),
    errno.EACCES: ("may not be written by this user", "change its owner or its permissions"),
    errno.EPERM: ("may not be written by this user", "change its owner or its permissions"),
    errno.ENOENT: ("is not there", f"create it, or mount what holds it, {_AGAIN}"),
    errno.ESTALE: ("is another folder than before", f"mount what held it, {_AGAIN}"),
    errno.ENOTDIR: ("is not a folder", "name a folder"),
    errno.EXDEV: (
        "needs a hidden folder beside it, on the same file system, and can't have one",
        "name a folder within one that you may write",
    ),
    errno.ENOSYS: _NOT_IN_ONE_STEP,
    errno.EINVAL: _NOT_IN_ONE_STEP,
}


class Folder:
    """The folder of ``folder:PATH``; ``~`` is the user's own. SettingsError if it leads nowhere."""

    def __init__(self, text: str) -> None:
        path = text.removeprefix("folder:")
        if not path:
            raise SettingsError("The destination folder: has no path: folder:PATH.")
        try:
            self.path = Path(path).expanduser().resolve()
        except RuntimeError:
            raise SettingsError(
                f"The destination folder:{path} leads nowhere: a link in a circle, or a user who"
                " isn't there."
            ) from None
        self.name = f"folder:{self.path}"
        self._changed: set[Path] = set()
        self._checked: tuple[int, int] | None = None

    def is_within(self, source: Path) -> bool:
        """Return whether it is in that folder: what is delivered would be read as originals."""
        return self.path.is_relative_to(source.resolve())

    def check(self) -> None:
        """Make the folder if its parent is there, and see that it can be written."""
        with self._explain_errors():
            if make_private(self.path):
                self._changed.update((self.path, self.path.parent))
            remove_leftovers(self.path)
            with make_new_file(self.path):
                pass
            self._checked = _identify(self.path)

    def deliver(self, files: Sequence[Outgoing], tried_before: bool) -> list[Delivery]:
        deliveries = []
        try:
            for file in files:
                try:
                    deliveries.append(Delivery(self.send(file)))
                except DestinationError as error:
                    deliveries.append(Delivery("failed", str(error)))
            self.finish()
        except DestinationError as error:
            return [Delivery("failed", str(error))] * len(files)
        return deliveries

    def has(self, file: Outgoing) -> bool:
        """Return whether one of the files with these UIDs has the same bytes."""
        with self._explain_errors():
            paths = list_names(find_series_folder(self.path, file), file)
            there = itertools.takewhile(os.path.lexists, paths)
            return any(_are_equal(path, file.path) for path in there)

    def send(self, file: Outgoing) -> Literal["uploaded", "already there"]:
        """Deliver a file. DestinationError for what is no UID: it would become a path."""
        with self._explain_errors():
            self._refuse_another()
            folder = find_series_folder(self.path, file)
            there = self.has(file)
            written = not there and self._write(file.path, folder, list_names(folder, file))
        # What is there already may come from a run that was killed before it was durable.
        self._changed.update((folder, folder.parent, self.path))
        return "uploaded" if written else "already there"

    def finish(self) -> None:
        """Bring the names to the disk; the content is there since ``send``."""
        with self._explain_errors():
            for folder in self._changed:
                _sync_folder(folder)
            self._changed.clear()
            self._refuse_another()

    def _refuse_another(self) -> None:
        """Raise ESTALE if another folder took the place of the checked one, as by unmounting."""
        if self._checked not in (None, _identify(self.path)):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    def _write(self, staged: Path, folder: Path, names: Iterator[Path]) -> bool:
        """Write a file under the first name that is free; False if it is there meanwhile."""
        with make_new_file(self.path) as new, staged.open("rb") as source:
            with open(new.descriptor, "wb", closefd=False) as target:
                shutil.copyfileobj(source, target, _BLOCK)
            os.fsync(new.descriptor)
            make_private(folder.parent)
            make_private(folder)
            while True:
                path = next(names)
                try:
                    new.name(path)
                except FileExistsError:
                    if _are_equal(path, staged):
                        return False
                else:
                    return True

    @contextmanager
    def _explain_errors(self) -> Iterator[None]:
        """Raise the system's errors as DestinationError, with what to do."""
        try:
            yield
        except OSError as error:
            cause, remedy = _CAUSES.get(
                error.errno or 0, (f"can't be written: {str(error.strerror).lower()}", "")
            )
            raise DestinationError(f"the destination {self.name} {cause}", remedy) from None


def find_series_folder(folder: Path, file: Outgoing) -> Path:
    """Return the folder of its series, below a folder. DestinationError for what is no UID."""
    study = _check_uid(file.study_uid, "StudyInstanceUID")
    return folder / study / _check_uid(file.series_uid, "SeriesInstanceUID")


def list_names(folder: Path, file: Outgoing) -> Iterator[Path]:
    """Yield the names that a file may get, in the order in which they are tried.

    DestinationError for what is no UID.
    """
    stem = _check_uid(file.sop_uid, "SOPInstanceUID")
    yield folder / f"{stem}.dcm"
    yield from (folder / f"{stem}-{number}.dcm" for number in itertools.count(2))


def _check_uid(uid: str, keyword: str) -> str:
    if len(uid) > _LONGEST_UID or not _UID.fullmatch(uid):
        raise DestinationError(f"the de-identified {keyword} is not a UID, and can't name a file")
    return uid


def make_private(folder: Path) -> bool:
    """Make a folder in one that is there, its owner's only; False if there is one already."""
    try:
        folder.mkdir(0o700)
    except FileExistsError:
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None
        return False
    folder.chmod(0o700)
    return True


def _identify(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _are_equal(path: Path, staged: Path) -> bool:
    """Return whether both are files of the same bytes."""
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode) or status.st_size != staged.stat().st_size:
        return False
    with path.open("rb") as one, staged.open("rb") as other:
        while block := one.read(_BLOCK):
            if block != other.read(_BLOCK):
                return False
    return True


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # file systems that have nothing to bring to a disk
            raise
    finally:
        os.close(descriptor)
