"""Destinations: what one does, and how it is found by the scheme of its URL."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from deid_hooks import DeidHooksError, PluginError, SettingsError, find_installed
from deid_hooks.plugins import DESTINATIONS

__all__ = [
    "FINISH",
    "Delivery",
    "Destination",
    "DestinationError",
    "Outgoing",
    "find_known",
    "is_host",
    "is_loopback",
    "open_destination",
]

FINISH = "run it again: what has arrived is not sent twice"
"""The remedy for what was cut off."""

_EXAMPLES = "folder:PATH, dicom://AET@host:port or dicomweb+https://host:port/path"


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
    """A de-identified file that waits to be sent, with its own UIDs and the id of its entry."""

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

    Its methods raise DestinationError and nothing else.
    """

    name: str
    """Its name in the log: the same for the same place every time, without credentials."""

    def check(self) -> None:
        """Return if it can be reached and takes files."""

    def deliver(self, files: Sequence[Outgoing], tried_before: bool) -> list[Delivery]:
        """Deliver the files of an acquisition; return one delivery for each, in their order.

        What is delivered stays there. No file takes another one's place. ``tried_before``: some may
        be there already, which is looked for where the destination can tell.
        """


def open_destination(text: str) -> Destination:
    """Return the destination that ``text`` names. Nothing is touched before ``check``.

    What stands before the colon is the name of an entry point, a factory, which is called with the
    whole text. Raises SettingsError for a scheme that isn't installed, or a text that its
    destination can't use; PluginError for a destination that can't be imported or made. No message
    repeats what may be a password.
    """
    scheme, colon, _ = text.partition(":")
    if not colon or "/" in scheme:
        raise SettingsError(f"A destination begins with its scheme, as in {_EXAMPLES}.")
    known = find_installed(DESTINATIONS)
    if scheme not in known:
        raise SettingsError(
            f"There is no destination {scheme}:, as in {_EXAMPLES}. Installed are"
            f" {', '.join(f'{name}:' for name in known)}."
        )
    destination: Destination = known[scheme].make(text)
    for member in ("name", "check", "deliver"):
        if not hasattr(destination, member):
            raise PluginError(f"The destination {known[scheme]} is none: it has no {member}.")
    return destination


def is_host(name: str | None) -> bool:
    """Return whether this can be the name or address of a host."""
    try:
        return bool((name or "").encode("idna"))
    except UnicodeError:  # an empty label, or one that is too long
        return False


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine, as its name or address says."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def find_known(files: Sequence[Outgoing], there: Collection[str]) -> dict[int, Delivery]:
    """Return what is clear of some files, by their place, before anything is sent to an archive.

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
