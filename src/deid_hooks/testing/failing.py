"""What goes wrong is said in the words of the log, in time, and without a value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from deid_hooks.backend import LogBackend
from deid_hooks.deadline import Deadline
from deid_hooks.entry import Erasure, UploadEvent
from deid_hooks.errors import AppendUnknown, LogError, LogUnavailable
from deid_hooks.matching import parse
from deid_hooks.testing.records import fresh_id, make_entry
from deid_hooks.testing.stores import Conformance, Open

_CANARY = "Zyxwvut^Canary"

_CALLS: dict[str, Callable[[LogBackend], object]] = {
    "check": lambda backend: backend.check(Deadline()),
    "append": lambda backend: backend.append([make_entry()], Deadline()),
    "read": lambda backend: backend.read(0, Deadline()),
    "resolve": lambda backend: backend.resolve(fresh_id(), Deadline()),
    "entries": lambda backend: list(backend.entries([fresh_id()], Deadline())),
    "search": lambda backend: list(backend.search(parse(["PatientID=1"]), Deadline())),
    "with_digest": lambda backend: backend.with_digest("d", Deadline()),
    "uploads": lambda backend: list(backend.uploads(None, Deadline())),
    "blocks": lambda backend: list(backend.blocks(["p"], Deadline())),
    "subject": lambda backend: backend.subject("TRIAL7", "p", Deadline()),
    "trail_head": lambda backend: backend.trail_head(Deadline()),
    "erase": lambda backend: backend.erase([fresh_id()], Erasure("t", "w", "y"), Deadline()),
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
            unmade().append([make_entry()], Deadline())
        with pytest.raises(LogUnavailable):
            unmade().check(Deadline())

    def test_an_error_quotes_no_value(self, backend: LogBackend) -> None:
        entry = make_entry(
            fields={"PatientName": (_CANARY,)}, originals=_CANARY, deid={}, project=_CANARY
        )
        backend.append([entry], Deadline())
        with pytest.raises(LogError) as caught:
            backend.append([replace(entry, timestamp=_CANARY)], Deadline())
        assert _CANARY not in f"{caught.value} {caught.value!r} {caught.value.__cause__}"
        assert caught.value.__suppress_context__ or caught.value.__context__ is None

    @pytest.mark.parametrize("seconds", [0.0, 0.001])
    def test_a_deadline_that_has_passed_is_answered_all_the_same(
        self, backend: LogBackend, seconds: float
    ) -> None:
        entry = make_entry()
        ended = "returned"
        try:
            backend.append([entry], Deadline(seconds))
        except LogUnavailable:
            ended = "nothing"
        except AppendUnknown:
            ended = "unknown"
        found = backend.resolve(entry.log_id, Deadline())
        assert found == {"returned": entry, "nothing": None, "unknown": found}[ended]
        backend.append([entry], Deadline())
        assert backend.resolve(entry.log_id, Deadline()) == entry

    def test_the_store_answers_again_after_a_call_that_failed(self, backend: LogBackend) -> None:
        entry = make_entry()
        backend.append([entry], Deadline())
        for _ in range(3):
            with pytest.raises(LogError):
                backend.append([replace(entry, project="other")], Deadline())
        event = UploadEvent(entry.log_id, "t", "uploaded", "folder:/x", "sender/1")
        backend.append([event], Deadline())
        assert list(backend.everything(Deadline())) == [entry, event]
