"""The order is the store's, and a cursor never skips a record that becomes visible later."""

from __future__ import annotations

import random
import threading

from deid_hooks.backend import LogBackend
from deid_hooks.deadline import Deadline
from deid_hooks.entry import Record, UploadEvent
from deid_hooks.testing.records import make_entry
from deid_hooks.testing.stores import Conformance, Open, Writer

_WRITERS = 4
_APPENDS = 12


class Ordering(Conformance):
    """Order and cursors, also while others write."""

    def test_records_come_in_the_order_in_which_they_were_written(
        self, backend: LogBackend, another: Open
    ) -> None:
        records: list[Record] = []
        other = another()
        for number in range(20):
            entry = make_entry()
            event = UploadEvent(entry.log_id, "t", "cleared", "folder:/x", "sender/1")
            (other if number % 3 else backend).append([event, entry], Deadline())
            records += [event, entry]
        assert list(backend.everything(Deadline())) == records
        assert list(other.everything(Deadline())) == records

    def test_a_cursor_goes_on_where_it_stopped(self, backend: LogBackend) -> None:
        first, second = make_entry(), make_entry()
        backend.append([first], Deadline())
        page = backend.read(0, Deadline())
        assert page.records == (first,)
        assert backend.read(page.cursor, Deadline()).records == ()
        backend.append([second], Deadline())
        assert backend.read(page.cursor, Deadline()).records == (second,)
        assert backend.read(0, Deadline()).records == (first, second)

    def test_a_reader_that_follows_several_writers_misses_nothing(
        self, backend: LogBackend, another: Open, url: str
    ) -> None:
        writers = [
            threading.Thread(target=_write, args=(backend if n % 2 else another(), n))
            for n in range(_WRITERS)
        ]
        followed: list[Record] = []
        cursor = 0
        with Writer(backend, url, count=_APPENDS) as elsewhere:
            for writer in writers:
                writer.start()
            ended = False
            while not ended:
                ended = not any(writer.is_alive() for writer in writers)
                if ended:
                    written_elsewhere = elsewhere.all_said()
                while (page := backend.read(cursor, Deadline())).records:
                    followed += page.records
                    cursor = page.cursor
        assert followed == list(another().everything(Deadline()))
        ids = {record.log_id for record in followed if hasattr(record, "log_id")}
        assert len(followed) == len(ids) == (_WRITERS + 1) * _APPENDS
        assert ids >= set(written_elsewhere)


def _write(backend: LogBackend, seed: int) -> None:
    random_ = random.Random(seed)  # noqa: S311 - sizes, not secrets
    for _ in range(_APPENDS):
        backend.append([make_entry(originals="x" * random_.choice((1, 100_000)))], Deadline(30))
