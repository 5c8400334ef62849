"""A forked command can't be told from one that Python started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import folder_of_programs, run_command

PROBE = """
import atexit, fcntl, json, locale, os, signal, sys, threading, time
atexit.register(print, "at exit")
threading.Thread(target=lambda: (time.sleep(0.1), print("a thread that lasts"))).start()
print(json.dumps({
    "argv": sys.argv, "path": sys.path[:2], "environment": sorted(os.environ.items()),
    "folder": os.getcwd(), "umask": os.umask(0), "main": __name__, "file": __file__,
    "streams": [[s.encoding, s.errors, s.line_buffering, s.isatty(), s.fileno()]
                for s in (sys.stdin, sys.stdout, sys.stderr)],
    "input": sys.stdin.read(), "time zone": time.tzname, "time": time.localtime(0)[3],
    "signals": [str(signal.getsignal(n)) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)],
    "descriptors": [n for n in range(3, 200) if os.path.exists(f"/proc/self/fd/{n}")][1:],
    "threads": threading.active_count(),
    "encoding": [locale.getpreferredencoding(), sys.getfilesystemencoding(), sys.flags.utf8_mode],
}))
print("on standard error \\udcff", file=sys.stderr)
if sys.argv[1] == "a signal":
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[1] == "an error":
    1 / 0
sys.exit({"a number": 3, "a text": "what went wrong", "nothing": None}[sys.argv[1]])
"""


@pytest.mark.parametrize("end", ["a number", "a text", "nothing", "an error", "a signal"])
def test_a_forked_command_does_what_one_that_python_starts_does(tmp_path: Path, end: str) -> None:
    program, more = tmp_path / "probe", tmp_path / "more"
    program.write_text(f"#!{sys.executable}\n{PROBE}")
    program.chmod(0o700)
    environment = {"PATH": os.environ["PATH"], "TZ": "Asia/Tokyo", "PYTHONPATH": str(more)}
    words = [str(program), end]
    started = subprocess.run(
        words,
        env=environment,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    forked = run_command(words, env=environment, cwd=tmp_path)
    assert forked.returncode == started.returncode
    assert forked.stdout == started.stdout
    assert forked.stderr.splitlines()[-1:] == started.stderr.splitlines()[-1:]


def test_a_program_on_the_path_ends_as_the_command_does(tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path), "PATH": f"{folder_of_programs()}:{os.environ['PATH']}"}
    for words, code in (("--help", 0), ("frobnicate", 2), ("--help | head -1", 0)):
        shell = f"deid-hooks {words}"
        done = subprocess.run(
            ["bash", "-c", shell], env=environment, cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == code
        assert ("Usage" in done.stdout) == (code == 0)
