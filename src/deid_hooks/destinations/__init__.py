"""Where de-identified files go: what a destination does, and how one is found by its scheme."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from deid_hooks import DeidHooksError, SettingsError

KINDS = "folder:PATH, dicom://AET@host:port, dicomweb+http(s)://host:port/path"


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


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A de-identified file that waits to be sent, and the entry that it belongs to.

    The UIDs are its own, de-identified.
    """

    path: Path
    study_uid: str
    series_uid: str
    sop_uid: str
    log_id: str = ""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of a file at the destination.

    ``failed`` with a reason: it is not there, or nobody knows. ``uploaded`` may have one, too: the
    destination took it with a warning.
    """

    status: Literal["uploaded", "already there", "failed"]
    reason: str = ""


class Destination(Protocol):
    """Takes the files of one acquisition after the other; used by one thread.

    Raises DestinationError and nothing else.
    """

    name: str
    """How it stands in the log: the same for the same place every time, without credentials."""

    def check(self) -> None:
        """Return if it can be reached and takes files."""

    def deliver(self, files: Sequence[Outgoing], tried_before: bool) -> list[Delivery]:
        """Deliver the files of an acquisition; what became of each, in their order.

        What is delivered is there for good. No file takes another one's place. ``tried_before``:
        some may be there already, which is looked for where the destination can tell.
        """


def open_destination(text: str) -> Destination:
    """The destination that ``text`` names. Nothing is touched before ``check``.

    Raises SettingsError for a scheme that isn't known, or whose library isn't installed; it never
    repeats what may be a password.
    """
    # Each needs what stands above, and a library that the others do without.
    scheme, colon, rest = text.partition(":")
    if scheme == "folder" and colon:
        from deid_hooks.destinations.folder import Folder

        return Folder(rest)
    if scheme == "dicom" and colon:
        from deid_hooks.destinations.dicom import Archive

        return Archive(text)
    if scheme in ("dicomweb+http", "dicomweb+https") and colon:
        from deid_hooks.destinations.dicomweb import Web

        return Web(text)
    if not colon or "/" in scheme:
        raise SettingsError(f"A destination begins with its kind: {KINDS}.")
    raise SettingsError(f"There is no kind of destination {scheme}:. Known: {KINDS}.")


def find_known(files: Sequence[Outgoing], there: Collection[str]) -> dict[int, Delivery]:
    """What is clear of some files, by their place, before anything is sent to an archive.

    ``there`` holds SOP Instance UIDs that the archive has. It keeps one instance of a UID: another
    file with the same one would take the place of the first.
    """
    known: dict[int, Delivery] = {}
    seen: set[str] = set()
    for at, file in enumerate(files):
        if file.sop_uid in seen:
            known[at] = Delivery(
                "failed",
                "another file of the series has the same SOP Instance UID; an archive keeps one",
            )
        elif file.sop_uid in there:
            known[at] = Delivery("already there")
        seen.add(file.sop_uid)
    return known
