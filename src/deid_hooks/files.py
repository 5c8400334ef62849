"""Files that stand whole or not at all, are durable, and readable by their owner only."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def put_file(path: Path, content: bytes, place: Callable[[Path, Path], object] = os.link) -> None:
    """Write ``content`` to ``path``, in folders that are made where they are missing.

    It is on the disk before it stands there, and stands there for good when this returns. With
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
