"""Archives behind TLS, with certificates of the site's own."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.needed import program
from tests.receivers.conftest import PATIENT, archive
from tests.receivers.test_archives import outcomes
from tests.receivers.test_web import Stand, serving
from tests.whole.site import Site

CT = PATIENT / "CT2"


class Party(NamedTuple):
    certificate: Path
    key: Path


def party(folder: Path, name: str) -> Party:
    """Somebody with a certificate that he signed himself."""
    made = Party(folder / f"{name}.pem", folder / f"{name}.key")
    words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
    where = ["-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-out", str(made.certificate), "-keyout", str(made.key)]
    command = [program("openssl"), *words, *where, *files]
    subprocess.run(command, check=True, capture_output=True)
    return made


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Party:
    return party(tmp_path_factory.mktemp("pacs"), "pacs")


@pytest.fixture(scope="module")
def us(tmp_path_factory: pytest.TempPathFactory) -> Party:
    return party(tmp_path_factory.mktemp("us"), "us")


def test_an_archive_that_knows_us_and_that_we_know_is_sent_to(
    site: Site, port: int, tmp_path: Path, pacs: Party, us: Party
) -> None:
    folder, name = tmp_path / "received", f"dicom://ARCHIVE@127.0.0.1:{port}"
    trust = f"tls=yes&ca={pacs.certificate}&cert={us.certificate}&key={us.key}"
    with archive(port, folder, "behaves", [*pacs, us.certificate]):
        sent = site.run("upload", str(CT), f"{name}?{trust}")
    assert sent.returncode == 0, sent.stderr
    assert {path.stem for path in folder.iterdir()} == site.logged()
    assert outcomes(site) == {("uploaded", name)}, "paths of keys are not in the log"


@pytest.mark.parametrize("stranger", ["the archive", "we", "no TLS"])
def test_without_trust_nothing_is_sent_and_the_reason_is_in_words(
    site: Site, port: int, tmp_path: Path, pacs: Party, us: Party, stranger: str
) -> None:
    trust = {
        "the archive": f"?tls=yes&cert={us.certificate}&key={us.key}&timeout=5",
        "we": f"?tls=yes&ca={pacs.certificate}&timeout=5",
        "no TLS": "?timeout=5",
    }[stranger]
    folder, name = tmp_path / "received", f"dicom://ARCHIVE@127.0.0.1:{port}"
    with archive(port, folder, "behaves", [*pacs, us.certificate]):
        refused = site.run("upload", str(CT), f"{name}{trust}")
    assert refused.returncode == 1
    [said] = refused.stderr.splitlines()
    assert said.startswith(f"The archive {name} can't be reached")
    assert ("certificate" in said) == (stranger != "no TLS")
    assert list(folder.iterdir()) == []


def test_a_token_goes_with_authorities_of_the_environment(site: Site, pacs: Party) -> None:
    stand, variables = Stand(), {"DICOMWEB_TOKEN": "canary"}
    variables["REQUESTS_CA_BUNDLE"] = str(pacs.certificate)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*pacs)
    with serving(stand, context) as url:
        sent = site.run("upload", str(CT), url, **variables)
    assert sent.returncode == 0, sent.stderr
    assert stand.authorizations == {"Bearer canary"}
