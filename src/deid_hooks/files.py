"""Files that are there whole or not at all, are durable, and readable by their owner only."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import grp
import os
import pwd
import re
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self


def put_file(path: Path, content: bytes, place: Callable[[Path, Path], object] = os.link) -> None:
    """Write ``content`` to ``path``, in folders that are made where they are missing.

    It is on the disk before it gets its name, and durable under it when this returns. With
    ``os.link`` nothing takes another's place: FileExistsError. With ``os.replace`` it does. Raises
    OSError if it can't be written; nothing is left then.
    """
    make_folders(path.parent)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(file, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(file)
        place(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    fsync_folder(path.parent)


@contextmanager
def lock_file(path: Path) -> Iterator[None]:
    """Wait for the lock of a file, which is made if it is not there, and hold it. Raises OSError.

    For processes of one machine.
    """
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


class NotPrivate(OSError):
    """A file that holds a secret, and that its group or others may read or write."""


def read_private(path: Path) -> bytes:
    """Return what a file with a secret holds.

    Raises NotPrivate if others than its owner may read or write it, OSError if it can't be read.
    """
    with path.open("rb") as file:
        if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
            raise NotPrivate(errno.EACCES, "others may read it", str(path))
        return file.read()


_trusted: set[str] = set()


def trust_owners(names: Iterable[str]) -> None:
    """Trust the files of these users, and of these groups (``group:NAME``), in this process."""
    _trusted.update(names)


def is_of_trusted_group(found: os.stat_result) -> bool:
    """Return whether a file is of a group that is trusted."""
    names = {str(found.st_gid)}
    with suppress(KeyError):
        names.add(grp.getgrgid(found.st_gid).gr_name)
    return any(f"group:{name}" in _trusted for name in names)


def find_stranger(found: os.stat_result) -> str:
    """Return who owns a file, if that is neither this user nor anybody who is trusted."""
    if found.st_uid == os.geteuid() or is_of_trusted_group(found):
        return ""
    owner = str(found.st_uid)
    with suppress(KeyError):
        owner = pwd.getpwuid(found.st_uid).pw_name
    return "" if {owner, str(found.st_uid)} & _trusted else owner


def make_folders(folder: Path) -> None:
    """Make a folder, and those that should hold it, where they are missing: the owner's only.

    Each of them: whoever may write a folder further up can put another in the place of one below.
    Two processes may do so at once. Raises OSError if one can't be made.
    """
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    for each in reversed(missing):
        with suppress(FileExistsError):
            each.mkdir(mode=0o700)
            fsync_folder(each.parent)


def fsync_folder(folder: Path) -> None:
    """Make durable which files are in it, and under which names."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_NO_UNNAMED_FILES = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL)
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)
_BESIDE = ".deid-hooks"
_NAME = re.compile("[0-9a-f]{16}")
_AT_FDCWD, _RENAME_NOREPLACE = -100, 1  # of the Linux kernel, for renameat2(2)


def make_new_file(folder: Path) -> _Unnamed | _Beside:
    """Make a file without a name on the file system of ``folder``, its owner's only.

    ``descriptor`` is open for writing and reading; flush it before ``name(path)`` gives the file a
    name, in the folder or below: FileExistsError if there is such a file. Raises OSError.
    """
    if hasattr(os, "O_TMPFILE") and Path("/proc/self/fd").is_dir():
        try:
            return _Unnamed(folder)
        except OSError as error:
            if error.errno not in _NO_UNNAMED_FILES:
                raise
    return _Beside(folder)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left beside the folder; what is in use is not touched."""
    beside = _folder_beside(folder)
    if not beside.is_symlink() and beside.is_dir() and beside.stat().st_uid == os.geteuid():
        for path in beside.iterdir():
            if _NAME.fullmatch(path.name):
                _remove_if_unused(path)
        with suppress(OSError):  # in use
            beside.rmdir()


def remove_leftovers_within(folder: Path) -> None:
    """Remove what killed processes left beside any folder in ``folder``."""
    for beside in folder.glob(f".*{_BESIDE}"):
        remove_leftovers(folder / beside.name[1:].removesuffix(_BESIDE))


class _Unnamed:
    def __init__(self, folder: Path) -> None:
        self.descriptor = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        os.fchmod(self.descriptor, 0o600)  # whatever the umask

    def name(self, path: Path) -> None:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # Without dst_dir_fd Python calls link(2), which doesn't follow the link in /proc.
            link = f"/proc/self/fd/{self.descriptor}"
            os.link(link, path.name, dst_dir_fd=folder, follow_symlinks=True)
        finally:
            os.close(folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)


class _Beside:
    """A file in a hidden folder, locked as long as it is in use."""

    def __init__(self, folder: Path) -> None:
        beside = _folder_beside(folder)
        while True:
            device = folder.stat().st_dev
            with suppress(FileNotFoundError):  # another process removes the folder when it is empty
                _make_private(beside, device)
                self._path = beside / secrets.token_hex(8)
                flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                self.descriptor = os.open(self._path, flags, 0o600)
                fcntl.flock(self.descriptor, fcntl.LOCK_EX)
                if os.fstat(self.descriptor).st_nlink:
                    os.fchmod(self.descriptor, 0o600)
                    return
                os.close(self.descriptor)  # it was taken for a leftover before it was locked

    def name(self, path: Path) -> None:
        try:
            os.link(self._path, path)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            rename_exclusively(self._path, path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._path.unlink(missing_ok=True)
        os.close(self.descriptor)
        with suppress(OSError):  # in use
            self._path.parent.rmdir()


def rename_exclusively(source: Path, target: Path) -> None:
    """Rename without replacing: FileExistsError if there is one. For file systems without links.

    Raises OSError (ENOSYS) where the system has no such call.
    """
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from None
    if rename(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _folder_beside(folder: Path) -> Path:
    return folder.parent / f".{folder.name}{_BESIDE}"


def _make_private(folder: Path, device: int) -> None:
    """Make a folder of our own on that device, unless it is there. EXDEV if there can't be one."""
    try:
        with suppress(FileExistsError):
            folder.mkdir(0o700)
        status = folder.lstat()
        if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid():
            folder.chmod(0o700)
            if status.st_dev == device:
                return
    except PermissionError:
        pass
    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))


def _remove_if_unused(path: Path) -> None:
    with suppress(FileNotFoundError, BlockingIOError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
        finally:
            os.close(descriptor)
