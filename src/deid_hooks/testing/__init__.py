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

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deid_hooks.testing.conformance import BackendConformance
    from deid_hooks.testing.fixtures import memory_log
    from deid_hooks.testing.memory import FAULTS, Fault, MemoryBackend, MemoryLog

__all__ = [
    "FAULTS",
    "BackendConformance",
    "Fault",
    "MemoryBackend",
    "MemoryLog",
    "memory_log",
]

_MODULES = {
    "BackendConformance": "conformance",
    "memory_log": "fixtures",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'memory')}"), name)
