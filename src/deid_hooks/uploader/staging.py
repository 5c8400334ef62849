"""A private folder for de-identified files between the engine and the destination.

Readable by its owner only, whatever the umask; removed at the end, and by the next run if a kill
left it behind.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from deid_hooks import DeidHooksError

_PREFIX = "deid-hooks-staging-"
_LOCK = ".lock"
_TRIES, _PAUSE = 20, 0.05


@contextmanager
def staging_folder() -> Iterator[Path]:
    """A new folder in the system's temporary folder (``TMPDIR``), removed in every case.

    Raises DeidHooksError if there can't be one.
    """
    try:
        remove_abandoned()
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        try:
            lock = _locked(folder)
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    except OSError as error:
        where = f" in {Path(error.filename).parent}" if error.filename else ""
        raise DeidHooksError(
            f"There can't be a temporary folder{where} for de-identified files:"
            f" {str(error.strerror).lower()}. Make room there, or let TMPDIR name another folder."
        ) from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # a plugin may have closed it: what that did is told elsewhere
            os.close(lock)


def _locked(folder: Path) -> int:
    """Lock a folder as one in use: the descriptor that holds the lock."""
    new = folder / ".new"
    lock = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    new.rename(folder / _LOCK)  # it never stands there without being held
    return lock


def remove_abandoned() -> None:
    """Remove staging folders of ours whose process is gone: nobody holds their lock."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        try:
            if folder.stat().st_uid != os.getuid() or folder.is_symlink():
                continue
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for _ in range(_TRIES):  # a worker that has yet to notice may write there meanwhile
                shutil.rmtree(folder, ignore_errors=True)
                if not folder.exists():
                    break
                time.sleep(_PAUSE)
        except OSError:
            pass  # in use
        finally:
            os.close(lock)
