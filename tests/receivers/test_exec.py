"""Any command as the uploader: it gets what is in the log, and its exit status is the outcome."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from deid_hooks.destinations import Outgoing
from deid_hooks.uploader.exec import Command, Interrupted
from tests.needed import program
from tests.orthanc import Orthanc
from tests.receivers.conftest import PATIENT, archive, free_port
from tests.receivers.test_archives import outcomes, statuses
from tests.whole.site import Site

CT = PATIENT / "CT2"
PAGE = Path(__file__).parents[2] / "docs" / "archives.md"
COMMANDS = re.findall(r"exec incoming --as \w+ -- ([^`]+)", PAGE.read_text())
"""What the page has people run, up to the quotes that end it."""

SPY = """
import json, os, sys
from pathlib import Path
folder, out = Path(sys.argv[1]), Path(sys.argv[2])
seen = {
    "files": {str(p.relative_to(folder)): p.read_bytes().hex() for p in folder.rglob("*.dcm")},
    "modes": [oct(p.stat().st_mode & 0o777) for p in folder.parent.rglob("*")],
    "manifest": json.loads(Path(os.environ["DEID_LOG_MANIFEST"]).read_text()),
    "environment": dict(os.environ),
    "folder": str(folder),
}
with out.open("a") as file:
    print(json.dumps(seen), file=file)
sys.exit(int(sys.argv[3]) if len(sys.argv) > 3 else 0)
"""


class Spy:
    """A command that writes down what it was given, and ends as it is told."""

    def __init__(self, folder: Path) -> None:
        self.script, self.out = folder / "spy.py", folder / "seen.jsonl"
        self.script.write_text(SPY)

    def words(self, status: int = 0) -> list[str]:
        return [sys.executable, str(self.script), "{}", str(self.out), str(status)]

    def seen(self) -> list[dict[str, Any]]:
        lines = self.out.read_text().splitlines() if self.out.exists() else []
        return [json.loads(line) for line in lines]


@pytest.fixture
def spy(tmp_path: Path) -> Spy:
    return Spy(tmp_path)


def execute(site: Site, words: list[str], *options: str) -> subprocess.CompletedProcess[str]:
    return site.run("exec", str(PATIENT), "--as", "pacs", *options, "--", *words)


def staging(site: Site) -> list[Path]:
    return list((site.folder / "tmp").iterdir())


def test_the_command_gets_each_acquisition_once_it_is_in_the_log(site: Site, spy: Spy) -> None:
    ran = execute(site, spy.words(), "--project", "TRIAL7")
    assert ran.returncode == 0, ran.stderr
    assert set(statuses(ran.stdout)) == {"uploaded"}
    assert outcomes(site) == {("uploaded", "pacs")}
    sent: set[str] = set()
    for seen in spy.seen():
        environment, manifest = seen["environment"], seen["manifest"]
        assert environment["DEID_LOG_IDS"] == environment["DEID_LOG_ID"]
        assert {told["log_id"] for told in manifest} == {environment["DEID_LOG_ID"]}
        assert len(manifest) == len(seen["files"])
        assert set(seen["modes"]) <= {"0o700", "0o600"}
        assert "DEID_HOOKS_SECRET" not in environment
        sent |= {told["SOPInstanceUID"] for told in manifest}
    assert len(spy.seen()) > 1
    assert sent == site.logged()
    assert b"Archibald".hex() not in spy.out.read_text()
    assert staging(site) == []


def test_together_the_command_runs_once_with_a_folder_for_each(site: Site, spy: Spy) -> None:
    ran = execute(site, spy.words(), "--together")
    assert ran.returncode == 0, ran.stderr
    [seen] = spy.seen()
    log_ids = seen["environment"]["DEID_LOG_IDS"].split()
    folders = {Path(told["file"]).parent: told["log_id"] for told in seen["manifest"]}
    assert set(folders.values()) == set(log_ids)
    assert len(folders) == len(log_ids)
    assert "DEID_LOG_ID" not in seen["environment"]
    assert len(log_ids) > 1
    assert outcomes(site) == {("uploaded", "pacs")}


def test_what_failed_is_run_again_and_what_arrived_is_not(site: Site, spy: Spy) -> None:
    failed = execute(site, spy.words(status=7))
    assert failed.returncode == 3
    assert set(statuses(failed.stdout)) == {"failed"}
    assert "exit status 7" in failed.stdout
    assert outcomes(site) == {("failed", "pacs")}
    runs = len(spy.seen())
    assert set(statuses(execute(site, spy.words()).stdout)) == {"uploaded"}
    assert len(spy.seen()) == 2 * runs
    assert set(statuses(execute(site, spy.words()).stdout)) == {"already there"}
    assert len(spy.seen()) == 2 * runs
    assert set(statuses(execute(site, spy.words(), "--again").stdout)) == {"uploaded"}
    assert len(spy.seen()) == 3 * runs


def test_without_a_log_the_command_never_runs(site: Site, spy: Spy) -> None:
    refused = site.run(
        *("--url", "sqlite:////nowhere/log.db", "exec", str(PATIENT), "--as", "pacs"),
        *("--", *spy.words()),
    )
    assert refused.returncode == 69
    assert "Unable to log de-identified data" in refused.stderr
    assert spy.seen() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_reaches_the_command_first_and_nothing_is_left_behind(
    site: Site, tmp_path: Path, number: signal.Signals
) -> None:
    script = tmp_path / "slow.sh"
    script.write_text(
        f'trap "echo told >> {tmp_path / "told"}; exit 9" TERM INT HUP\n'
        f"echo $$ >> {tmp_path / 'started'}\nwhile true; do sleep 0.05; done\n"
    )
    process = site.start("exec", str(PATIENT), "--as", "pacs", "--", "bash", str(script), "{}")
    for _ in range(400):
        if (tmp_path / "started").exists():
            break
        time.sleep(0.05)
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert (tmp_path / "told").read_text().split() == ["told"]
    assert len((tmp_path / "started").read_text().split()) == 1, "no further command was started"
    assert outcomes(site) == {("failed", "pacs")}
    assert staging(site) == []


def test_a_signal_that_comes_while_the_command_begins_reaches_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(subprocess.Popen[bytes]):
        def __init__(self, *words: Any, **options: Any) -> None:
            super().__init__(*words, **options)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(subprocess, "Popen", Slow)
    monkeypatch.setattr(sys, "stderr", sys.__stderr__)  # pytest's own has no descriptor
    (tmp_path / "staged").touch()
    command = Command(["bash", "-c", "sleep 60 # {}"], "pacs")
    with command.forward_signals():
        [delivery] = command.deliver([Outgoing(tmp_path / "staged", "1", "2", "3")], False)
        with pytest.raises(Interrupted):
            command.refuse_to_go_on()
    assert delivery.reason == f"the command ended with signal {signal.SIGTERM.value}"


def sent(tmp_path: Path, count: int, script: str) -> set[str]:
    """What became of so many acquisitions, given to a command together."""
    (tmp_path / "staged").touch()
    command = Command(["bash", "-c", f"{script} # {{}}"], "pacs", together=True)
    files = [Outgoing(tmp_path / "staged", "1", f"2.{n}", "3", f"{n:032X}") for n in range(count)]
    return {delivery.status for delivery in command.deliver(files, False)}


def test_thousands_of_acquisitions_together_fit_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", sys.__stderr__)
    told = 'test $(grep -c log_id "$DEID_LOG_MANIFEST") = 4000 && test -z "$DEID_LOG_IDS"'
    assert sent(tmp_path, 4000, told) == {"uploaded"}
    assert sent(tmp_path, 20, 'test $(wc -w <<< "$DEID_LOG_IDS") = 20') == {"uploaded"}


def test_what_a_command_leaves_behind_that_cannot_be_removed_is_not_its_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_ours(self: object) -> None:  # as of a container that runs as another user
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(sys, "stderr", sys.__stderr__)
    monkeypatch.setattr("tempfile.TemporaryDirectory.cleanup", not_ours)
    assert sent(tmp_path, 1, "exit 0") == {"uploaded"}


def test_a_command_that_is_killed_has_failed(site: Site) -> None:
    ran = execute(site, ["bash", "-c", "kill -9 $$ # {}"])
    assert ran.returncode == 3
    assert "signal 9" in ran.stdout
    assert outcomes(site) == {("failed", "pacs")}


@pytest.mark.parametrize(
    "words", [["true"], ["no-such-program", "{}"], ["/etc/passwd", "{}"], ["{}"]]
)
def test_a_command_that_cannot_work_is_refused_before_anything_is_read(
    site: Site, words: list[str]
) -> None:
    refused = execute(site, words)
    assert refused.returncode == 2
    assert "The command" in refused.stderr
    assert site.logged() == set()


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    port, folder = free_port(), tmp_path / "received"
    with archive(port, folder):
        yield port, folder


def of_dcmtk(name: str, port: int) -> list[str]:
    """The command of the page, which names an archive of its own."""
    path = program(f"/usr/bin/{name}")
    command = next(each for each in COMMANDS if re.search(rf"\b{name} ", each))
    for of_the_page, here in (("pacs 11112", f"127.0.0.1 {port}"), (f"{name} ", f"{path} ")):
        command = command.replace(of_the_page, here)
    return shlex.split(command)


@pytest.mark.parametrize("name", ["storescu", "dcmsend"])
def test_dcmtk_sends_what_is_in_the_log(site: Site, receiver: tuple[int, Path], name: str) -> None:
    port, folder = receiver
    ran = execute(site, of_dcmtk(name, port))
    assert ran.returncode == 0, ran.stderr
    assert {path.stem for path in folder.iterdir()} == site.logged()


@pytest.mark.parametrize("name", ["storescu", "dcmsend"])
@pytest.mark.parametrize("how", ["refuses some", "dies"])
def test_what_dcmtk_could_not_send_has_failed(
    site: Site, port: int, tmp_path: Path, name: str, how: str
) -> None:
    with archive(port, tmp_path / "received", how):
        ran = site.run("exec", str(CT), "--as", "pacs", "--", *of_dcmtk(name, port))
    assert set(statuses(ran.stdout)) == {"failed"}
    assert outcomes(site) == {("failed", "pacs")}


def sent_to(folder: Path) -> set[str]:
    return {str(dcmread(path).SOPInstanceUID) for path in folder.rglob("*.dcm")}


@pytest.mark.parametrize("options", [[], ["--together"]], ids=["one by one", "together"])
def test_what_several_runs_send_to_one_place_does_not_meet(
    site: Site, tmp_path: Path, options: list[str]
) -> None:
    command = [program("rsync"), "-r", "{}/", str(tmp_path / "mirror")]
    for source in (CT, PATIENT / "CR1", PATIENT):
        ran = site.run("exec", str(source), "--as", "mirror", *options, "--", *command)
        assert ran.returncode == 0, ran.stderr
    assert sent_to(tmp_path / "mirror") == site.logged()


@pytest.mark.ci
def test_the_aws_client_sends_what_is_in_the_log(site: Site, tmp_path: Path) -> None:
    bucket = tmp_path / "bucket"

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            path = Path(f"{bucket}{self.path.partition('?')[0]}")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    command = [program("/usr/bin/aws"), "s3", "cp", "--recursive", "{}", "s3://bucket/images/"]
    where = ["--endpoint-url", f"http://127.0.0.1:{server.server_port}", "--no-sign-request"]
    try:
        ran = execute(site, [*command, *where, "--region", "nowhere"], "--together")
    finally:
        server.shutdown()
        server.server_close()
    assert ran.returncode == 0, ran.stderr
    assert sent_to(bucket) == site.logged()


@pytest.mark.ci
def test_curl_sends_what_is_in_the_log(networked: Site, orthanc: Orthanc) -> None:
    send = (
        "for file in {}/*; do curl -sf --data-binary @$file http://127.0.0.1:8042/instances; done"
    )
    ran = execute(networked, ["bash", "-ec", send])
    assert ran.returncode == 0, ran.stderr
    assert orthanc.instances() == networked.logged()


def test_results_go_to_standard_output_and_what_the_command_says_does_not(site: Site) -> None:
    ran = execute(site, ["bash", "-c", "echo chatter # {}"])
    assert "chatter" in ran.stderr
    assert "chatter" not in ran.stdout
    assert Counter(statuses(ran.stdout)).total() > 3
