"""Requests that come at once share a transaction, and each gets the answer that is its own."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deid_hooks.backends.contract import Seal
from deid_hooks.backends.sqlite import SQLiteBackend
from deid_hooks.deadline import Deadline
from deid_hooks.errors import AppendUnknown, IdConflict, LogUnavailable
from deid_hooks.log import Log
from deid_hooks.records.keys import Keyring, RootKey, key_entry
from deid_hooks.records.model import Entry, Erasure, Record
from deid_hooks.testing.records import make_entry
from deid_hooks_service.committer import Committer
from deid_hooks_service.flywheel import make_records

KEYRING = Keyring((RootKey(bytes(32)),))


class Store(SQLiteBackend):
    """The default store; ``before`` and ``after`` may fail its transactions, which it counts."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.transactions: list[int] = []
        self.before: Callable[[], None] = lambda: None
        self.after: Callable[[], None] = lambda: None

    def append(self, records: Sequence[Record], seal: Seal, deadline: Deadline) -> None:
        self.transactions.append(len(records))
        self.before()
        super().append(records, seal, deadline)
        self.after()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(f"sqlite:///{tmp_path}/log.db")
    made.create(Deadline())
    yield made
    made.close()


Writes = Callable[[Committer], Coroutine[Any, Any, Any]]


def run(store: Store, writes: Writes, seconds: float = 5) -> Any:
    """What the writes come to, on a committer of their own."""

    async def within() -> Any:
        committer = Committer(Log(store, KEYRING, seconds))
        try:
            return await writes(committer)
        finally:
            committer.stop(5)

    return asyncio.run(within())


def at_once(*batches: Sequence[Record], reuse: bool = False, seconds: float = 5) -> Writes:
    async def writes(committer: Committer) -> list[Any]:
        waiting = [committer.write(b, Deadline(seconds), reuse=reuse) for b in batches]
        return await asyncio.gather(*waiting, return_exceptions=True)

    return writes


def everything(store: Store) -> list[Record]:
    return list(store.everything(Deadline()))


def test_what_comes_at_once_shares_transactions(store: Store) -> None:
    entries = [make_entry() for _ in range(64)]
    answers = run(store, at_once(*[[entry] for entry in entries]))
    assert answers == [[entry.log_id] for entry in entries]
    assert len(store.transactions) < 10
    assert everything(store) == entries


def test_one_bad_entry_fails_no_other(store: Store) -> None:
    known = make_entry()
    Log(store, KEYRING).append([known])
    good = [make_entry() for _ in range(10)]
    bad = replace(known, project="other")
    answers = run(store, at_once(*[[entry] for entry in good[:5]], [bad], *[[e] for e in good[5:]]))
    assert isinstance(answers.pop(5), IdConflict)
    assert answers == [[entry.log_id] for entry in good]
    assert everything(store) == [known, *good]


@pytest.mark.parametrize(
    "error", [LogUnavailable("full"), AppendUnknown("lost"), ZeroDivisionError()]
)
def test_a_transaction_that_failed_fails_each_of_its_requests(
    store: Store, error: Exception
) -> None:
    def fail() -> None:
        raise error

    store.before = fail
    answers = run(store, at_once(*[[make_entry()] for _ in range(5)]))
    kind = type(error) if not isinstance(error, ZeroDivisionError) else AppendUnknown
    assert [type(answer) for answer in answers] == [kind] * 5
    assert everything(store) == []


def test_an_entry_that_is_sent_again_after_a_rotation_is_the_same(store: Store) -> None:
    new = RootKey(b"n" * 32)
    plain = make_entry(digest="", key="")
    before, after = (key_entry(plain, [("4711", "")], root) for root in (KEYRING.newest, new))
    Log(store, KEYRING).append([before])

    async def writes(committer: Committer) -> list[str]:
        committer._log.set_keyring(Keyring((*KEYRING.keys, new)))
        return await committer.write([after], Deadline(), checks=True)

    assert run(store, writes) == [plain.log_id]
    assert everything(store) == [before]


def packfile(patient: str = "4711") -> tuple[Record, ...]:
    return make_records({"indexed_fields": {"PatientID": patient}}, "", "alice", KEYRING.newest)


def test_after_a_lost_reply_a_retry_is_the_same_entry_whenever_it_appears(store: Store) -> None:
    first = packfile()

    async def writes(committer: Committer) -> list[str]:
        def lose() -> None:
            raise AppendUnknown("lost")

        store.before = lose  # nothing is there yet when the retry comes; it may come any time
        with pytest.raises(AppendUnknown):
            await committer.write(first, Deadline(), reuse=True)
        store.before = lambda: None
        return await committer.write(packfile(), Deadline(), reuse=True)

    [entry, _] = first
    assert isinstance(entry, Entry)
    assert run(store, writes) == [entry.log_id]


def test_what_was_in_doubt_and_then_forgotten_is_logged_anew(store: Store) -> None:
    first = packfile()
    assert isinstance(first[0], Entry)
    log_id = first[0].log_id

    async def writes(committer: Committer) -> list[str]:
        def lose() -> None:
            raise AppendUnknown("lost")

        store.after = lose  # it is there, and the post was told that nobody knows
        with pytest.raises(AppendUnknown):
            await committer.write(first, Deadline(), reuse=True)
        store.after = lambda: None
        Log(store, KEYRING).erase([log_id], Erasure("2026-01-01", "alice", "asked to"), 30)
        return await committer.write(packfile(), Deadline(), reuse=True)

    assert run(store, writes) != [log_id]
    assert len([record for record in everything(store) if isinstance(record, Entry)]) == 1


def test_posts_of_one_content_at_once_are_one_entry(store: Store) -> None:
    answers = run(store, at_once(*[packfile() for _ in range(20)], reuse=True))
    assert len({log_id for [log_id] in answers}) == 1
    assert len([record for record in everything(store) if isinstance(record, Entry)]) == 1


def test_an_entry_that_the_store_can_not_take_fails_no_other(store: Store) -> None:
    good, large = [make_entry() for _ in range(6)], make_entry(originals="x" * 2000)

    def append(records: Sequence[Record], seal: Seal, deadline: Deadline) -> None:
        if large in records:
            raise LogUnavailable("a value is too large for the log")
        SQLiteBackend.append(store, records, seal, deadline)

    store.append = append  # type: ignore[method-assign]
    answers = run(store, at_once(*[[entry] for entry in (*good[:3], large, *good[3:])]))
    assert isinstance(answers.pop(3), LogUnavailable)
    assert answers == [[entry.log_id] for entry in good]
    assert everything(store) == good


def test_an_entry_that_was_altered_in_the_store_fails_its_own_posts_only(
    store: Store, tmp_path: Path
) -> None:
    async def writes(committer: Committer) -> list[Any]:
        await committer.write(packfile(), Deadline(), reuse=True)
        with sqlite3.connect(tmp_path / "log.db") as plain:
            plain.execute("UPDATE deid_log SET PatientID = '4712'")
        posts = [packfile(), packfile(), *[packfile(str(number)) for number in range(5)]]
        answers: list[Any] = await at_once(*posts, reuse=True)(committer)
        return answers

    *altered, one, two, three, four, five = run(store, writes)
    assert [str(error).split(": ")[-1] for error in altered] == [
        "it was altered in the store. Restore the log from a backup."
    ] * 2
    assert len({log_id for [log_id] in (one, two, three, four, five)}) == 5


def test_a_store_that_hangs_keeps_nobody_waiting(store: Store) -> None:
    goes_on = threading.Event()

    def hang() -> None:
        goes_on.wait(10)

    store.before = hang

    async def writes(committer: Committer) -> tuple[Any, Any]:
        taken = asyncio.create_task(committer.write([make_entry()], Deadline(0.5)))
        await asyncio.sleep(0.1)
        waits = asyncio.create_task(committer.write([make_entry()], Deadline(0.2)))
        answers = await asyncio.gather(taken, waits, return_exceptions=True)
        goes_on.set()
        return answers[0], answers[1]

    begun, waited = run(store, writes)
    assert isinstance(begun, AppendUnknown)
    assert isinstance(waited, LogUnavailable)
    assert len(everything(store)) == 1, "what was given up before it began is not written"


def test_what_was_accepted_is_finished_before_the_end(store: Store) -> None:
    async def writes(committer: Committer) -> list[Any]:
        tasks = [
            asyncio.create_task(committer.write([make_entry()], Deadline())) for _ in range(50)
        ]
        await asyncio.sleep(0)
        await asyncio.to_thread(committer.stop, 10)
        return await asyncio.gather(*tasks)

    assert len(run(store, writes)) == 50
    assert len(everything(store)) == 50
