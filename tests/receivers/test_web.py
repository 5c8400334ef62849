"""STOW-RS servers that refuse in whole and in part; a stand-in answers as the standard has it."""

from __future__ import annotations

import base64
import json
import re
import ssl
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from deid_hooks.destinations import open_destination
from tests.receivers.conftest import PATIENT
from tests.receivers.test_archives import outcomes, statuses
from tests.whole.site import Site, rows

CT = PATIENT / "CT2"
FILES = 4
_UID = re.compile(rb"\x08\x00\x18\x00UI..([0-9.]+)", re.DOTALL)


class Stand:
    """What the stand-in answers, and what it was asked."""

    def __init__(self) -> None:
        self.code, self.refused, self.reason, self.silent = 200, 0, 0xA700, False
        self.garbage = self.gone = False
        self.nonsense: object = None
        self.media_type = "application/dicom+json"
        self.there: list[str] = []
        self.elsewhere = ""
        self.authorizations: set[str | None] = set()

    def answer(self, body: bytes) -> bytes:
        uids = [uid.decode() for uid in _UID.findall(body)]
        if self.garbage:
            return b"<html>"
        if self.nonsense is not None:
            return json.dumps(self.nonsense).encode()
        refused, stored = uids[: self.refused], uids[self.refused :]
        document = {"00081199": _sequence(stored), "00081198": _sequence(refused, self.reason)}
        return json.dumps(document).encode()


def _sequence(uids: list[str], reason: int | None = None) -> dict[str, object]:
    items = []
    for uid in uids:
        item: dict[str, object] = {"00081155": {"vr": "UI", "Value": [uid]}}
        if reason is not None:
            item["00081197"] = {"vr": "US", "Value": [reason]}
        items.append(item)
    return {"vr": "SQ", "Value": items}


@pytest.fixture
def stand() -> Stand:
    return Stand()


@contextmanager
def serving(stand: Stand, context: ssl.SSLContext | None = None) -> Iterator[str]:
    """The URL of the stand-in while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            stand.authorizations.add(self.headers["Authorization"])
            # It knows nothing of pages: whatever the offset, everything is on the first one.
            there = [{"00080018": {"vr": "UI", "Value": [uid]}} for uid in stand.there]
            code = stand.code if stand.code in (307, 401, 503) else 200
            if stand.gone:  # from now on
                server.shutdown()
                server.socket.close()
            self._reply(code, json.dumps(there).encode())

        def do_POST(self) -> None:
            stand.authorizations.add(self.headers["Authorization"])
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if stand.silent:
                self.close_connection = True
                return
            self._reply(stand.code, stand.answer(body))

        def _reply(self, code: int, body: bytes) -> None:
            self.send_response(code)
            if stand.elsewhere:
                self.send_header("Location", stand.elsewhere + self.path)
            self.send_header("Content-Type", stand.media_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    scheme = "https" if context else "http"
    yield f"dicomweb+{scheme}://127.0.0.1:{server.server_port}/dicom-web"
    server.shutdown()
    server.server_close()


@pytest.fixture
def url(stand: Stand) -> Iterator[str]:
    with serving(stand) as url:
        yield url


def send(site: Site, url: str, **variables: str) -> tuple[int, Counter[str], str]:
    sent = site.run("upload", str(CT), url, "--project", "TRIAL7", **variables)
    reasons = " ".join(row["reason"] for row in rows(sent.stdout)) if sent.stdout else ""
    return sent.returncode, statuses(sent.stdout), reasons + sent.stderr


@pytest.mark.parametrize(
    ("code", "refused", "uploaded", "outcome"),
    [(202, 1, 3, "partial"), (409, 4, 0, "failed"), (202, 4, 0, "failed")],
)
def test_what_the_archive_refuses_is_named_instance_by_instance(
    site: Site, stand: Stand, url: str, code: int, refused: int, uploaded: int, outcome: str
) -> None:
    stand.code, stand.refused = code, refused
    ended, found, said = send(site, url)
    assert (ended, found) == (3, Counter(uploaded=uploaded, failed=refused))
    assert "refused it with the reason A700" in said
    assert {event for event, _ in outcomes(site)} == {outcome}
    stand.code, stand.refused = 200, 0
    assert send(site, url)[:2] == (0, Counter(uploaded=FILES))


def test_a_duplicate_counts_as_there(site: Site, stand: Stand, url: str) -> None:
    stand.code, stand.refused, stand.reason = 202, 4, 0x0111
    assert send(site, url)[:2] == (0, {"already there": FILES})


@pytest.mark.parametrize("trouble", ["garbage", "silent", "500"])
def test_an_answer_that_cannot_be_had_counts_as_failed(
    site: Site, stand: Stand, url: str, trouble: str
) -> None:
    if trouble == "500":
        stand.code, stand.garbage = 500, True
    setattr(stand, trouble, True)
    code, found, said = send(site, url)
    assert (code, found) == (3, Counter(failed=FILES))
    assert "run it again" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("code", [202, 409])
@pytest.mark.parametrize(
    "nonsense",
    [
        {"00081198": {"vr": "LO", "Value": ["odd"]}},
        {"00081198": {"vr": "US", "Value": [5]}},
        {"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "LO", "Value": ["odd"]}}]}},
        {"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [1, 2]}}]}},
    ],
)
def test_an_answer_of_odd_parts_counts_as_failed_and_the_next_series_is_sent(
    site: Site, stand: Stand, url: str, code: int, nonsense: object
) -> None:
    stand.code, stand.nonsense = code, nonsense
    sent = site.run("upload", str(PATIENT), url)
    assert (sent.returncode, statuses(sent.stdout)) == (3, {"failed": 7})
    assert "makes no sense" in sent.stdout
    assert sent.stderr == "7 files: 7 failed\n"


@pytest.mark.parametrize(
    "media_type", ["application/dicom+json; charset=utf-8", "APPLICATION/JSON"]
)
def test_an_answer_that_names_its_character_set_is_understood(
    site: Site, stand: Stand, url: str, media_type: str
) -> None:
    stand.media_type = media_type
    assert send(site, url)[:2] == (0, Counter(uploaded=FILES))


def test_a_token_may_end_with_its_line_and_one_that_is_none_is_not_repeated(
    site: Site, stand: Stand, url: str
) -> None:
    assert send(site, url, DICOMWEB_TOKEN="token\n")[0] == 0
    assert stand.authorizations == {"Bearer token"}
    code, _, said = send(site, url, DICOMWEB_TOKEN="to\u2026ken")
    assert code == 1
    assert "can't be reached (UnicodeEncodeError)" in said
    assert "ken" not in said


@pytest.mark.parametrize("host", ["a..b", "a" * 70])
def test_a_host_that_can_be_none_is_wrong_use(site: Site, host: str) -> None:
    code, found, said = send(site, f"dicomweb+https://{host}/dicom-web")
    assert (code, found) == (2, Counter())
    assert "is named as dicomweb+https://" in said


def test_an_archive_that_is_not_there_is_not_said_to_have_anything(
    site: Site, stand: Stand, url: str
) -> None:
    stand.gone = True
    code, found, said = send(site, url)
    assert (code, found) == (3, Counter(failed=FILES))
    assert "can't be reached; run it again" in said
    assert "may be there" not in said


def test_an_archive_that_knows_no_pages_is_asked_until_it_says_nothing_new(
    site: Site, stand: Stand, url: str
) -> None:
    stand.code, stand.garbage = 500, True
    send(site, url)
    stand.code, stand.garbage, stand.there = 200, False, sorted(site.logged())[:3]
    assert send(site, url)[:2] == (0, Counter({"already there": 3, "uploaded": 1}))


def test_credentials_come_from_the_environment_or_a_netrc_and_are_not_logged(
    site: Site, stand: Stand, url: str
) -> None:
    netrc = site.folder / "home" / ".netrc"
    netrc.write_text("machine 127.0.0.1 login reader password canary-netrc\n")
    netrc.chmod(0o600)
    send(site, url)
    send(site, url, DICOMWEB_USERNAME="u", DICOMWEB_PASSWORD="canary-password")
    send(site, url, DICOMWEB_TOKEN="canary-token")
    assert stand.authorizations == {
        "Basic " + base64.b64encode(b"reader:canary-netrc").decode(),
        "Basic " + base64.b64encode(b"u:canary-password").decode(),
        "Bearer canary-token",
    }
    assert {destination for _, destination in outcomes(site)} == {url}


def test_who_is_not_let_in_is_told_how(site: Site, stand: Stand, url: str) -> None:
    stand.code = 401
    code, _, said = send(site, url)
    assert code == 1
    assert "answers 401" in said
    assert "DICOMWEB_TOKEN" in said
    assert site.logged() == set()


def test_images_do_not_follow_to_another_address(site: Site, stand: Stand, url: str) -> None:
    other = Stand()
    with serving(other) as elsewhere:
        stand.code, stand.elsewhere = 307, elsewhere.removeprefix("dicomweb+")
        code, _, said = send(site, url)
    assert code == 1
    assert "redirects to another address" in said
    assert other.authorizations == set(), "nobody came"


def test_a_url_with_a_password_is_refused_and_not_repeated(site: Site, tmp_path: Path) -> None:
    code, _, said = send(site, "dicomweb+https://user:canary-password@pacs/dicom-web")
    assert code == 2
    assert "canary" not in said


def test_beyond_this_machine_images_go_over_tls_or_somebody_insists(site: Site) -> None:
    code, found, said = send(site, "dicomweb+http://pacs.example/dicom-web")
    assert (code, found) == (2, Counter())
    assert "write dicomweb+https://" in said
    insecure = open_destination("dicomweb+http://pacs.example/dicom-web?insecure=yes")
    assert insecure.name == "dicomweb+http://pacs.example/dicom-web"
