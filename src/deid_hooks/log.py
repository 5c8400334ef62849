"""The log as one site writes and reads it: a backend, the site secret, and bounded waiting."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ContextDecorator, suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote

from deid_hooks.backends.contract import (
    BlocksPage,
    Copy,
    LogBackend,
    OlderLog,
    Page,
    Receipt,
    RemoteBackend,
    Seal,
    Statistics,
    find_copies,
)
from deid_hooks.deadline import DEFAULT_SECONDS, Deadline, hide_foreign_errors
from deid_hooks.errors import (
    AppendUnknown,
    LogError,
    LogUnavailable,
    NotAllowed,
    PluginError,
    SettingsError,
)
from deid_hooks.files import put_file
from deid_hooks.plugins import BACKENDS, find_installed, suggest_nearest
from deid_hooks.query.conditions import Equal, Query, Term
from deid_hooks.records.chain import (
    Blocks,
    Fault,
    Head,
    Leaf,
    Sealer,
    Verification,
    commit_terms,
    make_leaf,
    parse_head,
    parse_seal,
)
from deid_hooks.records.chain import (
    Seal as ChainSeal,
)
from deid_hooks.records.keys import (
    Keyring,
    Pseudonyms,
    RootKey,
    change_root,
    keep_keyring,
    list_identities,
    make_pseudonyms,
    make_root,
    make_sealer,
    normalise_identity,
    read_keyring,
    reveals,
)
from deid_hooks.records.model import (
    AccessRow,
    Block,
    Entry,
    Erasure,
    Record,
    Tombstone,
    UploadEvent,
    get_id,
    make_record_id,
    read_clock,
)
from deid_hooks.settings import Settings, mask_passwords

_SECONDS_TO_COUNT = 600.0
_AFTER_ALL = 1 << 62
_AT_ONCE = 100
_LABELS = range(10, 40, 2)
"""Characters of labels, from the usual one on."""

FOREIGN = "the log was written with another site secret than this machine has"
FOREIGN_REMEDY = (
    "copy the secret file from the machine that began the log, or on which its keys were rotated"
)
NO_KEYS = "This needs the keys of the log, which only its host has: run it there."
ROTATED = "the keys of the log were rotated meanwhile"
ALTERED_REMEDY = 'run deid-hooks verify, and read "The log was altered" in docs/verify.md'

R = TypeVar("R", bound=Record)


def _foreign_errors_as(kind: type[LogError]) -> ContextDecorator:
    """Raise ``kind`` in place of a driver's exception that a backend lets out."""
    return hide_foreign_errors(lambda name: kind(f"the backend of the log failed with {name}"))


class Log:
    """The log as one site writes and reads it: a backend, the site secret, bounded waiting."""

    def __init__(
        self,
        backend: LogBackend,
        keyring: Keyring | None,
        seconds: float = DEFAULT_SECONDS,
        secret_file: Path | None = None,
    ) -> None:
        """``secret_file`` is where the keyring came from; the newest head is kept beside it.

        ``keyring`` may be None for a log behind a service, which holds the keys.
        """
        self.backend = backend
        self.remote = backend if isinstance(backend, RemoteBackend) else None
        """The backend, if it is a service that holds the keys; None if they are here."""
        self._keyring = keyring
        self._sealer = make_sealer(keyring) if keyring else None
        self.seconds = seconds
        self.secret_file = secret_file
        self.head_file = secret_file and secret_file.with_suffix(".head")
        self.altered: dict[str, str] = {}
        """What was read and is not what was written: what is wrong, by the id of the record."""
        self._blocks = Blocks(self._sealer) if self._sealer else None
        self._blocks_cursor = 0
        self._older: bool | None = None
        self._genesis = ""
        self._lock = threading.Lock()

    @property
    def keyring(self) -> Keyring:
        """The keys of the log. Raises SettingsError where only its service has them."""
        if self._keyring is None:
            raise SettingsError(NO_KEYS)
        return self._keyring

    @property
    def sealer(self) -> Sealer:
        """What seals the records, and checks them. Raises SettingsError as ``keyring`` does."""
        if self._sealer is None:
            raise SettingsError(NO_KEYS)
        return self._sealer

    @_foreign_errors_as(LogUnavailable)
    def create(self) -> None:
        """Make the store where there is none; LogUnavailable if that can't be done."""
        self.backend.create(self._deadline())
        self.check()

    @_foreign_errors_as(LogUnavailable)
    def upgrade(self, seconds: float) -> str:
        """Bring a log of an older version to this one; return what was done, ``""`` for nothing.

        Records that had no seal are sealed as they stand. Raises LogUnavailable, also for a log
        that was written with another site secret.
        """
        seal = self.prepare_seals([])

        def refuse_foreign(head: str, records: Sequence[Record]) -> Sequence[str]:
            for record in records:
                if isinstance(record, Entry):
                    self._refuse_foreign(record)
            return seal(head, records)

        if not self.backend.exists():
            return ""
        try:
            self.read_head()
        except LogUnavailable:
            self._refuse_downgrade()
        return self.backend.upgrade(refuse_foreign, Deadline(seconds))

    @_foreign_errors_as(LogUnavailable)
    def check(self) -> None:
        """Return if the log is reachable, ours and writable; LogUnavailable otherwise.

        Also if it was written with another site secret, or ends before the head that was kept.
        """
        deadline = self._deadline()
        self.backend.check(deadline)
        if not self.backend.records:
            return
        if self.remote is None:
            self._compare_head(self.read_head())
            self._find_standing()  # which refuses where some are missing, or can't be matched
            return
        if self._keyring is None:
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
        seal = self.prepare_seals(records)
        try:
            self.backend.append(records, seal, deadline)
        except AppendUnknown:
            if deadline.passed:
                raise
            try:
                self.backend.append(records, seal, deadline)
            except LogUnavailable as error:  # this time nothing was written, the first time maybe
                raise AppendUnknown(error.cause, error.remedy) from None

    @_foreign_errors_as(LogUnavailable)
    def find_equal(self, entry: Entry) -> Entry | None:
        """Return the entry with the same content, if the log has one already.

        It is ``entry`` with the log id, and under the root key, of the one that the log has.
        """
        if not self.backend.records:
            return None
        if self.remote is not None:
            log_id = self.remote.find_equal(entry, self._deadline())
            return replace(entry, log_id=log_id) if log_id else None
        for root in reversed(self.keyring.roots):
            same = change_root(entry, root)
            if log_id := self.backend.with_digest(same.digest, self._deadline()):
                return replace(same, log_id=log_id)
        return None

    @_foreign_errors_as(LogUnavailable)
    def resolve(self, log_id: str) -> Entry | Receipt:
        """Read an entry back from the store and find it equal to what was written.

        Returns a Receipt where the store itself finds that, because this user may not read the
        entry. Raises LogError with the cause if there is none, or it isn't.
        """
        found: Entry | Receipt | Tombstone | None
        if self.remote is not None:
            found = self.remote.fetch_receipt(log_id, self._deadline())
        else:
            found = self.backend.resolve(log_id, self._deadline())
        if found is None:
            raise LogUnavailable(f"the log has no entry {log_id}")
        if isinstance(found, Tombstone):
            raise LogUnavailable(f"the entry {log_id} was forgotten")
        if self.remote is None:
            self._refuse_foreign(found)
        if found.log_id != log_id or (isinstance(found, Entry) and self._is_altered(found)):
            raise LogUnavailable(
                f"the entry {log_id} is not what was written: it was altered in the store",
                "restore the log from a backup",
            )
        return found

    @_foreign_errors_as(LogUnavailable)
    def is_blocked(self, entry: Entry | Receipt) -> bool:
        """Return whether nothing of a patient of this entry may leave, in its project or in any.

        A service that holds the keys says that itself; of an entry that it has not got yet, when it
        is appended.
        """
        if self.remote is not None:
            if isinstance(entry, Entry):
                return bool(entry.key) and self.is_blocked(self.resolve(entry.log_id))
            return entry.blocked
        patients = self.keyring.list_patients(entry) if isinstance(entry, Entry) else entry.patients
        blocks = self._find_standing() if self.backend.records and patients else []
        projects = ("", entry.project)
        return any(each.patient in patients and each.project in projects for each in blocks)

    def _find_standing(self) -> list[Block]:
        """Return all blocks that were not lifted, if they are all that there ever were.

        Raises LogUnavailable where a block was removed or changed, for a log that was cut off
        since this process looked at it before, and where it can't be told for whom a block is.
        """
        blocks = list_standing(self._read_blocks())
        assert self._blocks is not None
        if count := sum(block.id in self._blocks.unmatched for block in blocks):
            raise LogUnavailable(
                f"for whom {'1 block is' if count == 1 else f'{count} blocks are'} can't be told:"
                " the key was lost",
                "the administrator of the log lists them with `deid-hooks rotate --lost`",
            )
        return blocks

    @_foreign_errors_as(LogUnavailable)
    def find_blocks(self, patients: Collection[str]) -> list[Block]:
        """Return the standing blocks of these patients, by their keyed digests.

        Raises LogUnavailable if the blocks are not all that there ever were.
        """
        if not (self.backend.records and patients):
            return []
        return [block for block in self._find_standing() if block.patient in patients]

    def block(
        self,
        patients: Sequence[tuple[str, str]],
        project: str,
        who: str,
        reason: str,
        lift: bool = False,
    ) -> None:
        """Block patients, by (PatientID, issuer), or lift their blocks. Raises LogError.

        A service that holds the keys says who itself.
        """
        if self.remote is not None:
            self.remote.block(patients, project, reason, lift, self._deadline())
            return
        digests = sorted({d for each in patients for d in self.keyring.digest_patient(*each)})
        at = read_clock()
        self.append(
            [Block(make_record_id(), at, each, project, who, reason, lift) for each in digests]
        )

    def list_unmatched(self) -> list[Block]:
        """Return the standing blocks of which it can't be told for whom they are."""
        blocks = list_standing(self._read_blocks())
        unmatched = self._blocks.unmatched if self._blocks else ()
        return [block for block in blocks if block.id in unmatched]

    def _read_blocks(self) -> list[Block]:
        """Return all blocks, oldest first, proven to be all. Raises LogUnavailable."""
        page = self.backend.blocks_after(self._blocks_cursor, self._deadline())
        if not page.head and self._holds_records():
            raise LogUnavailable("the log was altered: its records have no seals", ALTERED_REMEDY)
        with self._lock:
            assert self._blocks is not None
            if self._take_blocks(page):  # or another thread was faster with later ones: once more
                page = self.backend.blocks_after(self._blocks_cursor, self._deadline())
                if what := self._take_blocks(page):
                    raise LogUnavailable(f"the log was altered: {what}", ALTERED_REMEDY)
            return list(self._blocks.found)

    def _holds_records(self) -> bool:
        """Return whether there is any record, or any event for who may read no more than those."""
        with suppress(NotAllowed):
            return bool(self.backend.read(0, self._deadline()).records)
        return next(iter(self.backend.uploads(None, self._deadline())), None) is not None

    def _take_blocks(self, page: BlocksPage) -> str:
        """Take in blocks that follow those of before; return what is wrong with them."""
        if page.head:
            self._refuse_forged_head(page.head)
        assert self._blocks is not None
        what = self._blocks.add(page.blocks, page.head)
        if not what:
            self._blocks_cursor = page.cursor
        return what

    @_foreign_errors_as(LogUnavailable)
    def find_label(self, project: str, patient_id: str, issuer: str) -> str | None:
        """Return the label that a patient has in this project already.

        None if the log knows no label, or one that reveals the PatientID, as after an engine that
        kept it: nobody may be sent under that again.
        """
        if not self.backend.records:
            return None
        if self.remote is not None:
            return self.remote.find_label(project, patient_id, issuer, self._deadline())
        digests = self.keyring.digest_patient(patient_id, issuer)
        labels = (self.backend.subject(project, each, self._deadline()) for each in digests)
        label = next(filter(None, labels), None)
        if label is None and self.keyring.lost:  # under a key that nobody has
            label = self._search_label(project, *normalise_identity(patient_id, issuer))
        return None if label is None or reveals(label, patient_id.strip("\0 ")) else label

    def _search_label(self, project: str, patient_id: str, issuer: str) -> str | None:
        terms = Term("original", "PatientID", (Equal(patient_id),)), _make_project_term(project)
        for entry in self.entries(self.search(Query(terms))):
            label = entry.deid.get("PatientID", ("",))[0]
            if label and list_identities(entry) == [(patient_id, issuer)]:
                return label
        return None

    @_foreign_errors_as(LogUnavailable)
    def assign_label(self, project: str, patient_id: str, issuer: str) -> str:
        """Return the label of a patient in a project: the one of before, or else the one to be.

        One that is longer than others where their first characters are another patient's label.
        """
        patient_id, issuer = normalise_identity(patient_id, issuer)
        label = self.find_label(project, patient_id, issuer)
        if label or not patient_id:
            return label or ""
        pseudonyms = self.make_pseudonyms(project, {})
        labels = (pseudonyms.label(patient_id, issuer, characters) for characters in _LABELS)
        return next(label for label in labels if self._find_first(project, label) is None)

    @_foreign_errors_as(LogUnavailable)
    def is_label_of_another(self, entry: Entry) -> bool:
        """Return whether an entry has a label that is another patient's in its project."""
        identities = set(list_identities(entry))
        for label in filter(None, entry.deid.get("PatientID", ())):
            if any(self.find_label(entry.project, *each) == label for each in identities):
                continue
            other = self._find_first(entry.project, label)
            if other is not None and not identities.intersection(list_identities(other)):
                return True
        return False

    def _find_first(self, project: str, label: str) -> Entry | None:
        """Return the oldest entry of a project with this label."""
        terms = Term("deid", "PatientID", (Equal(label),)), _make_project_term(project)
        return next(self.entries(islice(self.search(Query(terms)), 1)), None)

    @_foreign_errors_as(LogUnavailable)
    def make_pseudonyms(self, project: str, labels: Mapping[tuple[str, str], str]) -> Pseudonyms:
        """Return what makes the pseudonyms of a project. Raises LogUnavailable.

        Behind a service that holds the keys it makes no labels: see :meth:`find_label`.
        """
        if self.remote is not None:
            return Pseudonyms(project, self.remote.derive_key(project, self._deadline()), labels)
        return make_pseudonyms(project, self.find_root(project), labels)

    @_foreign_errors_as(LogUnavailable)
    def find_root(self, project: str) -> RootKey:
        """Return the root key with which a project began: its pseudonyms are made with that.

        It is that of the oldest entry; the oldest one that is left where that was lost. Raises
        LogUnavailable, also where that entry was altered.
        """
        roots = self.keyring.roots
        if not self.backend.records or (len(roots) == 1 and not self.keyring.lost):
            return roots[-1]
        first = self.search(Query((_make_project_term(project),)))
        for entry in self.entries(islice(first, 1)):
            if what := self.altered.get(entry.log_id):
                raise LogUnavailable(f"the entry {entry.log_id}: {what}", ALTERED_REMEDY)
            return self.keyring.find(entry.key) or roots[0]
        return roots[-1]

    @_foreign_errors_as(LogUnavailable)
    def outcome(self, log_id: str, destination: str) -> str | None:
        """Return what is known of an entry at this destination; None if it was never cleared there.

        ``pending``, ``uploaded``, ``partial``, ``failed`` or ``withdrawn``. Raises LogUnavailable
        if what the log holds of it was altered.
        """
        if not self.backend.records:
            return None
        copies = find_copies(self.uploads([log_id]))
        if what := self.altered.get(log_id):
            raise LogUnavailable(f"the log was altered: {log_id}: {what}", ALTERED_REMEDY)
        return next((copy.state for copy in copies if copy.destination == destination), None)

    def pending(self) -> list[Copy]:
        """Return what was cleared and has no outcome, at each destination, oldest first."""
        return [copy for copy in find_copies(self.uploads(None)) if copy.state == "pending"]

    def search(self, query: Query) -> Iterator[str]:
        """Yield the ids that match. The caller records the access: see :meth:`record_access`."""
        return self.backend.search(query, self._deadline())

    def entries(self, log_ids: Iterable[str]) -> Iterator[Entry]:
        """Yield the entries with these ids, in that order, some at a time."""
        return (entry for entry, _ in self.sealed_entries(log_ids))

    def is_whole(self, entry: Entry) -> bool:
        """Return whether an entry that was read is what was written.

        A service that holds the keys shows no other.
        """
        if self.remote is not None:
            return True
        return self.keyring.is_whole(entry) and entry.log_id not in self.altered

    def sealed_entries(self, log_ids: Iterable[str]) -> Iterator[tuple[Entry, str]]:
        """Yield the entries with these ids and their seals, ``""`` behind a service, in that order.

        One that is not what was written is yielded all the same, and named in ``altered``.
        """
        ids = iter(log_ids)
        while some := list(islice(ids, _AT_ONCE)):
            if self.remote is not None:
                yield from ((entry, "") for entry in self.backend.entries(some, self._deadline()))
            else:
                yield from self._check_each(self.backend.sealed_entries(some, self._deadline()))

    def chain(self) -> Iterator[tuple[Record, str]]:
        """Yield all records with their seals, as far as the log goes now, in its order.

        Where the last seal was damaged, or is an earlier one that somebody put there, as far as it
        goes when that record is reached. Nothing is checked. The caller records the access.
        """
        end = parse_seal(self.read_head())
        for record, seal in self.backend.chain(self._deadline()):
            found = parse_seal(seal)
            if end and found and found.n > end.n:
                now = parse_seal(self.read_head())
                if now and now.n > end.n:  # this one was written since
                    return
                end = None  # the last seal is an earlier one, put there once more
            yield record, seal

    def read_head(self) -> str:
        """Return the last seal of the log, ``""`` of an empty one.

        Raises LogUnavailable for a log of an older version, which has no such seals.
        """
        return self.backend.blocks_after(_AFTER_ALL, self._deadline()).head

    def keep_head(self) -> None:
        """Keep the newest head of the log in ``head_file``, unless it ends before the one there.

        Raises LogUnavailable then, and OSError if it can't be written.
        """
        text = self.read_head()
        self._compare_head(text)
        seal = parse_seal(text)
        if seal is None or self.head_file is None:
            return
        if not self._genesis:
            first = parse_seal(self.backend.read(0, self._deadline()).seals[0])
            if first is None or not first.genesis:
                raise LogUnavailable("the log was altered: its first record", ALTERED_REMEDY)
            self._genesis = first.genesis
        head = Head(self._genesis, seal.n, seal.link, seal.key, seal.tag, read_clock())
        self.write_head(head)

    def read_heads(self) -> list[Head]:
        """Return the heads in ``head_file``; none if there is no such file.

        Raises LogUnavailable for a file that can't be read or holds anything else.
        """
        if self.head_file is None:
            return []
        what, heads = "it holds no head", []
        try:
            lines = self.head_file.read_text(encoding="ascii", errors="replace").splitlines()
            heads = [head for line in lines if (head := parse_head(line)) is not None]
            if heads and len(heads) == len(lines):
                return heads
        except FileNotFoundError:
            return []
        except OSError as error:
            what = str(error.strerror)
        raise LogUnavailable(
            f"the newest head of the log is kept in {self.head_file}, and can't be read: {what}",
            "let the user who runs this read it, or verify the log and delete the file",
        )

    def write_head(self, head: Head) -> None:
        """Write a head to ``head_file``, unless a newer one is there. Raises OSError."""
        if self.head_file is not None and all(h.n <= head.n for h in self.read_heads()):
            put_file(self.head_file, f"{head}\n".encode("ascii"), os.replace)

    def verify(self, verification: Verification) -> Iterator[Fault]:
        """Read the whole log, and yield everything that is wrong with it."""
        for record, seal in self.chain():
            yield from verification.check(record, seal)
        yield from verification.finish()

    def uploads(self, log_ids: Iterable[str] | None) -> Iterator[UploadEvent]:
        """Yield what became of these entries, or of all, oldest first."""
        return (event for event, _ in self.sealed_uploads(log_ids))

    def sealed_uploads(self, log_ids: Iterable[str] | None) -> Iterator[tuple[UploadEvent, str]]:
        """Yield the same events with their seals, checked as entries are."""
        ids, deadline = None if log_ids is None else list(log_ids), self._deadline()
        if self.remote is not None:
            return ((event, "") for event in self.backend.uploads(ids, deadline))
        return self._check_each(self.backend.sealed_uploads(ids, deadline))

    def record_access(self, row: AccessRow) -> None:
        """Write a row of the access trail, durably, before anything is shown."""
        self.append([commit_terms(row)])

    @_foreign_errors_as(LogUnavailable)
    def tombstone(self, log_id: str) -> Tombstone | None:
        """Return what is left of an entry that was forgotten; None if it was not forgotten."""
        if self.remote is not None:
            found = self.backend.resolve(log_id, self._deadline())
            return found if isinstance(found, Tombstone) else None
        sealed = self.backend.sealed_tombstone(log_id, self._deadline())
        return next((stone for stone, _ in self._check_each([sealed])), None) if sealed else None

    @_foreign_errors_as(LogError)
    def erase(self, log_ids: Sequence[str], erasure: Erasure, seconds: float) -> None:
        """Forget entries, as ``LogBackend.erase`` says. It may take long: ``seconds`` at the most.

        Raises LogUnavailable if nothing was erased, LogError if traces may be left in the store.
        """
        self.backend.erase(log_ids, erasure, self.prepare_seals([]), Deadline(seconds))

    def trail(self) -> Iterator[tuple[AccessRow, str]]:
        """Yield the access trail with its seals, from its beginning, checked as entries are.

        The caller records that.
        """
        trail = self.backend.trail(self._deadline())
        return trail if self.remote is not None else self._check_each(trail)

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

    def prepare_seals(self, records: Sequence[Record]) -> Seal:
        """Return what seals these records within an append, and others too.

        What takes long is done now, before the store takes its lock.
        """
        leaves: dict[int, Leaf] = {}
        if self.remote is None:
            leaves = {id(record): make_leaf(record) for record in records}

        def seal(head: str, new: Sequence[Record]) -> list[str]:
            if head and self._reload_keyring(head) and any(isinstance(r, Block) for r in new):
                # They were made for the keys of before, and would not be found with the new ones.
                raise LogUnavailable(ROTATED, "run the command again")
            if head:
                self._refuse_forged_head(head)
            return self.sealer.seal(head, (leaves.get(id(r)) or make_leaf(r) for r in new))

        return seal

    def _check_each(self, found: Iterable[tuple[R, str]]) -> Iterator[tuple[R, str]]:
        """Yield records; keep in ``altered`` those that are not what their seals cover."""
        for record, seal in found:
            if what := self._find_fault(record, seal):
                self.altered[getattr(record, "log_id", "") or get_id(record)] = what
            yield record, seal

    def _is_altered(self, entry: Entry) -> bool:
        """Return whether this is not what was written under the id of the entry.

        The digest tells what an entry says, the seal under which id.
        """
        if not self.keyring.is_whole(entry):
            return True
        sealed = self.backend.sealed_entries([entry.log_id], self._deadline())
        seal = next((seal for _, seal in sealed), "")
        return bool(self._find_fault(entry, seal))

    def _find_fault(self, record: Record, seal: str) -> str:
        """Return what is wrong with a record; a log of an older version has not a seal for each."""
        what = self.sealer.find_fault(record, seal)
        return "" if what and not parse_seal(seal) and self._is_older() else what

    def _is_older(self) -> bool:
        """Return whether the log is of the version before, which has not a seal for each record."""
        if self._older is None:
            try:
                self.read_head()
            except OlderLog:
                self._refuse_downgrade()
                self._older = True
            else:
                self._older = False
        return self._older

    def _refuse_downgrade(self) -> None:
        """Raise LogUnavailable if a log that says it is older has a head.

        Version 3 is the first that has heads, and any older one has none.
        """
        if any(self.sealer.knows(head.key) for head in self.read_heads()):
            raise LogUnavailable(
                "the log was altered: it says that it is of an older version, and a head of this"
                f" version is kept in {self.head_file}",
                f"{ALTERED_REMEDY}; if that is the head of another log, delete it",
            )

    def _compare_head(self, text: str) -> None:
        """Raise LogUnavailable if the log's last seal is one from before a head that was kept."""
        if text:
            self._refuse_forged_head(text)
        seal = parse_seal(text)
        for head in self.read_heads():
            if not self.sealer.knows(head.key):
                continue
            what = ""
            if seal is None or seal.n < head.n:
                what = f"ends before record {head.n}, which it once had"
            elif not self._is_there(head, seal):
                what = f"has another record {head.n} than it once had"
            if what:
                raise LogUnavailable(
                    f"the log {what}",
                    f"{ALTERED_REMEDY}; if it was begun anew on purpose, delete {self.head_file}",
                )

    def _is_there(self, head: Head, end: ChainSeal) -> bool:
        """Return whether the log still has the record that a head names, as far as it finds it.

        Places follow one another in our stores, from 1 on; in another store verifying tells.
        """
        if end.n == head.n:
            return end.link == head.link
        page = Page((), (), head.n)
        with suppress(NotAllowed):  # who may not read can't tell
            page = self.backend.read(head.n, self._deadline())
        found = parse_seal(page.seals[0]) if page.seals else None
        return found is None or found.n != head.n or found.link == head.link

    def _reload_keyring(self, head: str) -> bool:
        """Read the keyring again where the log ends with a key that was added since; say if so."""
        seal = None if self.sealer.recall(head) else parse_seal(head)
        if seal is None or self.sealer.knows(seal.key) or self.secret_file is None:
            return False
        found = read_keyring(self.secret_file)
        if found is None or not found.extends(self.keyring):
            return False
        self.set_keyring(found)
        return True

    def set_keyring(self, keyring: Keyring) -> None:
        """Use this keyring from now on."""
        sealer = make_sealer(keyring)
        self._keyring = keyring
        self.sealer.copy_keys(sealer)

    def _refuse_forged_head(self, head: str) -> None:
        """Raise LogUnavailable unless the last seal of the log was made with our key.

        What followed a forged one would be sealed with our key, and vouch for it.
        """
        if self.sealer.recall(head):
            return
        self._reload_keyring(head)
        seal = parse_seal(head)
        if seal is not None and not self.sealer.knows(seal.key):
            raise LogUnavailable(FOREIGN, FOREIGN_REMEDY)
        what = self.sealer.find_forgery(seal) if seal else "it has no seal"
        if what:
            raise LogUnavailable(f"the log was altered: its last record: {what}", ALTERED_REMEDY)

    def _refuse_foreign(self, entry: Entry | Receipt) -> None:
        if not self.keyring.knows(entry.key):
            raise LogUnavailable(FOREIGN, FOREIGN_REMEDY)


def _make_project_term(project: str) -> Term:
    return Term("entry", "project", (Equal(project),))


def list_standing(blocks: Iterable[Block]) -> list[Block]:
    """Return the blocks that were not lifted since: the latest of each patient and project."""
    latest = {(block.patient, block.project): block for block in blocks}
    return [block for block in latest.values() if not block.lifted]


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
    keyring = read_keyring(settings.secret_file)
    if keyring is not None or isinstance(backend, RemoteBackend):
        return Log(backend, keyring, settings.deadline, settings.secret_file)
    untouched = all(settings.origins.get(key) == "default" for key in ("url", "secret_file"))
    if backend.records and not (untouched and not backend.exists()):
        raise SettingsError(
            f"There is no site secret at {settings.secret_file}, and the log needs the one it"
            " was begun with. Copy it from the machine that began the log, or begin a new log:"
            " deid-hooks init. If it was lost: deid-hooks rotate --lost"
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
    keyring = read_keyring(settings.secret_file)
    if isinstance(backend, RemoteBackend):
        remote = Log(backend, keyring, settings.deadline, settings.secret_file)
        remote.create()
        return remote
    keyring = keyring or Keyring((make_root(),))
    Log(backend, keyring, settings.deadline).create()
    kept = keep_keyring(keyring, settings.secret_file)
    return Log(backend, kept, settings.deadline, settings.secret_file)
