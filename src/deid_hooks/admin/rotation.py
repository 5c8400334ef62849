"""Rotate the keys of the log: write with a new root key, and declare one that was lost."""

from __future__ import annotations

import uuid
from contextlib import closing, suppress
from pathlib import Path

from deid_hooks.access import AccessRecorder, identify_user
from deid_hooks.errors import LogUnavailable, SettingsError
from deid_hooks.log import ALTERED_REMEDY, Log, make_backend
from deid_hooks.records.chain import Verification, parse_seal
from deid_hooks.records.keys import (
    Keyring,
    LostKey,
    RootKey,
    changing_keyring,
    make_root,
    read_keyring,
    replace_keyring,
)
from deid_hooks.records.model import Block, read_clock
from deid_hooks.settings import Settings

ELSEWHERE = "Keys are rotated on the host of the log, where its keyring is."


def rotate(log: Log, reason: str) -> str:
    """Add a new root key to the keyring, with which everything is written from then on.

    Returns its name. The access trail has a row before, sealed with the old key, and one after,
    sealed with the new one. Cut off in the middle, either the old key counts or the new one does.
    Raises SettingsError where the keyring can't be changed, LogUnavailable if the log can't be
    written: where that happens after the new key was written, the new key counts all the same.
    """
    path = log.secret_file
    if path is None or log.remote is not None:
        raise SettingsError(ELSEWHERE)
    with changing_keyring(path):
        log.set_keyring(read_keyring(path) or log.keyring)  # another rotation may have been faster
        log.check()
        AccessRecorder(log, "rotate", reason).record(f"key {log.keyring.newest.name}", ())
        _begin(log, path, Keyring((*log.keyring.keys, make_root())), reason)
    return log.keyring.newest.name


def replace_lost(settings: Settings, reason: str) -> tuple[LostKey, ...]:
    """Begin a new root key for a log of which a root, or the whole keyring, was lost.

    Returns the roots that were lost, none if no key of the log is missing. What was sealed with
    those is taken as it stands, if its links hold. The whole log is read twice. Raises
    LogUnavailable if the log can't be read, was altered, or ends before a head that was kept:
    nothing was changed then.
    """
    path = settings.secret_file
    with changing_keyring(path), closing(make_backend(settings.url)) as backend:
        before = read_keyring(path)
        known: tuple[RootKey | LostKey, ...] = before.keys if before else ()
        new = make_root()
        log = Log(backend, Keyring((*known, new)), settings.deadline, path)
        if backend.seals or not backend.records:
            raise SettingsError(ELSEWHERE)
        if not (lost := _find_lost(log)):
            return ()
        keyring = Keyring((*known, *lost, new))
        log.set_keyring(keyring)
        for fault in log.verify(Verification(log.sealer, log.read_heads())):
            raise LogUnavailable(
                f"the log was altered: record {fault.n}: {fault.what}", ALTERED_REMEDY
            )
        _begin(log, path, keyring, reason)
    return lost


def release(log: Log, reason: str) -> int:
    """Lift the blocks of which nobody can tell for whom they are; return how many.

    Uploads go on then. Patients who must stay blocked are to be blocked anew. Raises SettingsError
    away from the host of the log, LogError if the log can't be read or written.
    """
    if log.remote is not None:
        raise SettingsError(ELSEWHERE)
    at, who = read_clock(), identify_user()
    lifted = [
        Block(uuid.uuid4().hex, at, block.patient, block.project, who, reason, lifted=True)
        for block in log.list_unmatched()
    ]
    if lifted:
        AccessRecorder(log, "lift", reason).record("blocks of a lost key", ())
        log.append(lifted)
    return len(lifted)


def _find_lost(log: Log) -> tuple[LostKey, ...]:
    """Return the keys that sealed records of the log and are not in its keyring."""
    names: dict[str, None] = {}
    n = 0
    for _, text in log.chain():
        if (seal := parse_seal(text)) is not None:
            names[seal.key] = None
            n = seal.n
    return tuple(LostKey(name, n) for name in names if not log.keyring.knows(name))


def _begin(log: Log, path: Path, keyring: Keyring, reason: str) -> None:
    """Write the keyring, and the first record that is sealed with its newest key."""
    replace_keyring(keyring, path)
    log.set_keyring(keyring)
    lost = "".join(f", lost {key.name}" for key in keyring.lost)
    AccessRecorder(log, "rotated", reason).record(f"key {keyring.newest.name}{lost}", ())
    with suppress(OSError):  # the next check keeps it
        log.keep_head()
