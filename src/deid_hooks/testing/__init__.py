"""For tests: the conformance kit for stores, and a log in memory that fails for uploaders.

    from deid_hooks.testing import BackendConformance

    class TestMyBackend(BackendConformance):
        @pytest.fixture
        def url(self, tmp_path):
            return f"mine:///{tmp_path}/log"

The kit proves that a store keeps the log as ``deid_hooks.backends.LogBackend`` says. ``url`` is
that of a store that does not exist yet, another one for every test. It needs the extra ``testing``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deid_hooks._lazy import load_name

if TYPE_CHECKING:
    from deid_hooks.testing.conformance import BackendConformance, memory_log
    from deid_hooks.testing.memory import FAULTS, Fault, MemoryBackend, MemoryLog

__all__ = [
    "FAULTS",
    "BackendConformance",
    "Fault",
    "MemoryBackend",
    "MemoryLog",
    "memory_log",
]

_MODULES = ("testing.memory", "testing.conformance")


def __getattr__(name: str) -> Any:
    return load_name(__name__, name, __all__, _MODULES)
