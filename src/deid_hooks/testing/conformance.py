"""The conformance kit: every rule of the contract of a store, as one class of tests."""

from __future__ import annotations

from deid_hooks.testing.appending import Appending, Ordering
from deid_hooks.testing.durability import Durability, Failing
from deid_hooks.testing.erasing import Erasing, Sealing
from deid_hooks.testing.reading import Reading
from deid_hooks.testing.searching import Searching


class BackendConformance(
    Reading, Appending, Ordering, Durability, Searching, Erasing, Sealing, Failing
):
    """Every rule of the contract. Subclass it and give it the fixture ``url``."""
