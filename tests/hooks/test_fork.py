"""In a forked child everything refuses with that cause; the parent goes on."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from deid_hooks import Acquisition, DeidHooks, PostUpload, hookimpl
from tests.hooks.memory import Store
from tests.hooks.series import fill, logged, series

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")

FORKED = "the log was opened before this process was forked. Load DeidHooks in the process"


def in_a_child(function: Callable[[], object]) -> str:
    """Call ``function`` in a forked child, and return its result or its error as text."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:  # nothing of pytest may run in here
        try:
            message = str(function())
        except BaseException as error:
            message = f"{type(error).__name__}: {error}"
        os.write(write, message.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        message = pipe.read()
    os.waitpid(child, 0)
    return message


def acquisition_of(hooks: DeidHooks) -> Acquisition:
    acquisition = hooks.acquisition()
    fill(acquisition, series())
    return acquisition


def test_everything_refuses_in_a_forked_child(hooks: DeidHooks, store: Store) -> None:
    opened_before = acquisition_of(hooks)
    log_id, _ = logged(hooks)
    attempts: dict[Callable[[], object], str] = {
        hooks.check: "ForkedProcess: ",
        hooks.init: "ForkedProcess: ",
        hooks.acquisition: "ForkedProcess: ",
        lambda: hooks.pseudonyms("P"): "ForkedProcess: ",
        lambda: hooks.outcome(log_id, "folder:/out"): "ForkedProcess: ",
        opened_before.post_deid: "UnableToLog: Unable to log de-identified data: ",
        hooks.uploading(log_id, "folder:/out").__enter__: "UploadRefused: Unable to resolve de-id",
    }
    for attempt, opening in attempts.items():
        message = in_a_child(attempt)
        assert message.startswith(opening)
        assert FORKED.lower() in message.lower()
    assert opened_before.post_deid() in {entry.log_id for entry in store.entries}


def test_hooks_that_were_never_used_refuse_too(store: Store) -> None:
    unused = DeidHooks.load(url="kept:site")
    assert in_a_child(unused.check).startswith("ForkedProcess")


def test_without_a_log_a_forked_child_is_refused_too() -> None:
    hooks = DeidHooks.load(url="none:")
    log_id, _ = logged(hooks)
    message = in_a_child(hooks.uploading(log_id, "folder:/out").__enter__)
    assert message.startswith("UploadRefused")
    assert FORKED in message


def test_a_child_does_not_close_its_parents_log(hooks: DeidHooks, store: Store) -> None:
    def close() -> int:
        hooks.close()
        return store.closed

    assert in_a_child(close) == "0"
    hooks.close()
    assert store.closed == 1


def test_a_child_that_leaves_its_parents_upload_calls_no_plugin(
    hooks: DeidHooks, store: Store
) -> None:
    received = []

    class Collects:
        @hookimpl
        def post_upload(self, event: PostUpload) -> None:
            received.append(event.outcome)

    hooks.register(Collects(), "collects")
    log_id, _ = logged(hooks)
    with hooks.uploading(log_id, "folder:/out") as upload:

        def leave() -> object:
            upload.sent_all()
            upload.__exit__(None, None, None)
            return received, [event.event for event in store.events]

        assert in_a_child(leave) == "([], ['cleared'])"
        upload.sent_all()
    assert received == ["uploaded"]


def test_a_child_that_loads_its_own_hooks_works(hooks: DeidHooks) -> None:
    def load_and_check() -> str:
        with DeidHooks.load(url="kept:site") as own:
            own.check()
            return logged(own)[0]

    assert len(in_a_child(load_and_check)) == 32
