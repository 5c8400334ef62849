"""The conformance kit: proves that a store keeps the log as ``deid_hooks.backends.contract`` says.

    from deid_hooks.testing import BackendConformance

    class TestMyBackend(BackendConformance):
        @pytest.fixture
        def url(self, tmp_path):
            return f"mine:///{tmp_path}/log"

``url`` is that of a store that does not exist yet, another one for every test. Run it with pytest.
It needs the extra ``testing``.
"""

from deid_hooks.testing.appending import Appending, Ordering
from deid_hooks.testing.durability import Durability, Failing
from deid_hooks.testing.erasing import Erasing, Sealing
from deid_hooks.testing.reading import Reading
from deid_hooks.testing.searching import Searching

__all__ = ["BackendConformance"]


class BackendConformance(
    Reading, Appending, Ordering, Durability, Searching, Erasing, Sealing, Failing
):
    """Every rule of the contract. Subclass it and give it the fixture ``url``."""
