"""Test that what was acknowledged is there: after a kill, from other processes, from many."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from deid_hooks.backends.contract import LogBackend
from deid_hooks.deadline import Deadline
from deid_hooks.errors import AppendUnknown, LogError, LogUnavailable
from deid_hooks.query.parser import parse_terms
from deid_hooks.records.model import Entry, Erasure, UploadEvent
from deid_hooks.testing.records import chain_seals, fresh_id, make_entry
from deid_hooks.testing.stores import Conformance, Open, Writer

_KILLS = 4
_STOPS = 6


class Durability(Conformance):
    """Several processes on one store, killed and stopped."""

    def test_what_was_acknowledged_survives_the_death_of_the_process(
        self, backend: LogBackend, another: Open, url: str
    ) -> None:
        acknowledged: list[str] = []
        for kill in range(_KILLS):
            with Writer(backend, url) as writer:
                acknowledged += [writer.said() for _ in range(3 + 4 * kill)]
                time.sleep(random.uniform(0, 0.02))  # noqa: S311 - a moment, not a secret
                writer.process.send_signal(signal.SIGKILL)
                writer.process.wait()
                while late := writer.said():
                    acknowledged.append(late)
        survivor = another()
        found = {
            record.log_id: record
            for record in survivor.everything(Deadline(30))
            if isinstance(record, Entry)
        }
        for log_id in acknowledged:
            assert found[log_id] == make_entry(log_id=log_id), "an acknowledged entry is lost"
        last = make_entry()
        survivor.append([last], chain_seals, Deadline(30))
        assert survivor.resolve(last.log_id, Deadline(30)) == last

    def test_what_was_acknowledged_is_there_for_another_process_at_once(
        self, backend: LogBackend, another: Open, url: str
    ) -> None:
        reader = another()
        with Writer(backend, url) as writer:
            for _ in range(10):
                log_id = writer.said()
                assert reader.resolve(log_id, Deadline()) == make_entry(log_id=log_id)

    def test_several_processes_write_to_one_store_at_once(
        self, backend: LogBackend, url: str
    ) -> None:
        writers = [Writer(backend, url, count=15) for _ in range(4)]
        acknowledged = [log_id for writer in writers for log_id in writer.all_said()]
        assert len(acknowledged) == 60
        found = [r.log_id for r in backend.everything(Deadline(30)) if isinstance(r, Entry)]
        assert sorted(found) == sorted(acknowledged)

    def test_a_process_that_was_stopped_in_the_middle_keeps_nobody_waiting(
        self, backend: LogBackend, another: Open, url: str
    ) -> None:
        ends: dict[str, str] = {}
        for _ in range(_STOPS):
            entry = make_entry()
            with Writer(backend, url) as writer:
                writer.said()
                time.sleep(random.uniform(0, 0.01))  # noqa: S311 - a moment, not a secret
                writer.process.send_signal(signal.SIGSTOP)
                ends[entry.log_id] = _end_of(another(), entry, 0.3)
                writer.process.send_signal(signal.SIGCONT)
                writer.said()
        time.sleep(0.5)  # for what was abandoned and still comes
        _assert_as_told(another(), ends)

    def test_what_is_said_not_to_be_written_never_appears(
        self, backend: LogBackend, another: Open, url: str
    ) -> None:
        ends: dict[str, str] = {}
        with Writer(backend, url) as first, Writer(backend, url) as second:
            first.said(), second.said()
            for number in range(60):
                entry = make_entry()
                ends[entry.log_id] = _end_of(backend, entry, 0.0004 * number)
        time.sleep(0.5)
        _assert_as_told(another(), ends)

    def test_a_child_of_the_process_is_refused_and_takes_nothing_along(
        self, backend: LogBackend, url: str
    ) -> None:
        with Writer(backend, url, job="fork", count=1) as process:
            (forked, said), (after, returned) = (process.said().split() for _ in range(2))
        assert said == "ForkedProcess"
        assert backend.resolve(forked, Deadline()) is None
        assert returned == "returned"
        assert backend.resolve(after, Deadline()) == make_entry(log_id=after)

    def test_closing_lets_go_and_a_later_call_opens_the_store_again(
        self, backend: LogBackend
    ) -> None:
        entries = [make_entry(), make_entry()]
        backend.append(entries[:1], chain_seals, Deadline())
        backend.close()
        backend.close()
        backend.append(entries[1:], chain_seals, Deadline())
        assert list(backend.everything(Deadline())) == entries
        assert backend.resolve(fresh_id(), Deadline()) is None


def _end_of(backend: LogBackend, entry: Entry, seconds: float) -> str:
    try:
        backend.append([entry], chain_seals, Deadline(seconds))
    except LogUnavailable:
        return "nothing"
    except AppendUnknown:
        return "unknown"
    return "returned"


def _assert_as_told(backend: LogBackend, ends: dict[str, str]) -> None:
    found = {r.log_id for r in backend.everything(Deadline(30)) if isinstance(r, Entry)}
    for log_id, end in ends.items():
        if end == "returned":
            assert log_id in found, "an acknowledged entry is lost"
        if end == "nothing":
            assert log_id not in found, "LogUnavailable, and yet it was written"


_CANARY = "Zyxwvut^Canary"

_CALLS: dict[str, Callable[[LogBackend], object]] = {
    "check": lambda backend: backend.check(Deadline()),
    "append": lambda backend: backend.append([make_entry()], chain_seals, Deadline()),
    "read": lambda backend: backend.read(0, Deadline()),
    "resolve": lambda backend: backend.resolve(fresh_id(), Deadline()),
    "entries": lambda backend: list(backend.entries([fresh_id()], Deadline())),
    "search": lambda backend: list(backend.search(parse_terms(["PatientID=1"]), Deadline())),
    "with_digest": lambda backend: backend.with_digest("d", Deadline()),
    "uploads": lambda backend: list(backend.uploads(None, Deadline())),
    "blocks": lambda backend: list(backend.blocks(["p"], Deadline())),
    "subject": lambda backend: backend.subject("TRIAL7", "p", Deadline()),
    "trail": lambda backend: list(backend.trail(Deadline())),
    "statistics": lambda backend: backend.statistics(Deadline()),
    "erase": lambda backend: backend.erase(
        [fresh_id()], Erasure("t", "w", "y"), chain_seals, Deadline()
    ),
}


class Failing(Conformance):
    """Errors and deadlines."""

    @pytest.mark.parametrize("call", _CALLS.values(), ids=_CALLS.keys())
    def test_a_store_that_was_never_made_is_unavailable(
        self, unmade: Open, call: Callable[[LogBackend], object]
    ) -> None:
        with pytest.raises(LogUnavailable):
            call(unmade())

    def test_a_store_that_was_never_made_is_not_made_by_the_way(self, unmade: Open) -> None:
        with pytest.raises(LogUnavailable):
            unmade().append([make_entry()], chain_seals, Deadline())
        with pytest.raises(LogUnavailable):
            unmade().check(Deadline())

    def test_an_error_quotes_no_value(self, backend: LogBackend) -> None:
        entry = make_entry(
            fields={"PatientName": (_CANARY,)}, originals=_CANARY, deid={}, project=_CANARY
        )
        backend.append([entry], chain_seals, Deadline())
        with pytest.raises(LogError) as caught:
            backend.append([replace(entry, timestamp=_CANARY)], chain_seals, Deadline())
        assert _CANARY not in f"{caught.value} {caught.value!r} {caught.value.__cause__}"
        assert caught.value.__suppress_context__ or caught.value.__context__ is None

    @pytest.mark.parametrize("seconds", [0.0, 0.001])
    def test_a_deadline_that_has_passed_is_answered_all_the_same(
        self, backend: LogBackend, seconds: float
    ) -> None:
        entry = make_entry()
        ended = "returned"
        try:
            backend.append([entry], chain_seals, Deadline(seconds))
        except LogUnavailable:
            ended = "nothing"
        except AppendUnknown:
            ended = "unknown"
        found = backend.resolve(entry.log_id, Deadline())
        assert found == {"returned": entry, "nothing": None, "unknown": found}[ended]
        backend.append([entry], chain_seals, Deadline())
        assert backend.resolve(entry.log_id, Deadline()) == entry

    def test_the_store_answers_again_after_a_call_that_failed(self, backend: LogBackend) -> None:
        entry = make_entry()
        backend.append([entry], chain_seals, Deadline())
        for _ in range(3):
            with pytest.raises(LogError):
                backend.append([replace(entry, project="other")], chain_seals, Deadline())
        event = UploadEvent(entry.log_id, "t", "uploaded", "folder:/x", "sender/1")
        backend.append([event], chain_seals, Deadline())
        assert list(backend.everything(Deadline())) == [entry, event]
