"""A clerk with the role search asks what they may ask, and not what stops the uploads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from running import Site as Served

from deid_hooks.query.json_codec import encode_query
from deid_hooks.query.parser import parse_terms
from tests.adversaries.programs import weaken


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    site = Served(tmp_path)
    yield site
    site.stop()


def ask_much(served: Served) -> tuple[int, int]:
    """Ask a question of 5 MB; return the status, and what the access trail keeps of it."""
    query = {"query": encode_query(parse_terms(["PatientID=" + "x" * 5_000_000]))}
    with served.client(served.token("search")) as client:
        status = client.post("/v1/search", json=query).status_code
    return status, sum(len(row.asked) for row, _ in served.recorder.trail())


@pytest.mark.ci
def test_no_question_fills_the_disk_of_the_log(served: Served) -> None:
    assert ask_much(served.start()) == (413, 0)


def test_twin_a_question_of_any_size_is_kept(served: Served, tmp_path: Path) -> None:
    patch = (
        "import deid_hooks_service.forms as forms\n"
        "forms.Body.most_bytes = property(lambda body: forms.MOST_BYTES)\n"
    )
    served.start(program=weaken(tmp_path, patch, "deid_hooks_service.cli"))
    status, kept = ask_much(served)
    assert status == 200
    assert kept > 5_000_000
