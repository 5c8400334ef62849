"""A process that has imported what commands import, and becomes one for each that it is asked for.

``python tests/warm.py SOCKET``: ends when its standard input does. A client sends one request as
JSON, with the three streams of the command; the answer is the process id, then the exit code.
What the command sees of itself is what it would see if Python had started it, but for the
arguments that ``/proc`` shows.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import importlib.metadata
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import threading
import time
import traceback
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

IMPORTED = (
    *("deid_hooks.cli", "deid_hooks.hooks", "deid_hooks.uploader.upload", "deid_hooks.copy_log"),
    *("deid_hooks.backends.sqlite", "deid_hooks.engines.basic", "deid_hooks.engines.dicognito"),
    *("deid_hooks.admin.export_log", "deid_hooks.admin.import_log", "deid_hooks.admin.reidentify"),
    *(
        "deid_hooks_http",
        "deid_hooks_service.cli",
        "deid_hooks_service.application",
        "deid_hooks_sql",
    ),
    *("deid_hooks.destinations.dicomweb", "deid_hooks_flywheel", "deid_hooks_sql"),
    *("dicomanonymizer", "dicognito.anonymizer", "platformdirs", "sqlite_utils", "uvicorn"),
)
"""Not pynetdicom: once it is imported, pydicom takes files that it refuses alone."""

_LONGEST = 1 << 20


def import_all() -> None:
    """Import what takes long, where it is installed, and read what the installation offers."""
    with warnings.catch_warnings(action="ignore"):
        for name in IMPORTED:
            try:
                importlib.import_module(name)
            except ImportError:
                continue
    importlib.metadata.entry_points()
    gc.collect()
    gc.freeze()  # collections of the commands leave these objects, and their memory, alone


class Warm:
    """The process that serves, at a socket; ``serve`` returns in each of its forks only."""

    def __init__(self, path: str) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"{path}.new")
        self._listener.listen(64)
        Path(f"{path}.new").rename(path)  # whoever sees it can connect
        self._clients: dict[int, socket.socket] = {}
        self._ended, wakes = socket.socketpair()
        wakes.setblocking(False)
        self._ended.setblocking(False)
        self._wakes = wakes
        self._selector = selectors.DefaultSelector()
        for readable in (self._listener, self._ended, sys.stdin):
            self._selector.register(readable, selectors.EVENT_READ)

    def serve(self) -> dict[str, Any]:
        """Fork for each client. Returns in the forks, with what the client asked for."""
        signal.set_wakeup_fd(self._wakes.fileno())
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is sys.stdin:
                    os._exit(0)
                if key.fileobj is self._ended:
                    self._ended.recv(4096)
                    self._report()
                elif key.fileobj is not self._listener:
                    self._end(key.fileobj)
                elif request := self._take():
                    return request

    def _report(self) -> None:
        """Send the exit code of each command that has ended to whoever asked for it."""
        while self._clients:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            with self._clients.pop(pid) as client, suppress(OSError, KeyError):
                self._selector.unregister(client)
                client.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))

    def _end(self, gone: Any) -> None:
        """End the command of a client that has gone."""
        self._selector.unregister(gone)
        for pid, client in self._clients.items():
            if client is gone:
                os.kill(pid, signal.SIGTERM)

    def _take(self) -> dict[str, Any] | None:
        """Fork for a client: its request in the fork, None in this process."""
        client, _ = self._listener.accept()
        message, streams, _, _ = socket.recv_fds(client, _LONGEST, 3)
        while message and not message.endswith(b"\n"):
            message += client.recv(_LONGEST)
        if not message:
            client.close()
            return None
        pid = os.fork()
        if pid:
            self._clients[pid] = client
            for stream in streams:
                os.close(stream)
            with suppress(OSError):  # it may have gone already, which the selector tells
                client.sendall(b"%d\n" % pid)
            self._selector.register(client, selectors.EVENT_READ)
            return None
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._selector.close()  # or it would close another's descriptor when it is collected
        for number, stream in enumerate(streams):
            os.dup2(stream, number, inheritable=True)
        os.closerange(3, max(*streams, client.fileno()) + 64)
        request: dict[str, Any] = json.loads(message)
        return request


def become(request: dict[str, Any]) -> None:
    """Be the process that the request describes, before its program runs."""
    os.chdir(request["cwd"])
    os.umask(request["umask"])
    coerced = {"LC_CTYPE": os.environ["LC_CTYPE"]} if "LC_CTYPE" in os.environ else {}
    os.environ.clear()
    os.environ.update(request["env"])
    if not {"LANG", "LC_ALL", "LC_CTYPE"} & os.environ.keys():
        os.environ.update(coerced)  # as Python does (PEP 538)
    time.tzset()
    modes = {"stdin": "r", "stdout": "w", "stderr": "w"}
    for number, (name, mode) in enumerate(modes.items()):
        old = getattr(sys, f"__{name}__")
        form = {"encoding": old.encoding, "errors": old.errors}
        stream: Any = os.fdopen(number, mode, closefd=False, **form)
        stream.reconfigure(line_buffering=name == "stderr" or stream.isatty())
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    program = request["argv"][0]
    sys.argv = request["argv"]
    more = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:1] = [str(Path(program).parent), *filter(None, more)]


def run(program: str) -> NoReturn:
    """Run a program to its end, and end as Python does, without taking everything down first."""
    code = 0
    try:
        runpy.run_path(program, run_name="__main__")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
    except OSError:
        code = 120
    os._exit(code & 0xFF)


if __name__ == "__main__":
    import_all()
    asked = Warm(sys.argv[1]).serve()
    become(asked)
    run(asked["argv"][0])
