"""Files a second to an archive with and without the hooks, series by series in turn.

python -m benchmarks.receivers [FILES ROUNDS]

The archive takes everything: a pynetdicom storage provider, or a stand-in for a DICOMweb server,
in a process of its own on loopback.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median

from pydicom import dcmread, dcmwrite

from benchmarks.ct import write_series
from deid_hooks import DeidHooks, Pseudonyms
from deid_hooks.destinations import Destination, Outgoing, open_destination
from deid_hooks.engines.basic import engine as basic

_A_SERIES = 20
_UID = re.compile(rb"\x08\x00\x18\x00UI..([0-9.]+)", re.DOTALL)


def main(files: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_series(folder / "source", files, files // _A_SERIES)
        url = f"sqlite:///{folder}/log.db"
        with DeidHooks.load("benchmark/1", url=url, secret_file=folder / "secret") as hooks:
            hooks.init()
            print("| archive | without, files/s | with, files/s | the log |\n|---|---|---|---|")
            for kind in ("dicom", "dicomweb"):
                measure(kind, hooks, folder, rounds)


def measure(kind: str, hooks: DeidHooks, folder: Path, rounds: int) -> None:
    series = [sorted(each.iterdir()) for each in sorted((folder / "source").iterdir())]
    receiver = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.receivers", "serve", kind], stdout=subprocess.PIPE
    )
    assert receiver.stdout is not None
    address = receiver.stdout.readline().decode().strip()
    try:
        archive = open_destination(address)
        archive.check()
        taken: tuple[list[float], list[float]] = ([], [])
        for number in range(rounds):
            for at, paths in enumerate(series):
                jobs = [partial(send, archive, hooks, folder, paths, way) for way in (False, True)]
                for way in (0, 1) if (number + at) % 2 else (1, 0):
                    begun = time.perf_counter()
                    jobs[way]()
                    taken[way].append((time.perf_counter() - begun) / len(paths))
    finally:
        receiver.kill()
        receiver.wait()
    without, with_log = (median(each) for each in taken)
    share = (with_log - without) / without
    print(f"| {kind} | {1 / without:.0f} | {1 / with_log:.0f} | {share:.1%} |", flush=True)


def send(
    archive: Destination, hooks: DeidHooks, folder: Path, paths: Sequence[Path], logged: bool
) -> None:
    """Read, engine, write and send a series; with the log or without."""
    staging = folder / "staging"
    staging.mkdir(exist_ok=True)
    engine = basic("", Pseudonyms("BENCHMARK", b"k" * 32))
    with hooks.acquisition("BENCHMARK") as acquisition:
        files = []
        for path in paths:
            dataset = dcmread(path)
            with acquisition.deidentifying(dataset) if logged else nullcontext():
                engine(dataset)
            dcmwrite(staging / path.name, dataset)
            uids = (dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID)
            files.append(Outgoing(staging / path.name, *map(str, uids)))
        if logged:
            acquisition.post_deid()
    if not logged:
        deliveries = archive.deliver(files, tried_before=False)
    else:
        with hooks.uploading(acquisition.log_id, archive.name) as upload:
            deliveries = archive.deliver(files, tried_before=False)
            upload.sent_all()
    assert all(delivery.status == "uploaded" for delivery in deliveries)


def serve(kind: str) -> None:
    """Take everything, until killed."""
    if kind == "dicom":
        from pynetdicom import AE, AllStoragePresentationContexts, evt
        from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

        entity = AE("ARCHIVE")
        for context in AllStoragePresentationContexts:
            entity.add_supported_context(str(context.abstract_syntax))
        entity.add_supported_context(Verification)
        server = entity.start_server(
            ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, lambda event: 0)]
        )
        assert server is not None
        print(f"dicom://ARCHIVE@127.0.0.1:{server.server_address[1]}", flush=True)
        time.sleep(3600)
    web = ThreadingHTTPServer(("127.0.0.1", 0), Web)
    print(f"dicomweb+http://127.0.0.1:{web.server_port}/dicom-web", flush=True)
    web.serve_forever()


class Web(BaseHTTPRequestHandler):
    """A stand-in for a DICOMweb archive that took what it was sent."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer(b"[]")

    def do_POST(self) -> None:
        body = b"".join(self.chunks())
        items = [{"00081155": {"vr": "UI", "Value": [uid.decode()]}} for uid in _UID.findall(body)]
        self.answer(json.dumps({"00081199": {"vr": "SQ", "Value": items}}).encode())

    def chunks(self) -> Iterator[bytes]:
        if "Content-Length" in self.headers:
            yield self.rfile.read(int(self.headers["Content-Length"]))
            return
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/dicom+json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        return None


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(sys.argv[2])
    else:
        main(*map(int, [*sys.argv[1:], "200", "5"][:2]))
