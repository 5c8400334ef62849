"""Stores for the parts of the kit: a fresh one, and several ways into it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import IO, Any, cast

import pytest
from hypothesis import HealthCheck, settings

from deid_hooks.backends.contract import LogBackend
from deid_hooks.deadline import Deadline, NoAnswer, call_within
from deid_hooks.errors import LogError
from deid_hooks.log import make_backend

GRACE = 3.0
"""Seconds after its deadline in which an answer still counts: machines that test are busy."""

Open = Callable[[], LogBackend]

many = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.differing_executors,
    ],
)
"""For properties: examples share a store, each adds to it."""


class Conformance:
    """Fixtures of the kit."""

    def skip_if_store_seals(self, backend: LogBackend) -> None:
        """Skip a test of the seals that the caller gives: a service gives its own."""
        if backend.seals:
            pytest.skip("the service behind this store gives the seals")

    @pytest.fixture
    def url(self) -> str:
        """The URL of a store that does not exist yet. Override it."""
        raise NotImplementedError("Give your conformance test a fixture `url`.")

    def backend_of(self, url: str) -> LogBackend:
        """Return the backend under test, found by its entry point as the settings find it."""
        return make_backend(url)

    @pytest.fixture
    def unmade(self, url: str) -> Iterator[Open]:
        """Makes backends on a store that nobody created."""
        made: list[LogBackend] = []

        def make() -> LogBackend:
            made.append(self.backend_of(url))
            return timely(made[-1])

        yield make
        for backend in made:
            backend.close()

    @pytest.fixture
    def another(self, unmade: Open) -> Open:
        """Makes backends on one store, as other processes would have them."""
        unmade().create(Deadline())
        return unmade

    @pytest.fixture
    def backend(self, another: Open) -> LogBackend:
        """A backend on an empty store."""
        return another()


def timely(backend: LogBackend) -> LogBackend:
    """Make every call of ``backend`` keep its deadline and raise nothing but LogError."""
    return cast(LogBackend, _Timely(backend))


class _Timely:
    def __init__(self, backend: LogBackend) -> None:
        self.backend = backend

    def __getattr__(self, name: str) -> Any:
        member = getattr(self.backend, name)
        if not callable(member):
            return member

        def call(*arguments: Any) -> Any:
            deadline = next((a for a in arguments if isinstance(a, Deadline)), Deadline())

            def answer() -> Any:
                found = member(*arguments)
                return iter(list(found)) if isinstance(found, Iterator) else found

            try:
                return call_within(Deadline(deadline.left() + GRACE), answer)
            except NoAnswer:
                pytest.fail(f"{name} gave no answer within its deadline")
            except LogError:
                raise
            except Exception as error:  # noqa: BLE001 - that is the finding
                pytest.fail(f"{name} let a {type(error).__name__} out, which is no LogError")

        return call


class Writer:
    """Another process that writes to the store, one entry after the other, and says which."""

    def __init__(self, backend: LogBackend, url: str, job: str = "entries", count: int = 0) -> None:
        kind = type(getattr(backend, "backend", backend))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "deid_hooks.testing.process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        # The URL may hold a password: it does not belong among the arguments.
        order = {"module": kind.__module__, "name": kind.__qualname__, "url": url}
        print(json.dumps({**order, "job": job, "count": count}), file=self._stdin, flush=True)

    @property
    def _stdin(self) -> IO[str]:
        assert self.process.stdin is not None
        return self.process.stdin

    def said(self) -> str:
        """Return its next line: the id of what was acknowledged; ``""`` once it has ended."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def all_said(self) -> list[str]:
        """Return every line until it ends, by itself and well."""
        assert self.process.stdout is not None
        lines = self.process.stdout.read().split()
        assert self.process.wait(60) == 0, "a process that wrote to the store failed"
        return lines

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.communicate()
