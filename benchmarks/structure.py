"""Print how the code is built: lines, files, the longest function, and what one upload calls.

python -m benchmarks.structure

``code lines`` leaves out blank lines, comments, docstrings, the package ``testing`` and everything
that belongs to migrations. ``files`` counts all of them. ``modules of one upload`` are those of
which a function was called, in the main thread, by ``upload DIR folder:DIR --jobs 1`` of two series
after another such upload, so that imports don't count; the modules of ``cli`` are left out. Calls
in other threads, such as the one of the store, are not seen.

An ``upward call`` is one from a lower into a higher package. Frames of other libraries that stand
between the two are passed over, and resuming an iterator is a call. The source is the one that
``deid_hooks`` is imported from.
"""

from __future__ import annotations

import ast
import inspect
import io
import json
import os
import subprocess
import sys
import tempfile
import tokenize
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from benchmarks.ct import write_series

ORDER: tuple[tuple[str, ...], ...] = (
    ("cli", "deid_hooks_service"),
    ("admin",),
    ("uploader",),
    ("engines", "destinations", "deid_hooks_flywheel"),
    ("", "install", "hooks", "upload", "acquisition"),
    ("gate",),
    ("access",),
    ("log", "copy_log"),
    ("backends", "deid_hooks_sql", "deid_hooks_http", "deid_hooks_jsonl"),
    ("plugins", "settings"),
    ("query",),
    ("dicom",),
    ("records",),
    ("errors", "files", "deadline"),
)
"""Packages and modules of ``deid_hooks`` from the highest to the lowest, and our plugins.

``""`` is ``deid_hooks`` itself. Calls within one row are not upward.
"""

_NO_CODE = frozenset(
    (
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    )
)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_HAVE_DOCSTRINGS = (ast.Module, ast.ClassDef, *_FUNCTIONS)
_LEVELS = {name: -level for level, names in enumerate(ORDER) for name in names}


class Function(NamedTuple):
    """A function, how many lines it spans from ``def`` to its end, and its file."""

    lines: int
    name: str
    file: str


class Call(NamedTuple):
    """A call from a module of ours into another."""

    caller: str
    callee: str
    function: str


def main() -> None:
    """Measure the source and one upload, and print the table."""
    root = source_root()
    files = source_files(root)
    longest = max(function for file in files for function in functions_in(file, root))
    modules, calls = _one_upload()
    print("| what | figure |\n|---|---|")
    lines = sum(code_lines(file) for file in files if is_measured(file, root))
    print(f"| code lines | {lines:,} |")
    print(f"| files | {len(files)} |")
    print(f"| longest function | {longest.lines} lines: {longest.name}, {longest.file} |")
    below = [module for module in modules if package_of(module) != "cli"]
    print(f"| modules of one upload | {len(below)}, with cli {len(modules)} |")
    _print_upward(calls, modules)
    print("\nmodules of one upload:")
    for module in modules:
        print(f"  {module}")


def source_root() -> Path:
    """Return the folder of the checkout that ``deid_hooks`` is imported from."""
    found = find_spec("deid_hooks")
    assert found is not None and found.origin is not None
    return Path(found.origin).parents[2]


def source_files(root: Path) -> list[Path]:
    """Return every Python file of the package and of the plugins."""
    folders = [root / "src", *sorted(root.glob("plugins/*/src"))]
    return [file for folder in folders for file in sorted(folder.rglob("*.py"))]


def is_measured(file: Path, root: Path) -> bool:
    """Return whether the code lines of a file count: not of the kit, not of migrations."""
    return not any(
        name == "testing" or name.lstrip("_").startswith(("migrations", "version_1"))
        for name in file.relative_to(root).with_suffix("").parts
    )


def code_lines(file: Path) -> int:
    """Return how many lines of a file hold code."""
    text = file.read_text(encoding="utf-8")
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in _NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, _HAVE_DOCSTRINGS) and ast.get_docstring(node, clean=False) is not None:
            lines.difference_update(range(node.body[0].lineno, _end(node.body[0]) + 1))
    return len(lines)


def functions_in(file: Path, root: Path) -> Iterator[Function]:
    """Yield the functions of a file, those within others too."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, _FUNCTIONS):
            place = str(file.relative_to(root))
            yield Function(_end(node) - node.lineno + 1, node.name, place)


def upward_calls(calls: Counter[Call]) -> list[tuple[Call, int]]:
    """Return the calls from a lower into a higher package, and how often each was made."""
    return sorted(
        (call, times)
        for call, times in calls.items()
        if _level(call.caller, call.caller) < _level(call.callee, call.caller)
    )


def package_of(module: str) -> str:
    """Return the name under which ``ORDER`` holds a module: its package, or the plugin's name."""
    first, _, rest = module.partition(".")
    return rest.partition(".")[0] if first == "deid_hooks" else first


def _level(module: str, default: str) -> int:
    """Return how high a module stands; one without a place stands as high as ``default``."""
    return _LEVELS.get(package_of(module), _LEVELS.get(package_of(default), 0))


def _end(node: ast.stmt) -> int:
    assert node.end_lineno is not None
    return node.end_lineno


def _print_upward(calls: Counter[Call], modules: list[str]) -> None:
    """Print the upward calls, or that this tree has another order."""
    unplaced = [module for module in modules if package_of(module) not in _LEVELS]
    if find_spec("deid_hooks.records") is None:
        print("| upward calls | not applicable: this tree has other packages |")
        return
    found = upward_calls(calls)
    print(f"| upward calls | {len(found)} |")
    if unplaced:
        print(f"| modules without a place in the order | {', '.join(unplaced)} |")
    if found:
        print("\nupward calls:")
    for call, times in found:
        print(f"  {call.caller} -> {call.callee}.{call.function} ({times} times)")


def _one_upload() -> tuple[list[str], Counter[Call]]:
    """Upload two series in a new interpreter; return the modules called, and the calls."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_series(folder / "before", files=8, series=4)
        for series in sorted((folder / "before").iterdir())[2:]:
            (folder / "incoming").mkdir(exist_ok=True)
            series.rename(folder / "incoming" / series.name)
        ours = ("DEID_HOOKS_", "XDG_")
        environment = {
            **{key: text for key, text in os.environ.items() if not key.startswith(ours)},
            "HOME": name,
            "XDG_CONFIG_DIRS": f"{name}/site",
            "DEID_HOOKS_URL": f"sqlite:///{name}/log.db",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        command = [sys.executable, "-m", "benchmarks.structure", "upload", name]
        done = subprocess.run(command, env=environment, cwd=name, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stdout + done.stderr)
        found = json.loads((folder / "found.json").read_text())
    calls = Counter({Call(*call): times for call, times in found["calls"]})
    return found["modules"], calls


def _upload(folder: Path) -> None:
    """Upload two series in this process, and two more; write down what the latter called."""
    _run("init")
    _run("upload", str(folder / "before"), f"folder:{folder}/elsewhere", "--jobs", "1")
    modules: set[str] = set()
    calls: Counter[Call] = Counter()

    def record(frame: FrameType, event: str, argument: Any) -> None:
        if event != "call" or not frame.f_code.co_flags & inspect.CO_OPTIMIZED:
            return  # the body of a module or a class is no function
        module = _module_of(frame)
        if module is None:
            return
        modules.add(module)
        caller = _caller_of(frame)
        if caller is not None and caller != module:
            calls[Call(caller, module, frame.f_code.co_qualname)] += 1

    sys.setprofile(record)
    try:
        _run("upload", str(folder / "incoming"), f"folder:{folder}/out", "--jobs", "1")
    finally:
        sys.setprofile(None)
    delivered = len(list((folder / "out").rglob("*.dcm")))
    assert delivered == 4, f"{delivered} of 4 files arrived"
    found = {"modules": sorted(modules), "calls": list(calls.items())}
    (folder / "found.json").write_text(json.dumps(found))


def _run(*words: str) -> None:
    """Run a command of ``deid-hooks`` in this process."""
    scripts = distribution("deid-hooks").entry_points.select(group="console_scripts")
    command = scripts["deid-hooks"].load()
    said = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    sys.argv = ["deid-hooks", *words]
    try:
        with redirect_stdout(said), redirect_stderr(said):
            command()
    except SystemExit as end:
        if end.code:
            said.seek(0)
            raise SystemExit(f"{words[0]} ended with {end.code}: {said.read()}") from None


def _module_of(frame: FrameType) -> str | None:
    """Return the module of ours whose function runs in a frame; None for another library's."""
    name = frame.f_globals.get("__name__", "")
    return name if isinstance(name, str) and name.startswith("deid_hooks") else None


def _caller_of(frame: FrameType) -> str | None:
    """Return the nearest module of ours that waits for the function in a frame."""
    waiting = frame.f_back
    while waiting is not None:
        module = _module_of(waiting)
        if module is not None:
            return module
        waiting = waiting.f_back
    return None


if __name__ == "__main__":
    if sys.argv[1:2] == ["upload"]:
        _upload(Path(sys.argv[2]))
    else:
        main()
