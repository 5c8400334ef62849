"""Odd input: mutated DICOM, terms, settings and bodies. Each is refused in words or done."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import running
from hypothesis import HealthCheck, given
from hypothesis import settings as amounts
from hypothesis import strategies as st
from running import packfile

from deid_hooks.query.json_codec import encode_query
from deid_hooks.query.parser import parse_terms
from deid_hooks.records.json_codec import encode_record
from deid_hooks.records.model import AccessRow, UploadEvent
from deid_hooks.testing.records import make_entry
from tests.dicom.files import INSTANCES
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
ENTRY = make_entry()
EVENT = UploadEvent(ENTRY.log_id, "2026-01-01T00:00:00Z", "uploaded", "folder:out", "sender/1.2")
LOOK = AccessRow(ENTRY.log_id, "2026-01-01T00:00:00Z", "who", "where", "show", "", (), "why")
LOG_ID = "65774D086757457C9DCF96E762803606"
BODIES: dict[str, dict[str, Any]] = {
    "/logs": packfile(PatientID="1", StudyDate="20060801"),
    "/v1/records": {"records": [encode_record(ENTRY), encode_record(EVENT)]},
    "/v1/entries": {"log_ids": [LOG_ID], "reason": "why"},
    "/v1/search": {"query": encode_query(parse_terms(["PatientName=DOE*", "StudyDate=2006"]))},
    "/v1/equal": {"record": encode_record(ENTRY)},
    "/v1/uploads": {"log_ids": [LOG_ID]},
    "/v1/blocks": {"patients": [["1", ""]], "project": "", "reason": "why", "lift": False},
    "/v1/labels": {"project": "TRIAL7", "patient_id": "1", "issuer": ""},
    "/v1/keys": {"project": "TRIAL7"},
    "/v1/access": encode_record(LOOK),
    "/v1/erasures": {"log_ids": [LOG_ID], "at": "2026-11-24T00:00:00Z", "who": "", "reason": ""},
}
ODD: list[Any] = [None, True, 0, -1, 10**30, 1e308, "", "\0", "\ud800", "x" * 5000, [], {}, [[[]]]]
ODD += [LOG_ID, "1.2.3", "20060801-", "*", {"vr": "SQ", "Value": [{}]}]


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


@st.composite
def altered(draw: st.DrawFn, body: Any) -> bytes:
    """The JSON of a body in which some members are replaced by odd ones, taken out or added."""
    body = copy.deepcopy(body)
    for _ in range(draw(st.integers(0, 4))):
        within: Any = body
        while True:
            places = list(within) if isinstance(within, dict) else list(range(len(within)))
            if not places:
                break
            at = draw(st.sampled_from(places))
            if isinstance(within[at], dict | list) and draw(st.booleans()):
                within = within[at]
                continue
            deed = draw(st.sampled_from(("replace", "take out", "add")))
            if deed == "replace":
                within[at] = copy.deepcopy(draw(st.sampled_from(ODD)))
            elif deed == "take out":
                del within[at]
            elif isinstance(within, dict):
                within[draw(st.sampled_from(["", "at", "\ud800", "x"]))] = copy.deepcopy(within[at])
            else:
                within.append(copy.deepcopy(within[at]))
            break
    return json.dumps(body).encode()


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
    # The share tries the same each time, as hypothesis does in CI; the whole tries what is new.
    random = "0" if amount(pytestconfig) == "whole" else "1"
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.guided", name, str(tmp_path), str(seconds), random],
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
@pytest.mark.parametrize("path", BODIES)
def test_no_body_upsets_the_service(
    service: running.Site, path: str, pytestconfig: pytest.Config, tally: Tally
) -> None:
    answers: list[int] = []
    with service.client(service.token("admin")) as client:
        client.headers["Content-Type"] = "application/json"

        @amounts(
            max_examples=EXAMPLES[amount(pytestconfig)] // len(BODIES) + 5,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(altered(BODIES[path]) | mutated([json.dumps(BODIES[path]).encode()]))
        def run(body: bytes) -> None:
            answer: httpx.Response = client.post(path, content=body)
            answers.append(answer.status_code)
            assert answer.status_code < 500, f"{path} answers {answer.status_code}"

        undisturbed: httpx.Response = client.post(path, json=BODIES[path])
        assert undisturbed.status_code in (200, 404), undisturbed.text
        run()
    tally("odd input, bodies to the service", len(answers), [])
    assert {400, 422} & set(answers)
    assert not {404, 405, 415} & set(answers) or undisturbed.status_code == 404
