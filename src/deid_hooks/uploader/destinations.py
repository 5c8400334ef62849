"""Where de-identified files go: what a destination does, and how one is found by its scheme."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Protocol

from deid_hooks import DeidHooksError, SettingsError

Delivered = Literal["sent", "already there"]

_LATER = ("dicom", "dicomweb+http", "dicomweb+https")


class DestinationError(DeidHooksError):
    """A destination doesn't take a file, or can't be reached. ``remedy`` says what to do.

    What was not sent left nothing there.
    """

    def __init__(self, cause: str, remedy: str = "") -> None:
        self.cause, self.remedy = cause, remedy
        text = f"{cause[:1].upper()}{cause[1:]}."
        super().__init__(f"{text} {remedy[0].upper()}{remedy[1:]}." if remedy else text)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.cause, self.remedy)


class Destination(Protocol):
    """Takes files one at a time; used by one thread.

    ``staged`` is the de-identified file, the UIDs are its own, de-identified. All methods raise
    DestinationError and nothing else.
    """

    name: str
    """How it stands in the log: the same for the same place every time, without credentials."""

    def check(self) -> None:
        """Return if it can be reached and takes files."""

    def has(self, staged: Path, study_uid: str, series_uid: str, sop_uid: str) -> bool:
        """Whether this very file, byte for byte where that can be told, is there already."""

    def send(self, staged: Path, study_uid: str, series_uid: str, sop_uid: str) -> Delivered:
        """Deliver a file, unless it is there already. It never takes another file's place."""

    def finish(self) -> None:
        """Make durable what was sent, at the end of an acquisition and before its outcome is known.

        What was opened to send it may be closed; ``send`` opens it again.
        """


def open_destination(text: str) -> Destination:
    """The destination that ``text`` names. Nothing is touched before ``check``.

    Raises SettingsError for a scheme that isn't known; it never repeats what may be a password.
    """
    from deid_hooks.uploader.folder import Folder  # which needs what stands above

    scheme, colon, rest = text.partition(":")
    if scheme == "folder" and colon:
        return Folder(rest)
    if scheme in _LATER and colon:
        raise SettingsError(f"Sending to {scheme}: comes with a later version. Known: folder:PATH.")
    if not colon or "/" in scheme:
        raise SettingsError("A destination begins with its kind: folder:PATH.")
    raise SettingsError(f"There is no kind of destination {scheme}:. Known: folder:PATH.")
