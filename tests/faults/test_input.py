"""Odd input: mutated DICOM, terms, settings and bodies. Each is refused in words or done."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import running
from hypothesis import HealthCheck, given
from hypothesis import settings as amounts
from hypothesis import strategies as st

from tests.core.files import INSTANCES
from tests.faults.conftest import amount
from tests.faults.tally import WRONG_MESSAGE, Problem, Tally
from tests.faults.targets import TARGETS
from tests.needed import missing

EXAMPLES = {"sample": 15, "share": 200, "whole": 10_000}
SECONDS = {"sample": 0, "share": 8, "whole": 300}
SMALL = [path.read_bytes() for path in INSTANCES if path.stat().st_size < 20_000]
TERMS = [b"PatientName=DOE^J*", b"StudyDate=20060801-20060831", b"deid:PatientID==A*1"]
TERMS += [b'"John Doe"', b'(0009,"GEMS_IMAG_01",01)=1', b"created=..2015-12-31", b"id=65774D08"]
SETTINGS = [b'url = "sqlite:///rel.db"\ndeadline = 5\n', b'fields = ["PatientID"]\nstamp = "none"']
SEEDS = {"capture and restore": SMALL, "search terms": TERMS, "settings": SETTINGS}
BODIES = [b'{"indexed_fields": {"PatientID": "1"}, "deidentified_tags": {}}', b'{"records": []}']
PATHS = ("/logs", "/v1/records", "/v1/search", "/v1/resolve", "/v1/entries")


@st.composite
def mutated(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """One of the seeds, with some bytes changed, cut out, doubled or put in."""
    content = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(content)))
        deed = draw(st.sampled_from(("change", "cut", "double", "insert")))
        size = draw(st.integers(1, 64))
        if deed == "change":
            content[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
        elif deed == "cut":
            del content[at : at + size]
        elif deed == "double":
            content[at:at] = content[at : at + size]
        else:
            content[at:at] = draw(st.binary(min_size=1, max_size=8))
    return bytes(content)


@pytest.mark.timeout(3000)
@pytest.mark.parametrize("name", TARGETS)
def test_odd_input_is_refused_in_words_or_done(
    name: str, pytestconfig: pytest.Config, tally: Tally
) -> None:
    count = 0

    @amounts(
        max_examples=EXAMPLES[amount(pytestconfig)],
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(mutated(SEEDS[name]))
    def run(content: bytes) -> None:
        nonlocal count
        count += 1
        TARGETS[name](content)

    run()
    tally(f"odd input, {name}", count, [])


@pytest.mark.timeout(3000)
@pytest.mark.parametrize("name", TARGETS)
def test_coverage_guided_fuzzing_finds_nothing(
    name: str, tmp_path: Path, pytestconfig: pytest.Config, tally: Tally
) -> None:
    seconds = SECONDS[amount(pytestconfig)]
    if not seconds:
        pytest.skip("coverage-guided fuzzing is part of --faults share and --faults whole")
    try:
        import atheris  # noqa: F401
    except ImportError:
        missing("atheris is not installed")
    for number, content in enumerate(SEEDS[name]):
        (tmp_path / f"{number}").write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.guided", name, str(tmp_path), str(seconds)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    tried = re.findall(r"#(\d+)", done.stderr)
    said = done.stderr[-3000:]
    problems = [Problem(WRONG_MESSAGE, said)] if done.returncode else []
    tally(f"coverage-guided fuzzing, {name}", int(tried[-1]) if tried else 0, problems)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[running.Site]:
    site = running.Site(tmp_path_factory.mktemp("service"))
    yield site.start()
    site.stop()


@pytest.mark.timeout(3000)
def test_no_body_upsets_the_service(
    service: running.Site, pytestconfig: pytest.Config, tally: Tally
) -> None:
    count = 0
    answers: list[int] = []
    with service.client(service.token("admin")) as client:

        @amounts(
            max_examples=EXAMPLES[amount(pytestconfig)],
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(st.sampled_from(PATHS), st.binary(max_size=200) | mutated(BODIES))
        def run(path: str, body: bytes) -> None:
            nonlocal count
            count += 1
            answer: httpx.Response = client.post(path, content=body)
            answers.append(answer.status_code)
            assert answer.status_code < 500, f"{path} answers {answer.status_code}"

        run()
    tally("odd input, bodies to the service", count, [])
    assert set(answers) - {404, 405}
