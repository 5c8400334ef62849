"""Plugins that do what plugins must not do, at each hook, and engines: to the whole program."""

from __future__ import annotations

import pytest

from tests.faults.aftermath import completed, kept, leaks, message, out_there
from tests.faults.conftest import chosen
from tests.faults.scene import Scene
from tests.faults.tally import Tally

pytestmark = pytest.mark.ci

HOOKS = ("pre_upload", "post_deid", "post_upload")
DEEDS = {
    "changes the event": (
        "[object.__setattr__(event, name, 'changed') for name in type(event).__slots__]"
    ),
    "raises": "raise ValueError(f'{event} Qxsurname^Qxgiven') from KeyError('QXPID0042')",
    "raises what is no Exception": "raise KeyboardInterrupt('Qxsurname^Qxgiven')",
    "hangs": "time.sleep(60)",
    "exits": "sys.exit(0)",
    "exits at once": "os._exit(0)",
    "kills": "os.kill(os.getpid(), signal.SIGKILL)",
    "terminates": "os.kill(os.getpid(), signal.SIGTERM); time.sleep(1)",
    "returns an object": "return object()",
    "returns the event": "return event",
    "returns True": "return True",
    "returns an empty text": "return ''",
    "closes our connection": (
        "[each.close() for each in gc.get_objects() if isinstance(each, sqlite3.Connection)]"
    ),
    "closes our descriptors": "os.closerange(3, 64)",
    "changes the values": (
        "entry = getattr(event, 'entry', None)\n"
        "    if entry: entry.fields.clear(); entry.originals.clear()"
    ),
    "floods": "print('x' * 10_000_000, file=sys.stderr); return 'y' * 10_000_000",
    "begins a thread that stays": "threading.Thread(target=time.sleep, args=(3,)).start()",
}
MODULE = """
import gc, os, pathlib, signal, sqlite3, sys, threading, time
from deid_hooks import hookimpl
@hookimpl
def {hook}(event):
    pathlib.Path("injected").touch()
    {deed}
"""

OF_AN_ENGINE = {
    "raises": "raise ValueError(str(dataset))",
    "wraps what the system says": (
        "try: open(str(dataset.PatientName))\n"
        "            except OSError as error: raise ValueError(str(dataset)) from error"
    ),
    "exits with a text": "raise SystemExit(str(dataset.PatientName))",
    "exits at once": "os._exit(1)",
    "kills": "os.kill(os.getpid(), signal.SIGKILL)",
    "calls itself": "engine(dataset)",
    "asks for too much memory": "bytearray(1 << 50)",
    "empties the dataset": "dataset.clear(); return",
    "can't be made": None,
}
"""What is done to the second patient, and to the first what the engine ``basic`` does."""

ENGINE = """
import os, pathlib, signal
from deid_hooks.engines.basic import engine as basic
def plugin(argument, pseudonyms):
    {factory}
    rest = basic("", pseudonyms)
    def engine(dataset):
        if dataset.PatientID.endswith("-2"):
            pathlib.Path("injected").touch()
            {deed}
        rest(dataset)
    return engine
"""
UNMADE = 'pathlib.Path("injected").touch(); raise ValueError("Qxsurname^Qxgiven")'

ENDS_THE_PROCESS = ("exits at once", "kills", "terminates")
"""What it does, it does to us: no program has the last word then, nor says why."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "odd" in metafunc.fixturenames:
        odd = [(deed, jobs) for deed in OF_AN_ENGINE for jobs in (1, 2)]
        metafunc.parametrize(("odd", "jobs"), chosen(metafunc.config, odd, 3, len(odd)))
    if "deed" in metafunc.fixturenames:
        cases = [(hook, deed) for deed in DEEDS for hook in HOOKS]
        metafunc.parametrize(("hook", "deed"), chosen(metafunc.config, cases, 3, 18))


def test_whatever_a_plugin_does_nothing_leaves_unlogged(
    scene: Scene, hook: str, deed: str, tally: Tally
) -> None:
    scene.plug_in(MODULE.format(hook=hook, deed=DEEDS[deed]))
    ran = scene.upload_all(DEID_HOOKS_PLUGIN_TIMEOUT="2")
    scene.unplug()
    injected = (scene.folder / "injected").exists()
    harm = scene.folder / "plugins"
    harm.rename(scene.folder.parent / "plugins")  # its own text has the values that it quotes
    problems = [*out_there(scene), *kept(scene, ran), *leaks(scene, ran)]
    if deed not in ENDS_THE_PROCESS:
        problems += message(ran, scene.files() == scene.stage.undisturbed)
    tally(f"plugin {deed}", int(injected), [*problems, *completed(scene)])


def test_whatever_an_engine_does_nothing_leaves_unlogged(
    scene: Scene, odd: str, jobs: int, tally: Tally
) -> None:
    deed = OF_AN_ENGINE[odd]
    source = ENGINE.format(factory="pass" if deed else UNMADE, deed=deed or "pass")
    scene.plug_in(source, group="deid_hooks.engines", name="odd")
    ran = scene.ended(scene.go(jobs=jobs, engine="odd"))
    scene.unplug()
    injected = (scene.folder / "injected").exists()
    (scene.folder / "plugins").rename(scene.folder.parent / "plugins")
    problems = [*out_there(scene), *kept(scene, ran), *leaks(scene, ran)]
    if jobs > 1 or deed not in (OF_AN_ENGINE["exits at once"], OF_AN_ENGINE["kills"]):
        problems += message(ran, scene.files() == scene.stage.undisturbed)
    tally(f"engine {odd}", int(injected), [*problems, *completed(scene)])
