"""The log as one site writes and reads it: a backend, the site secret, and bounded waiting."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ContextDecorator, suppress
from itertools import islice
from urllib.parse import unquote

from deid_hooks.backends.contract import Copy, LogBackend, Receipt, Statistics, find_copies
from deid_hooks.deadline import DEFAULT_SECONDS, Deadline, hide_foreign_errors
from deid_hooks.errors import (
    AppendUnknown,
    LogError,
    LogUnavailable,
    NotAllowed,
    PluginError,
    SettingsError,
)
from deid_hooks.plugins import BACKENDS, find_installed, suggest_nearest
from deid_hooks.query.conditions import Query
from deid_hooks.records.chain import commit_terms, seal_records
from deid_hooks.records.keys import (
    SiteSecret,
    compute_content_digest,
    derive_trail_key,
    keep_secret,
    make_secret,
    read_secret,
)
from deid_hooks.records.model import AccessRow, Entry, Erasure, Record, Tombstone, UploadEvent
from deid_hooks.settings import Settings, mask_passwords

_SECONDS_TO_COUNT = 600.0


def _foreign_errors_as(kind: type[LogError]) -> ContextDecorator:
    """Raise ``kind`` in place of a driver's exception that a backend lets out."""
    return hide_foreign_errors(lambda name: kind(f"the backend of the log failed with {name}"))


class Log:
    """The log as one site writes and reads it: a backend, the site secret, bounded waiting."""

    def __init__(
        self, backend: LogBackend, secret: SiteSecret, seconds: float = DEFAULT_SECONDS
    ) -> None:
        self.backend = backend
        self.secret = secret
        self.seconds = seconds
        self._trail_key = derive_trail_key(secret)

    @_foreign_errors_as(LogUnavailable)
    def create(self) -> None:
        """Make the store where there is none; LogUnavailable if that can't be done."""
        self.backend.create(self._deadline())
        self.check()

    @_foreign_errors_as(LogUnavailable)
    def check(self) -> None:
        """Return if the log is reachable, ours and writable; LogUnavailable otherwise."""
        deadline = self._deadline()
        self.backend.check(deadline)
        if not self.backend.records:
            return
        with suppress(NotAllowed):  # who may not read can't tell, and is told when appending
            for record in self.backend.read(0, deadline).records:
                if isinstance(record, Entry):
                    self._refuse_foreign(record)
                    return

    @_foreign_errors_as(AppendUnknown)
    def append(self, records: Sequence[Record]) -> None:
        """Write records durably. After an AppendUnknown, once more with the same ids."""
        deadline = self._deadline()
        try:
            self.backend.append(records, self._seal, deadline)
        except AppendUnknown:
            if deadline.passed:
                raise
            self.backend.append(records, self._seal, deadline)

    @_foreign_errors_as(LogUnavailable)
    def find_equal(self, entry: Entry) -> str | None:
        """Return the log id of the entry with the same content, if the log has one already."""
        if not self.backend.records:
            return None
        return self.backend.with_digest(entry.digest, self._deadline())

    @_foreign_errors_as(LogUnavailable)
    def resolve(self, log_id: str) -> Entry | Receipt:
        """Read an entry back from the store and find it equal to what was written.

        Returns a Receipt where the store itself finds that, because this user may not read the
        entry. Raises LogError with the cause if there is none, or it isn't.
        """
        found = self.backend.resolve(log_id, self._deadline())
        if found is None:
            raise LogUnavailable(f"the log has no entry {log_id}")
        if isinstance(found, Tombstone):
            raise LogUnavailable(f"the entry {log_id} was forgotten")
        self._refuse_foreign(found)
        altered = (
            isinstance(found, Entry) and compute_content_digest(found, self.secret) != found.digest
        )
        if found.log_id != log_id or altered:
            raise LogUnavailable(
                f"the entry {log_id} is not what was written: it was altered in the store",
                "restore the log from a backup",
            )
        return found

    @_foreign_errors_as(LogUnavailable)
    def blocked(self, patients: Sequence[str], project: str) -> bool:
        """Return whether nothing of one of these patients may leave, in this project or in any."""
        if not (self.backend.records and patients):
            return False
        latest: dict[tuple[str, str], bool] = {}
        for block in self.backend.blocks(patients, self._deadline()):
            if block.project in ("", project):
                latest[block.patient, block.project] = not block.lifted
        return any(latest.values())

    @_foreign_errors_as(LogUnavailable)
    def subject(self, project: str, patient: str) -> str | None:
        """Return the label that a patient, by the keyed digest, has in this project already."""
        if not self.backend.records:
            return None
        return self.backend.subject(project, patient, self._deadline())

    @_foreign_errors_as(LogUnavailable)
    def outcome(self, log_id: str, destination: str) -> str | None:
        """Return what is known of an entry at this destination; None if it was never cleared there.

        ``pending``, ``uploaded``, ``partial``, ``failed`` or ``withdrawn``.
        """
        if not self.backend.records:
            return None
        copies = find_copies(self.backend.uploads([log_id], self._deadline()))
        return next((copy.state for copy in copies if copy.destination == destination), None)

    def pending(self) -> list[Copy]:
        """Return what was cleared and has no outcome, at each destination, oldest first."""
        copies = find_copies(self.backend.uploads(None, self._deadline()))
        return [copy for copy in copies if copy.state == "pending"]

    def search(self, query: Query) -> Iterator[str]:
        """Yield the ids that match. The caller records the access: see :meth:`record_access`."""
        return self.backend.search(query, self._deadline())

    def entries(self, log_ids: Iterable[str]) -> Iterator[Entry]:
        """Yield the entries with these ids, in that order, some at a time."""
        ids = iter(log_ids)
        while some := list(islice(ids, 100)):
            yield from self.backend.entries(some, self._deadline())

    def records(self) -> Iterator[Record]:
        """Yield all that the log holds, in its order. The caller records the access."""
        return self.backend.everything(self._deadline())

    def uploads(self, log_ids: Iterable[str]) -> Iterator[UploadEvent]:
        """Yield what became of these entries, oldest first."""
        return self.backend.uploads(list(log_ids), self._deadline())

    def record_access(self, row: AccessRow) -> None:
        """Write a row of the access trail, durably, before anything is shown."""
        self.append([commit_terms(row, self._trail_key)])

    @_foreign_errors_as(LogUnavailable)
    def tombstone(self, log_id: str) -> Tombstone | None:
        """Return what is left of an entry that was forgotten; None if it was not forgotten."""
        found = self.backend.resolve(log_id, self._deadline())
        return found if isinstance(found, Tombstone) else None

    @_foreign_errors_as(LogError)
    def erase(self, log_ids: Sequence[str], erasure: Erasure, seconds: float) -> None:
        """Forget entries, as ``LogBackend.erase`` says. It may take long: ``seconds`` at the most.

        Raises LogUnavailable if nothing was erased, LogError if traces may be left in the store.
        """
        self.backend.erase(log_ids, erasure, Deadline(seconds))

    def trail(self) -> Iterator[tuple[AccessRow, str]]:
        """Yield the access trail with its seals, from its beginning. The caller records that."""
        return self.backend.trail(self._deadline())

    def statistics(self) -> Statistics:
        """Count what the log holds. A large log takes minutes."""
        return self.backend.statistics(Deadline(_SECONDS_TO_COUNT))

    def explain(self, query: Query) -> list[tuple[str, str]]:
        """Return the attribute of each term and the indexes that serve it."""
        return self.backend.explain(query, self._deadline())

    def close(self) -> None:
        self.backend.close()

    def _deadline(self) -> Deadline:
        return Deadline(self.seconds)

    def _seal(self, head: str, new: Sequence[Record]) -> list[str]:
        return seal_records(head, new, self._trail_key)

    def _refuse_foreign(self, entry: Entry | Receipt) -> None:
        if entry.key != self.secret.name:
            raise LogUnavailable(
                "the log was written with another site secret than this machine has",
                "copy the secret file from the machine that began the log",
            )


log = logging.getLogger("deid_hooks")


def make_backend(url: str) -> LogBackend:
    """Return the backend of a URL. Nothing is opened yet.

    Raises SettingsError if none is installed or it can't use the URL, PluginError if it can't be
    imported.
    """
    scheme, colon, _ = url.partition(":")
    known = find_installed(BACKENDS)
    if not colon or scheme not in known:
        raise SettingsError(
            f"No backend for {scheme!r} in the url of the log{suggest_nearest(scheme, known)}."
            f" Installed are {', '.join(known)}."
        )
    backend_class = known[scheme].load()
    if not (isinstance(backend_class, type) and issubclass(backend_class, LogBackend)):
        raise PluginError(f"The backend {known[scheme]} is not a subclass of LogBackend.")
    with hide_foreign_errors(  # its text may quote the password
        lambda name: SettingsError(
            f"The backend {known[scheme]} can't be made for the url {mask_passwords(url)}: {name}."
        )
    ):
        return backend_class(url)


def open_log(backend: LogBackend, settings: Settings) -> Log:
    """Open the log; on a machine where nothing was ever set up begin one, and say so.

    Raises SettingsError if there is no site secret, LogUnavailable if a new log can't be made.
    """
    secret = read_secret(settings.secret_file)
    if secret is not None:
        return Log(backend, secret, settings.deadline)
    untouched = all(settings.origins.get(key) == "default" for key in ("url", "secret_file"))
    if backend.records and not (untouched and not backend.exists()):
        raise SettingsError(
            f"There is no site secret at {settings.secret_file}, and the log needs the one it"
            " was begun with. Copy it from the machine that began the log, or begin a new log:"
            " deid-hooks init"
        )
    begun = begin_log(backend, settings)
    if backend.records:
        log.warning("A new log was begun at %s", unquote(mask_passwords(settings.url)))
    log.warning("A new site secret was made, keep a copy of it: %s", settings.secret_file)
    return begun


def begin_log(backend: LogBackend, settings: Settings) -> Log:
    """Make the store and the site secret where there are none. Touches nothing that exists.

    The store comes first: one that was begun with another secret refuses, and no wrong secret is
    left behind. Raises SettingsError or LogUnavailable.
    """
    secret = read_secret(settings.secret_file) or make_secret()
    Log(backend, secret, settings.deadline).create()
    return Log(backend, keep_secret(secret, settings.secret_file), settings.deadline)
