"""The service does what its OpenAPI document says, and says what it does."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import httpx
import pytest
from running import BIN, Site

CONFIGURATION = """
[checks.negative_data_rejection]
expected-statuses = ["4xx", "5xx"] # lists of more items than there may be are too large as well

[[operations]]
include-name = "POST /v1/records"
[operations.checks.positive_data_acceptance]
expected-statuses = ["2xx", "4xx", "5xx"] # what makes records readable is beyond a schema
"""


@pytest.mark.ci
def test_schemathesis_finds_nothing(site: Site) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "schemathesis.toml").write_text(CONFIGURATION)
        done = subprocess.run(
            [
                *(BIN / "st", "run", f"{site.url}/openapi.json"),
                *("--header", f"Authorization: Bearer {site.token('admin')}"),
                *("--checks", "all", "--phases", "coverage,fuzzing", "--max-examples", "2"),
                *("--generation-database", "none", "--no-color"),
            ],
            cwd=folder,
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stdout[-5000:]
    assert '"level": "error"' not in site.said()


def test_each_method_that_a_path_does_not_take_is_refused_with_those_it_takes(site: Site) -> None:
    for method, path in (("GET", "/logs"), ("HEAD", "/health"), ("DELETE", "/v1/records")):
        answer = httpx.request(method, site.url + path)
        known = httpx.get(f"{site.url}/openapi.json").json()["paths"][path]
        allowed = ", ".join(sorted(each.upper() for each in known))
        assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


def test_every_endpoint_is_in_the_document(site: Site) -> None:
    paths = set(httpx.get(f"{site.url}/openapi.json").json()["paths"])
    assert {"/logs", "/health", "/ready", "/metrics", "/v1/records", "/v1/search"} <= paths
    for other in ("/docs", "/redoc", "/elsewhere"):
        answer = httpx.get(site.url + other)
        assert (answer.status_code, answer.json()["kind"]) == (404, "Refused")
