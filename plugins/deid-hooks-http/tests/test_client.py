"""The client of the service: what the command line says through it, and what it does in trouble."""

from __future__ import annotations

import json
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from running import Site, free_port
from tests.needed import program

from deid_hooks.deadline import Deadline, NoAnswer
from deid_hooks.errors import AppendUnknown, LogError, LogUnavailable, NotAllowed, SettingsError
from deid_hooks.query.parser import parse_terms
from deid_hooks.records.model import AccessRow, Erasure, Tombstone, make_log_id
from deid_hooks.testing.records import chain_seals, make_entry
from deid_hooks_http import HTTPBackend


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("site")).start()
    yield made
    made.stop()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with one image of pydicom's."""
    import pydicom.data

    folder = tmp_path / "images"
    folder.mkdir()
    image = Path(pydicom.data.__file__).parent / "test_files" / "CT_small.dcm"
    (folder / "image.dcm").write_bytes(image.read_bytes())
    return folder


class TestCommandLine:
    """Through the service, with the token's role."""

    def run(self, site: Site, token: str, *command: str) -> tuple[int, str, str]:
        done = site.run(
            "deid-hooks",
            *("--url", f"deidlog+{site.url}", *command),
            DEID_HOOKS_TOKEN=token,
        )
        return done.returncode, done.stdout, done.stderr

    def test_an_upload_token_uploads_and_may_not_search(
        self, site: Site, images: Path, tmp_path: Path
    ) -> None:
        token = site.token("upload", "TRIAL7")
        upload = ("upload", str(images), f"folder:{tmp_path}/out", "--project", "TRIAL7")
        assert self.run(site, token, "check")[0] == 0
        for status in ("uploaded", "already there"):
            code, said, _ = self.run(site, token, *upload)
            assert (code, json.loads(said.splitlines()[0])["status"]) == (0, status)
        code, said, why = self.run(site, token, "search", "PatientName=*")
        assert (code, said) == (1, "")
        name = site.tokens.all()[-1].name
        assert why.startswith(f"403 Forbidden: the token {name} has the role upload, which")
        code, _, why = self.run(site, token, *upload[:-1], "TRIAL8")
        assert code == 1
        assert why.endswith(f"403 Forbidden: the token {name} is held to other projects.\n")
        assert len(list(site.recorder.search(parse_terms(["project=TRIAL8"])))) == 0

    def test_who_may_reidentify_searches_and_shows_and_says_why(
        self, site: Site, images: Path, tmp_path: Path
    ) -> None:
        uploader, token = site.token("upload"), site.token("reidentify")
        name = site.tokens.all()[-1].name
        self.run(site, uploader, "upload", str(images), f"folder:{tmp_path}/out")
        code, said, why = self.run(
            site, token, "search", "CompressedSamples^CT1", "--reason", "finding", "--format", "ids"
        )
        assert code == 0, why
        log_id = said.split()[0]
        code, said, _ = self.run(site, token, "show", log_id, "--format", "json")
        assert (code, json.loads(said)[0]["fields"]["PatientName"]) == (0, "CompressedSamples^CT1")
        rows = [row for row, _ in site.recorder.backend.trail(Deadline()) if row.who == name]
        assert {row.action for row in rows} == {"search", "show"}
        reasons = [row for row in rows if row.reason == "finding"]
        assert "CompressedSamples^CT1" in reasons[0].asked
        assert reasons[0].where.startswith("127.0.0.1 (")

    def test_an_unknown_token_is_said_to_be_unknown(self, site: Site) -> None:
        code, _, why = self.run(site, "x" * 40, "check")
        assert code == 69
        assert "the service does not know this token" in why

    def test_a_refusal_of_the_log_carries_its_status(
        self, site: Site, images: Path, tmp_path: Path
    ) -> None:
        site.log.rename(f"{site.log}.away")
        try:
            upload = ("upload", str(images), f"folder:{tmp_path}/out")
            code, _, why = self.run(site, site.token("upload"), *upload)
        finally:
            Path(f"{site.log}.away").rename(site.log)
        assert code == 69
        assert why.startswith("Unable to log de-identified data: 503 Service Unavailable: ")
        assert not (tmp_path / "out").exists()


def test_the_token_comes_from_a_file_that_nobody_else_may_read(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEID_HOOKS_CONFIG", str(tmp_path / "deid-hooks.toml"))
    monkeypatch.delenv("DEID_HOOKS_TOKEN", raising=False)
    backend = site.backend()
    with pytest.raises(LogUnavailable, match="no token"):
        backend.check(Deadline())
    (tmp_path / "token").write_text(site.token("upload"))
    with pytest.raises(LogUnavailable, match="chmod 600"):
        backend.check(Deadline())
    (tmp_path / "token").chmod(0o600)
    backend.check(Deadline())


def test_a_token_has_no_place_in_the_url() -> None:
    for url in ("deidlog+http://me:token@host:1", "deidlog+https://host?token=x", "deidlog+http:"):
        with pytest.raises(SettingsError) as caught:
            HTTPBackend(url)
        assert "token=x" not in str(caught.value)


@pytest.mark.parametrize("host", ["", "log..example", f"{'l' * 64}.example", "[::1", "log:0"])
def test_a_url_that_leads_to_no_host_is_a_wrong_setting(host: str) -> None:
    with pytest.raises(SettingsError, match="HOST:PORT"):
        HTTPBackend(f"deidlog+https://{host}")
    HTTPBackend("deidlog+https://[::1]:8470")


def test_plain_http_beyond_this_machine_has_to_be_asked_for() -> None:
    for host in ("log.example", "10.1.2.3", "[2001:db8::1]:8470"):
        with pytest.raises(SettingsError, match="insecure=true behind the URL insists"):
            HTTPBackend(f"deidlog+http://{host}")
        HTTPBackend(f"deidlog+http://{host}?insecure=true")
    for host in ("localhost", "127.0.0.1:8470", "[::1]:8470"):
        HTTPBackend(f"deidlog+http://{host}")


def test_what_one_may_not_do_is_no_failure_of_the_log(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEID_HOOKS_TOKEN", site.token("upload"))
    with pytest.raises(NotAllowed, match="which may not search"):
        list(site.backend().search(parse_terms(["PatientID=1"]), Deadline()))


def test_an_access_is_recorded_by_the_service_under_the_name_of_the_token(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEID_HOOKS_TOKEN", site.token("search"))
    asked = AccessRow(make_log_id(), "t", "alice", "ws12", "search", "PatientID=1", (), "why")
    site.backend().append([asked], chain_seals, Deadline())
    *_, (row, _) = site.recorder.backend.trail(Deadline())
    assert (row.who, row.where) == (site.tokens.all()[-1].name, "127.0.0.1 (alice on ws12)")
    assert (row.action, row.asked, row.reason) == ("search", "PatientID=1", "why")


def test_an_entry_that_was_altered_is_an_error_that_names_it_and_nothing_else(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEID_HOOKS_TOKEN", site.token("reidentify"))
    entry = make_entry(key=site.recorder.keyring.newest.name)
    site.recorder.append([entry])
    assert list(site.backend().entries([entry.log_id], Deadline())) == [entry]
    with sqlite3.connect(site.log) as plain:
        plain.execute("UPDATE deid_log SET PatientName = 'Qxname' WHERE id = ?", (entry.log_id,))
    for ask in (
        lambda: site.backend().resolve(entry.log_id, Deadline()),
        lambda: list(site.backend().entries([entry.log_id], Deadline())),
    ):
        with pytest.raises(LogError, match=f"409 Conflict: .*{entry.log_id}") as caught:
            ask()
        assert "Qxname" not in str(caught.value)


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[socket.socket], None]], HTTPBackend]]:
    """A backend whose service is a function that is given each connection."""
    servers: list[socket.socket] = []

    def begin(answer: Callable[[socket.socket], None]) -> HTTPBackend:
        server = socket.create_server(("127.0.0.1", 0))
        servers.append(server)

        def run() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

        threading.Thread(target=run, daemon=True).start()
        return HTTPBackend(f"deidlog+http://127.0.0.1:{server.getsockname()[1]}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEID_HOOKS_TOKEN", "x" * 40)
        yield begin
    for server in servers:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


def test_an_answer_that_is_read_after_the_deadline_leaves_the_append_unknown(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer_late(deadline: Deadline, job: Callable[[], object]) -> object:
        job()
        raise NoAnswer

    monkeypatch.setenv("DEID_HOOKS_TOKEN", site.token("admin"))
    monkeypatch.setattr("deid_hooks_http.exchange.call_within", answer_late)
    entry = make_entry()
    with pytest.raises(AppendUnknown):
        site.backend().append([entry], chain_seals, Deadline())
    assert site.recorder.backend.resolve(entry.log_id, Deadline()) == entry


def _says(text: bytes) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        connection.recv(1 << 20)
        connection.sendall(text)
        connection.close()

    return answer


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b'HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"log_ids": [',
        b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nnull",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
        b'HTTP/1.1 200 OK\r\ncontent-length: 15\r\n\r\n{"log_ids": []}',
        b'HTTP/1.1 200 OK\r\ncontent-length: 17\r\n\r\n{"log_ids": [[]]}',
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n<html>",
        b"HTTP/1.1 202 Accepted\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 504 Gateway Timeout\r\ncontent-length: 0\r\n\r\n",
    ],
    ids=[
        *("nothing", "cut off", "null", "no ids", "other ids", "no id", "no gzip", "HTML"),
        *("a proxy keeps it", "a proxy failed", "a proxy gave up"),
    ],
)
def test_an_answer_that_does_not_say_it_leaves_the_append_unknown(
    serve: Callable[[Callable[[socket.socket], None]], HTTPBackend], text: bytes
) -> None:
    row = AccessRow(make_log_id(), "t", "alice", "ws12", "search", "PatientID=1", ())
    for record in (make_entry(), row):
        with pytest.raises(AppendUnknown):
            serve(_says(text)).append([record], chain_seals, Deadline(3))


@pytest.mark.parametrize(
    "text",
    [
        b"HTTP/1.1 302 Found\r\nlocation: /login\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
        b'HTTP/1.1 413 Request Entity Too Large\r\ncontent-length: 19\r\n\r\n{"cause": "Qxname"}',
    ],
    ids=["moved", "nothing there", "too large"],
)
def test_a_refusal_of_something_else_is_unavailable_and_names_the_status(
    serve: Callable[[Callable[[socket.socket], None]], HTTPBackend], text: bytes
) -> None:
    with pytest.raises(LogUnavailable, match=text.split(b"\r\n")[0].decode()[9:]) as caught:
        serve(_says(text)).append([make_entry()], chain_seals, Deadline(3))
    assert "Qxname" not in str(caught.value)


@pytest.mark.parametrize(
    "answer",
    [{}, {"status": "ok"}, {"done": False}, {"cursor": "one", "records": []}, {"receipt": {}}],
    ids=lambda answer: json.dumps(answer),
)
def test_nothing_was_done_unless_a_service_of_the_log_says_so(
    serve: Callable[[Callable[[socket.socket], None]], HTTPBackend], answer: dict[str, object]
) -> None:
    body = json.dumps(answer).encode()
    text = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
    asked: list[Callable[[HTTPBackend], object]] = [
        lambda log: log.create(Deadline()),
        lambda log: log.check(Deadline()),
        lambda log: log.read(0, Deadline()),
        lambda log: log.resolve(make_log_id(), Deadline()),
        lambda log: log.erase(
            [make_log_id()], Erasure("t", "alice", "asked to"), chain_seals, Deadline()
        ),
    ]
    for ask in asked:
        with pytest.raises(LogUnavailable, match="200 OK: the answer of the service"):
            ask(serve(_says(text)))


def test_an_answer_that_comes_by_drops_ends_at_the_deadline(
    serve: Callable[[Callable[[socket.socket], None]], HTTPBackend],
) -> None:
    gone = threading.Event()

    def drip(connection: socket.socket) -> None:
        connection.recv(1 << 20)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")
        try:
            while not gone.wait(0.05):
                connection.sendall(b" ")
        except OSError:
            gone.set()

    backend = serve(drip)
    deadline = Deadline(0.5)
    with pytest.raises(AppendUnknown):
        backend.append([make_entry()], chain_seals, deadline)
    with pytest.raises(LogUnavailable):
        list(backend.search(parse_terms(["PatientID=1"]), Deadline(0.5)))
    assert gone.wait(5), "the thread that read it goes on for ever"


def test_a_line_that_comes_by_drops_ends_at_the_deadline(
    serve: Callable[[Callable[[socket.socket], None]], HTTPBackend],
) -> None:
    def drip(connection: socket.socket) -> None:
        connection.recv(1 << 20)
        connection.sendall(b'HTTP/1.1 200 OK\r\n\r\n{"log_id": "A"}\n')
        with suppress(OSError):
            for _ in range(100):
                connection.sendall(b" ")
                time.sleep(0.05)
        connection.close()

    began = time.monotonic()
    found = serve(drip).search(parse_terms(["PatientID=1"]), Deadline(0.5))
    assert next(found) == "A"
    with pytest.raises(LogUnavailable, match="no answer within"):
        next(found)
    assert time.monotonic() - began < 4


def _message_on(connection: socket.socket) -> bytes:
    """One request or reply, whole; nothing once there are no more."""
    request = b""
    while b"\r\n\r\n" not in request:
        if not (part := connection.recv(1 << 20)):
            return b""
        request += part
    head, _, body = request.partition(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(1 << 20)
    return head + b"\r\n\r\n" + body


def test_a_lost_reply_is_asked_for_again_and_the_entry_is_there_once(
    site: Site,
    serve: Callable[[Callable[[socket.socket], None]], HTTPBackend],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    losses = iter([True, True])

    def relay(connection: socket.socket) -> None:
        """A way to the service on which the first replies are lost."""
        with socket.create_connection(("127.0.0.1", site.port)) as service:
            while request := _message_on(connection):
                service.sendall(request)
                reply = _message_on(service)
                if next(losses, False):
                    break
                connection.sendall(reply)
        connection.close()

    backend = serve(relay)
    monkeypatch.setenv("DEID_HOOKS_TOKEN", site.token("admin"))
    entry = make_entry()
    backend.append([entry], chain_seals, Deadline())
    assert site.recorder.backend.resolve(entry.log_id, Deadline()) == entry


@pytest.fixture
def caching(site: Site) -> Iterator[str]:
    """The URL of a proxy before the service, which keeps every answer that it may keep."""
    kept: dict[str, httpx.Response] = {}

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = kept.get(self.path)
            if answer is None:
                answer = httpx.get(site.url + self.path, headers=dict(self.headers))
                if "no-store" not in answer.headers.get("cache-control", ""):
                    kept[self.path] = answer
            self.send_response(answer.status_code)
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"deidlog+http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_proxy_that_keeps_answers_vouches_for_no_entry(
    site: Site, caching: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEID_HOOKS_TOKEN", site.token("admin"))
    entry = make_entry()
    site.backend().append([entry], chain_seals, Deadline())
    through = HTTPBackend(caching)
    assert through.resolve(entry.log_id, Deadline()) == entry
    site.backend().erase([entry.log_id], Erasure("t", "alice", "asked to"), chain_seals, Deadline())
    assert isinstance(through.resolve(entry.log_id, Deadline()), Tombstone)


def test_nobody_there_is_unavailable_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEID_HOOKS_TOKEN", "x" * 40)
    backend = HTTPBackend(f"deidlog+http://127.0.0.1:{free_port()}")
    deadline = Deadline(30)
    with pytest.raises(LogError, match="can't be reached"):
        backend.append([make_entry()], chain_seals, deadline)
    assert deadline.left() > 20


def test_tls_is_by_certificate_and_a_strange_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subject = ("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1")
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
    made = [program("openssl"), "req", "-x509", "-nodes", *curve, *subject]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*made, *files], check=True, capture_output=True)
    site = Site(tmp_path).start("--tls-certificate", str(certificate), "--tls-key", str(key))
    try:
        monkeypatch.setenv("DEID_HOOKS_TOKEN", site.token("upload"))
        monkeypatch.delenv("SSL_CERT_FILE", raising=False)
        url = f"deidlog+https://127.0.0.1:{site.port}"
        with pytest.raises(LogUnavailable, match="its certificate"):
            HTTPBackend(url).check(Deadline())
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        trusting = HTTPBackend(url)
        trusting.check(Deadline())
        trusting.close()
    finally:
        site.stop()
