"""What database servers and their drivers say, in the words of the log.

Their own texts never get out: many quote values, some the password.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from deid_hooks.errors import AppendUnknown, LogUnavailable, NotAllowed


class Kind(Enum):
    """What can go wrong, whichever the server."""

    UNREACHABLE = auto()
    LOST = auto()
    PASSWORD = auto()
    NO_DATABASE = auto()
    ENCRYPTION = auto()
    NO_TABLES = auto()
    FORBIDDEN = auto()
    READ_ONLY = auto()
    STANDBY = auto()
    FULL = auto()
    BUSY = auto()
    IN_THE_WAY = auto()
    SLOW = auto()
    TOO_BIG = auto()
    OTHER = auto()


@dataclass(frozen=True, slots=True)
class Failure:
    """A kind, and for the unforeseen a name to look up that quotes no value."""

    kind: Kind
    code: str = ""


_WORDS = {
    Kind.UNREACHABLE: (
        "{where} can't be reached",
        "check that the server runs, its name and port in the url, and the network to it",
    ),
    Kind.LOST: ("the connection to {where} was lost", "look at the server and the network to it"),
    Kind.PASSWORD: (
        "{where} refuses this user or password",
        "check the user and the password in the url, and what the server lets in",
    ),
    Kind.NO_DATABASE: (
        "the database of {where} does not exist",
        "check its name in the url, or have it created",
    ),
    Kind.ENCRYPTION: (
        "{where} and this machine do not agree on encryption",
        "check the certificates, and the ssl parameters of the url",
    ),
    Kind.NO_TABLES: (
        "{where} is in a database without the tables of a de-id log",
        "check the url of the log; to begin a log there, run: deid-hooks init",
    ),
    Kind.FORBIDDEN: (
        "this user may not do that in {where}",
        "have the administrator of the database grant it",
    ),
    Kind.READ_ONLY: ("{where} is read-only", "use a server, and a user, that may write"),
    Kind.STANDBY: (
        "the server of {where} is a standby, not writable",
        "name the primary in the url, or all servers: postgresql://one,two/database",
    ),
    Kind.FULL: ("the disk of {where} is full", "free some space on the server"),
    Kind.BUSY: (
        "{where} takes no more connections now",
        "try again, or have the server allow more connections",
    ),
    Kind.IN_THE_WAY: ("others write to {where} at the same time", "try again"),
    Kind.SLOW: (
        "{where} took too long",
        "allow more time, and look at the load of the server and for locks that somebody holds",
    ),
    Kind.TOO_BIG: (
        "a value is too large for {where}",
        "log it by digest only, or have the server take larger ones",
    ),
    Kind.OTHER: ("{where} can't be used ({code})", "report this; the log of the server says more"),
}


NO_ANSWER = "look at the server, the network to it, and for somebody who holds its locks"
"""What to do when nobody answered in time."""


class Failed(Exception):
    """A job that failed in the driver. Holds none of the driver's words."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure
        super().__init__(failure.kind.name)


def not_allowed(where: str) -> NotAllowed:
    """Who may not read what was asked for."""
    cause, remedy = _WORDS[Kind.FORBIDDEN]
    return NotAllowed(cause.format(where=where), remedy)


def unavailable(failure: Failure, where: str) -> LogUnavailable:
    """The failure of anything but a commit: nothing was written."""
    cause, remedy = _WORDS[failure.kind]
    return LogUnavailable(cause.format(where=where, code=failure.code), remedy)


def unknown(failure: Failure, where: str) -> AppendUnknown:
    """The failure of a commit: all of it was written, or none."""
    known = unavailable(failure, where)
    return AppendUnknown(
        f"{known.cause}, and whether the last write is in it is unknown", known.remedy
    )
