"""Backends that break one rule each, in a few lines, to see that the kit notices.

Most are the default store with one method spoilt. Each names the tests of the kit that must fail.
"""

from __future__ import annotations

import fcntl
import pickle
import random
import sqlite3
import threading
import time
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from deid_hooks.backends.contract import LogBackend, Page, Seal, get_key
from deid_hooks.backends.sqlite import SQLiteBackend
from deid_hooks.deadline import Deadline, NoAnswer, call_within
from deid_hooks.errors import (
    Forgotten,
    IdConflict,
    LogError,
    LogUnavailable,
)
from deid_hooks.query.conditions import Query, collect_values
from deid_hooks.records.model import AccessRow, Entry, Erased, Erasure, Record, Tombstone

MUST_FAIL: dict[type[LogBackend], tuple[str, ...]] = {}


def must_fail(*tests: str) -> Any:
    def remember(kind: type[LogBackend]) -> type[LogBackend]:
        MUST_FAIL[kind] = tests
        return kind

    return remember


class Sqlite(SQLiteBackend):
    def connection(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, isolation_level=None, timeout=10)


@must_fail("test_an_entry_that_is_repeated_stands_once_and_the_others_are_written")
class LosesOnDuplicate(Sqlite):
    def append(self, records: Sequence[Record], seal: Seal, deadline: Deadline) -> None:
        for record in records:
            if isinstance(record, Entry) and self.resolve(record.log_id, deadline) == record:
                return
        super().append(records, seal, deadline)


@must_fail(
    "test_nothing_of_an_append_is_written_if_one_of_it_is_a_conflict",
    "test_nothing_is_written_if_the_log_gives_no_seals",
    "test_two_of_one_id_in_one_append_are_a_conflict_if_they_differ",
)
class NotAtomic(Sqlite):
    def append(self, records: Sequence[Record], seal: Seal, deadline: Deadline) -> None:
        for record in records:
            super().append([record], seal, deadline)


@must_fail(
    "test_records_come_in_the_order_in_which_they_were_written",
    "test_whatever_was_written_is_read_as_it_was",
)
class WrongOrder(Sqlite):
    def read(self, after: int, deadline: Deadline) -> Page:
        page = super().read(after, deadline)
        return replace(page, records=tuple(sorted(page.records, key=repr)))


@must_fail(
    "test_a_store_that_was_never_made_is_unavailable[append]",
    "test_other_content_under_a_known_id_is_a_conflict_whatever_its_digest[project]",
    "test_a_child_of_the_process_is_refused_and_takes_nothing_along",
)
class SwallowsErrors(Sqlite):
    def append(self, records: Sequence[Record], seal: Seal, deadline: Deadline) -> None:
        with suppress(LogError):
            super().append(records, seal, deadline)


@must_fail("test_values_of_megabytes_are_kept_whole")
class Truncates(Sqlite):
    def append(self, records: Sequence[Record], seal: Seal, deadline: Deadline) -> None:
        cut = [
            replace(r, originals=r.originals[:65_535]) if isinstance(r, Entry) else r
            for r in records
        ]
        super().append(cut, seal, deadline)


@must_fail("test_another_backend_reads_the_same")
class MangleCharacters(Sqlite):
    def append(self, records: Sequence[Record], seal: Seal, deadline: Deadline) -> None:
        super().append([self._mangled(record) for record in records], seal, deadline)

    def _mangled(self, record: Record) -> Record:
        if not isinstance(record, Entry):
            return record
        plain = record.originals.encode("utf-8", "replace").decode()
        return replace(record, originals=unicodedata.normalize("NFC", plain))


@must_fail("test_a_name_is_found_in_any_case_and_order[Doe^John-PatientName=doe^john]")
class MatchesNamesWithCase(Sqlite):
    def search(self, query: Query, deadline: Deadline) -> Iterator[str]:
        for entry in self.entries(super().search(query, deadline), deadline):
            wanted = {getattr(c, "value", None) for term in query.terms for c in term.conditions}
            found = {value for term in query.terms for value in collect_values(term, entry)}
            if wanted & found:
                yield entry.log_id


@must_fail(
    "test_what_is_read_is_not_remembered_from_before",
    "test_what_was_acknowledged_is_there_for_another_process_at_once",
    "test_another_backend_reads_the_same",
)
class ForgetsOnReopen(Sqlite):
    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._kept: list[Record] = []

    def append(self, records: Sequence[Record], seal: Seal, deadline: Deadline) -> None:
        self.check(deadline)
        self._kept += records

    def read(self, after: int, deadline: Deadline) -> Page:
        super().read(0, deadline)
        found = tuple(self._kept[after : after + 50])
        return Page(found, ("",) * len(found), after + len(found))

    resolve = LogBackend.resolve  # type: ignore[assignment]
    search = LogBackend.search

    def close(self) -> None:
        self._kept.clear()
        super().close()


@must_fail(
    "test_a_store_that_was_never_made_is_unavailable[read]",
    "test_a_store_that_was_never_made_is_unavailable[resolve]",
)
class LeaksADriverException(Sqlite):
    def read(self, after: int, deadline: Deadline) -> Page:
        self.connection().execute("SELECT 1 FROM deid_log").fetchone()
        return super().read(after, deadline)

    resolve = LogBackend.resolve  # type: ignore[assignment]


@must_fail("test_a_process_that_was_stopped_in_the_middle_keeps_nobody_waiting")
class Hangs(Sqlite):
    def append(self, records: Sequence[Record], seal: Seal, deadline: Deadline) -> None:
        lock = Path(f"{self._path}.lock")
        with lock.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            super().append(records, seal, deadline)


@must_fail(
    "test_what_was_acknowledged_survives_the_death_of_the_process",
    "test_what_is_read_is_not_remembered_from_before",
)
class AcknowledgesBeforeCommit(Sqlite):
    def append(self, records: Sequence[Record], seal: Seal, deadline: Deadline) -> None:
        self.check(deadline)
        later = super().append

        def write() -> None:
            time.sleep(0.05)
            with suppress(LogError):
                later(records, seal, Deadline())

        threading.Thread(target=write).start()


@must_fail("test_a_tombstone_takes_the_place_of_an_entry")
class ReadsBackFromACache(Sqlite):
    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._cache: dict[str, Any] = {}

    def resolve(self, log_id: str, deadline: Deadline) -> Any:
        if log_id not in self._cache:
            found = super().resolve(log_id, deadline)
            if found is None:
                return None
            self._cache[log_id] = found
        return self._cache[log_id]


@must_fail("test_other_content_under_a_known_id_is_a_conflict_whatever_its_digest[fields0]")
class IgnoresAnIdConflict(Sqlite):
    def append(self, records: Sequence[Record], seal: Seal, deadline: Deadline) -> None:
        with suppress(IdConflict):
            super().append(records, seal, deadline)


@must_fail(
    "test_an_erased_entry_never_comes_back",
    "test_an_entry_with_a_tombstone_from_elsewhere_is_forgotten",
)
class ResurrectsAForgottenId(Sqlite):
    def append(self, records: Sequence[Record], seal: Seal, deadline: Deadline) -> None:
        try:
            super().append(records, seal, deadline)
        except Forgotten as error:
            connection = self.connection()
            connection.execute("DELETE FROM deid_log_tombstone WHERE id = ?", (error.log_id,))
            connection.close()
            super().append(records, seal, deadline)


@must_fail(
    "test_what_is_said_not_to_be_written_never_appears",
)
class ReportsAnUnknownCommitAsNothing(Sqlite):
    def append(self, records: Sequence[Record], seal: Seal, deadline: Deadline) -> None:
        write = super().append
        try:
            call_within(deadline, lambda: write(records, seal, Deadline()))
        except NoAnswer:
            raise LogUnavailable("the log gave no answer in time") from None


@must_fail(
    "test_the_log_is_asked_for_seals_once_with_the_last_one_and_what_is_new",
    "test_many_that_append_at_once_leave_one_chain",
)
class AsksForSealsBeforeItHoldsItsOrder(Sqlite):
    def append(self, records: Sequence[Record], seal: Seal, deadline: Deadline) -> None:
        head = ["", *(seal for _, seal in self.chain(deadline))][-1]
        time.sleep(0.02)  # for another to append meanwhile
        seals = dict(zip(map(get_key, records), seal(head, records), strict=True))
        super().append(records, lambda _, new: [seals[get_key(r)] for r in new], deadline)


@must_fail("test_each_record_is_read_with_the_seal_that_the_log_gave_it")
class KeepsSealsOfAccessRowsOnly(Sqlite):
    def read(self, after: int, deadline: Deadline) -> Page:
        page = super().read(after, deadline)
        pairs = zip(page.records, page.seals, strict=True)
        seals = (seal if isinstance(record, AccessRow) else "" for record, seal in pairs)
        return replace(page, seals=tuple(seals))


@must_fail("test_what_was_asked_about_an_erased_entry_is_erased_from_the_trail")
class KeepsWhatWasAskedAboutTheForgotten(Sqlite):
    def erase(
        self, log_ids: Sequence[str], erasure: Erasure, seal: Seal, deadline: Deadline
    ) -> None:
        rows = list(self.trail(deadline))
        super().erase(log_ids, erasure, seal, deadline)
        connection = self.connection()
        for row, _ in rows:
            restored = (row.asked, row.reason, row.salt, row.id)
            connection.execute(
                "UPDATE deid_log_access SET asked = ?, reason = ?, salt = ? WHERE id = ?", restored
            )
        connection.close()


@must_fail(
    "test_of_an_erased_entry_the_seal_stays_and_the_tombstone_is_sealed",
    "test_what_was_read_before_is_not_read_again_and_the_tombstone_comes_last",
)
class ForgetsTheSealOfWhatWasErased(Sqlite):
    def read(self, after: int, deadline: Deadline) -> Page:
        page = super().read(after, deadline)
        pairs = zip(page.records, page.seals, strict=True)
        left = [(record, seal) for record, seal in pairs if not isinstance(record, Erased)]
        return replace(page, records=tuple(r for r, _ in left), seals=tuple(s for _, s in left))


@must_fail("test_of_an_erased_entry_the_seal_stays_and_the_tombstone_is_sealed")
class KeepsTheSaltOfWhatWasErased(Sqlite):
    def erase(
        self, log_ids: Sequence[str], erasure: Erasure, seal: Seal, deadline: Deadline
    ) -> None:
        connection = self.connection()
        kept = connection.execute("SELECT seal, seq FROM deid_log_chain").fetchall()
        super().erase(log_ids, erasure, seal, deadline)
        connection.executemany("UPDATE deid_log_chain SET seal = ? WHERE seq = ?", kept)
        connection.commit()
        connection.close()


@must_fail("test_of_an_erased_entry_the_seal_stays_and_the_tombstone_is_sealed")
class SealsNoTombstone(Sqlite):
    def erase(
        self, log_ids: Sequence[str], erasure: Erasure, seal: Seal, deadline: Deadline
    ) -> None:
        super().erase(log_ids, erasure, lambda head, new: [""] * len(new), deadline)


@must_fail("test_the_label_of_a_patient_is_that_of_the_oldest_entry_which_has_one")
class GivesTheLatestLabel(Sqlite):
    def subject(self, project: str, patient: str, deadline: Deadline) -> str | None:
        connection = self.connection()
        row = connection.execute(
            "SELECT deid_PatientID FROM deid_log WHERE patients = ? AND deid_PatientID != ''"
            " ORDER BY seq DESC",
            (patient,),
        ).fetchone()
        connection.close()
        return row[0] if row else None


@must_fail("test_a_reader_that_follows_several_writers_misses_nothing")
class SkipsLateCommits(LogBackend):
    """A folder of files: numbers are drawn in one order and become visible in another."""

    @property
    def _folder(self) -> Path:
        return Path(self.url.partition("://")[2])

    def create(self, deadline: Deadline) -> None:
        self._folder.mkdir(exist_ok=True)

    def check(self, deadline: Deadline) -> None:
        self.read(0, deadline)

    def append(self, records: Sequence[Record], seal: Seal, deadline: Deadline) -> None:
        for record in records:
            with (self._folder / "numbers").open("a+b") as numbers:
                fcntl.flock(numbers, fcntl.LOCK_EX)
                numbers.write(b".")
                number = numbers.tell()
            time.sleep(random.uniform(0, 0.02))
            draft = self._folder / f"{number}.draft"
            draft.write_bytes(pickle.dumps(record))
            draft.rename(self._folder / f"{number:08}.record")

    def read(self, after: int, deadline: Deadline) -> Page:
        if not self._folder.is_dir():
            raise LogUnavailable("there is no log")
        paths = sorted(self._folder.glob("*.record"))
        records = [(int(path.stem), path) for path in paths if int(path.stem) > after]
        found = tuple(pickle.loads(path.read_bytes()) for _, path in records)
        return Page(found, ("",) * len(found), records[-1][0] if records else after)

    def erase(
        self, log_ids: Sequence[str], erasure: Erasure, seal: Seal, deadline: Deadline
    ) -> None:
        self.append([Tombstone(log_id, "", (), erasure) for log_id in log_ids], seal, deadline)

    def close(self) -> None:
        return None
