"""Runs our programs as their users do, in processes of their own, without waiting for imports.

Each process is a fork of one that has imported everything (``warm.py``). What is recognised by its
arguments in ``/proc``, is traced, or depends on how Python starts needs ``subprocess`` itself.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO

BIN = Path(sys.executable).parent


class Command:
    """A command that runs: what of ``subprocess.Popen`` is needed."""

    def __init__(
        self,
        words: Sequence[str | Path],
        *,
        env: Mapping[str, str],
        cwd: Path | None = None,
        stdout: IO[bytes] | None = None,
        stderr: IO[bytes] | None = None,
    ) -> None:
        self.args = [str(word) for word in words]
        self.returncode: int | None = None
        os.umask(umask := os.umask(0))
        asked = {"argv": self.args, "env": dict(env), "cwd": str(cwd or Path.cwd()), "umask": umask}
        message = json.dumps(asked).encode() + b"\n"
        self._server = socket.socket(socket.AF_UNIX)
        self._server.connect(_warm_process())
        with Path(os.devnull).open("r+b") as null:
            streams = [(stream or null).fileno() for stream in (None, stdout, stderr)]
            sent = socket.send_fds(self._server, [message], streams)
            self._server.sendall(message[sent:])
        self._answers = self._server.makefile("r")
        self.pid = int(self._answers.readline())

    def poll(self) -> int | None:
        """Return its exit code, or None while it runs."""
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return its exit code once it has ended. Raises TimeoutExpired, and leaves it alone."""
        if self.returncode is None:
            if not select.select([self._server], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self.returncode = int(self._answers.readline())
            self._answers.close()
            self._server.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)


def run_command(
    words: Sequence[str | Path], *, env: Mapping[str, str], cwd: Path, timeout: float = 100
) -> subprocess.CompletedProcess[str]:
    """Run a Python program to its end; as ``subprocess.run``, with nothing on standard input."""
    if any(name.startswith(("PYTHON", "LD_")) and name != "PYTHONPATH" for name in env):
        return subprocess.run(  # these change how Python starts
            words, env=env, cwd=cwd, timeout=timeout, capture_output=True, text=True
        )
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        command = Command(words, env=env, cwd=cwd, stdout=out, stderr=err)
        try:
            code = command.wait(timeout)
        finally:
            command.send_signal(signal.SIGKILL)
        return subprocess.CompletedProcess(command.args, code, _text(out), _text(err))


_THROUGH = """#!{python} -IS
import json, os, sys, _socket
server = _socket.socket(_socket.AF_UNIX)
server.connect({socket!r})
os.umask(umask := os.umask(0))
argv = [{program!r}, *sys.argv[1:]]
asked = {{"argv": argv, "env": dict(os.environ), "cwd": os.getcwd(), "umask": umask}}
message = json.dumps(asked).encode() + b"\\n"
streams = b"".join(n.to_bytes(4, sys.byteorder) for n in (0, 1, 2))
sent = server.sendmsg([message], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, streams)])
while sent < len(message):
    sent += server.send(message[sent:])
answers = b""
while answers.count(b"\\n") < 2:
    answers += server.recv(100) or sys.exit("the process that commands are forked from has ended")
code = int(answers.split()[1])
os._exit(code) if code >= 0 else os.kill(os.getpid(), -code)
"""


@cache
def folder_of_programs() -> Path:
    """Return a folder for ``PATH``, whose programs are run as by :func:`run_command`."""
    server = _warm_process()
    folder = Path(server).parent / "bin"
    folder.mkdir()
    for name in ("deid-hooks", "deid-hooks-service"):
        made = folder / name
        made.touch(0o700)
        script = _THROUGH.format(python=sys.executable, socket=server, program=str(BIN / name))
        made.write_text(script)
    return folder


def _text(stream: IO[bytes]) -> str:
    stream.seek(0)
    return stream.read().decode().replace("\r\n", "\n")


@cache
def _warm_process() -> str:
    """Start the process that is forked, once in each worker of pytest; return its socket."""
    path = f"{tempfile.mkdtemp(prefix='deid-hooks-warm-')}/socket"
    server = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("warm.py"), path],
        env={"PATH": os.environ["PATH"], "OPENBLAS_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
    )
    while not Path(path).exists():
        assert server.poll() is None, "the process that commands are forked from has ended"
        time.sleep(0.02)

    @atexit.register
    def end() -> None:
        assert server.stdin is not None
        server.stdin.close()
        server.wait(30)
        shutil.rmtree(Path(path).parent)

    return path
