"""Import public names when they are first used, so that importing a package costs nothing."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from importlib import import_module
from typing import Any


def load_name(package: str, name: str, public: Collection[str], modules: Sequence[str]) -> Any:
    """Return what ``name`` means in one of the modules of deid_hooks, tried in their order.

    Raises AttributeError for a name that ``package`` does not list as public.
    """
    if name in public:
        for module in modules:
            found = vars(import_module(f"deid_hooks.{module}"))
            if name in found:
                return found[name]
    raise AttributeError(f"module {package!r} has no attribute {name!r}")
