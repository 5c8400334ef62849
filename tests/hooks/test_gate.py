"""Every line of the three rules counts, at every entry point: without it a check of ours fails."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pluggy
import pytest

import deid_hooks.gate
from deid_hooks import (
    DeidHooks,
    PostUpload,
    PreUpload,
    UnableToLog,
    UploadRefused,
    hookimpl,
    install,
)
from deid_hooks.gate import BLOCKED, NOT_LOGGED, Gate
from deid_hooks.records.model import Block, Entry, make_log_id, read_clock
from tests.hooks.conftest import URL
from tests.hooks.memory import STORES, MemoryBackend, Store
from tests.hooks.series import engine, fill, series

OUT = "folder:/out"
PASSWORD = "dicomweb+https://me:hunter2@pacs"
SOURCES = Path(deid_hooks.gate.__file__).parent


class Uploader:
    """An uploader that calls ``DeidHooks``."""

    def __init__(self, patch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
        self.patch, self.caplog = patch, caplog
        caplog.clear()
        self.store = STORES[URL] = Store()
        self.hooks = self.load(URL)
        self.hooks.init()

    def load(self, url: str) -> DeidHooks:
        return DeidHooks.load("tester/1.0", url=url, plugin_timeout=5)

    def log(self, reuse: bool = False, project: str = "", without_pixels: bool = False) -> str:
        with self.hooks.acquisition(project) as acquisition:
            fill(acquisition, series(2))
            if without_pixels:
                dataset = series(3)[2]
                with acquisition.deidentifying(dataset):
                    engine(dataset)
                    dataset.PixelData = bytes(len(dataset.PixelData))
            return self.post_deid(acquisition, reuse)

    def post_deid(self, acquisition: Any, reuse: bool) -> str:
        return str(acquisition.post_deid(reuse=reuse))

    def clear(self, log_id: str, destination: str = OUT) -> None:
        self.upload = self.hooks.uploading(log_id, destination)
        self.upload.__enter__()

    def conclude(self) -> None:
        self.upload.sent_all()
        self.upload.__exit__(None, None, None)

    def add_plugin(self, hook: str, does: Callable[[Any], Any], name: str = "mine") -> None:
        self.hooks.register(make_plugin(hookimpl, hook, does), name)

    def block(self, log_id: str) -> None:
        log = self.hooks.gate.open_log()
        (patient,) = log.resolve(log_id).patients
        log.append([Block(f"{1:032x}", read_clock(), patient, "", "x", "consent")])

    def events(self) -> list[tuple[str, str]]:
        return [(event.event, event.destination) for event in self.store.events]


class Host(Uploader):
    """An uploader that calls a pluggy manager of its own, and ignores what it returns."""

    def load(self, url: str) -> DeidHooks:
        self.pm = pluggy.PluginManager("host")
        return install(self.pm, "host/1.0", url=url, plugin_timeout=5)

    def post_deid(self, acquisition: Any, reuse: bool) -> str:
        event = acquisition.event(reuse=reuse)
        self.pm.hook.post_deid(event=event)
        return str(event.log_id)

    def clear(self, log_id: str, destination: str = OUT) -> None:
        self.cleared = PreUpload(log_id, destination, "host/1.0")
        self.pm.hook.pre_upload(event=self.cleared)

    def conclude(self) -> None:
        asked = self.cleared
        self.pm.hook.post_upload(
            event=PostUpload(asked.log_id, asked.destination, asked.uploader, "uploaded")
        )

    def add_own_plugin(self, hook: str, does: Callable[[Any], Any]) -> None:
        self.pm.register(make_plugin(pluggy.HookimplMarker("host"), hook, does), "own")


def make_plugin(marker: Any, hook: str, does: Callable[[Any], Any]) -> object:
    def implementation(event: Any) -> Any:
        return does(event)

    return type("Plugin", (), {hook: staticmethod(marker(implementation))})()


def fail(event: object) -> None:
    raise OSError


# What each rule is for. A check raises AssertionError where the uploader does not behave so.


def a_blocked_patient_is_not_logged(up: Uploader) -> None:
    up.block(up.log())
    with pytest.raises(UnableToLog, match=BLOCKED):
        up.log(project="OTHER")
    assert len(up.store.entries) == 1


def a_blocked_patient_is_not_sent(up: Uploader) -> None:
    log_id = up.log()
    up.block(log_id)
    with pytest.raises(UploadRefused, match=BLOCKED):
        up.clear(log_id)
    assert up.events() == []


def an_entry_is_in_the_log_before_a_plugin_is_called(up: Uploader) -> None:
    logged: list[int] = []
    up.add_plugin("post_deid", lambda event: logged.append(len(up.store.entries)))
    up.log()
    assert logged == [1]


def an_entry_of_other_content_is_not_reused(up: Uploader) -> None:
    other = up.log()
    up.patch.setattr(MemoryBackend, "with_digest", lambda *_: other)
    with pytest.raises(UnableToLog, match="and that is another entry"):
        up.log(reuse=True, project="OTHER")


def what_is_not_kept_is_named(up: Uploader) -> None:
    up.log(without_pixels=True)
    assert "PixelData changed and its original is not in the log" in up.caplog.text


def a_plugin_that_fails_stops_an_acquisition(up: Uploader) -> None:
    up.add_plugin("post_deid", fail)
    with pytest.raises(UnableToLog, match="the plugin mine raised OSError"):
        up.log()


def a_plugin_of_the_host_that_fails_stops_an_acquisition(up: Host) -> None:
    up.add_own_plugin("post_deid", fail)
    with pytest.raises(UnableToLog, match="a plugin of the host raised OSError"):
        up.log()


def logging_that_is_off_is_warned_of(up: Uploader) -> None:
    up.hooks = up.load("none:")
    log_id = up.log()
    up.caplog.clear()
    up.clear(log_id)
    assert [record.message for record in up.caplog.records] == [NOT_LOGGED]


def an_entry_that_is_lost_is_not_sent(up: Uploader) -> None:
    log_id = up.log()
    up.store.records.clear()
    with pytest.raises(UploadRefused, match="the log has no entry"):
        up.clear(log_id)
    assert up.events() == []


def an_entry_that_was_altered_is_not_sent(up: Uploader) -> None:
    log_id = up.log()
    up.store.altered = lambda entry: replace(entry, originals="{}")
    with pytest.raises(UploadRefused, match="altered in the store"):
        up.clear(log_id)
    assert up.events() == []


def every_reason_of_a_plugin_refuses(up: Uploader) -> None:
    up.add_plugin("pre_upload", lambda event: "no more", "quota")
    up.add_plugin("pre_upload", fail, "broken")
    log_id = up.log()
    with pytest.raises(UploadRefused) as caught:
        up.clear(log_id)
    assert set(caught.value.reasons) == {
        "the plugin quota refused: no more",
        "the plugin broken raised OSError in pre_upload",
    }
    assert up.events() == []


def a_plugin_of_the_host_refuses(up: Host) -> None:
    up.add_own_plugin("pre_upload", lambda event: "no more")
    log_id = up.log()
    with pytest.raises(UploadRefused, match="a plugin of the host refused: no more"):
        up.clear(log_id)
    assert up.events() == []


def what_may_leave_is_recorded_before_it_is_sent(up: Uploader) -> None:
    up.clear(up.log())
    assert up.events() == [("cleared", OUT)]


def an_instance_that_is_not_reported_is_missing(up: Uploader) -> None:
    up.clear(up.log())
    up.upload.sent(up.store.entries[0].instances[0].deid_uid)
    up.upload.__exit__(None, None, None)
    assert up.upload.outcome == "partial"


def an_outcome_is_recorded(up: Uploader) -> None:
    up.clear(up.log())
    up.conclude()
    assert [event for event, _ in up.events()][1:] == ["uploaded"]


def a_plugin_hears_of_the_outcome(up: Uploader) -> None:
    heard: list[PostUpload] = []
    up.add_plugin("post_upload", heard.append)
    up.clear(up.log())
    up.conclude()
    assert [event.outcome for event in heard] == ["uploaded"]


def a_plugin_that_fails_after_sending_is_reported(up: Uploader) -> None:
    up.add_plugin("post_upload", fail)
    up.clear(up.log())
    up.conclude()
    assert "the plugin mine raised OSError in post_upload" in up.caplog.text


def a_plugin_of_the_host_that_fails_after_sending_is_reported(up: Host) -> None:
    up.add_own_plugin("post_upload", fail)
    up.clear(up.log())
    up.conclude()
    assert "a plugin of the host raised OSError in post_upload" in up.caplog.text


@dataclass(frozen=True)
class OtherEvent:
    """Has what the rule reads of a PostDeid, and is not one."""

    log_id: str
    entry: Entry
    reused: bool = False
    not_kept: tuple[str, ...] = ()


def an_event_of_another_kind_is_not_logged(up: Host) -> None:
    up.log()
    entry = replace(up.store.entries[0], log_id=make_log_id())
    with pytest.raises(UnableToLog, match="without the event of an acquisition"):
        up.pm.hook.post_deid(event=OtherEvent(entry.log_id, entry))
    assert len(up.store.entries) == 1


def the_password_of_a_destination_is_masked_when_it_is_cleared(up: Host) -> None:
    up.clear(up.log(), PASSWORD)
    assert [destination for _, destination in up.events()] == ["dicomweb+https://me:***@pacs"]


def the_password_of_a_destination_is_masked_in_the_outcome(up: Host) -> None:
    up.clear(up.log(), PASSWORD)
    up.conclude()
    assert {destination for _, destination in up.events()} == {"dicomweb+https://me:***@pacs"}


def an_outcome_that_is_none_is_reported(up: Host) -> None:
    up.pm.hook.post_upload(event=PostUpload(up.log(), OUT, "host/1.0", "done"))
    assert "no outcome was recorded" in up.caplog.text
    assert up.events() == []


@dataclass(frozen=True)
class Rule:
    """A line of the gate, what it is for, and what takes its place when it is removed."""

    line: str
    check: Callable[[Any], None]
    instead: str = "pass"
    entry_points: tuple[type[Uploader], ...] = (Uploader, Host)


RULES = {
    "log_around": [
        Rule(
            "raise UnableToLog('post_deid was called without the event of an acquisition')",
            an_event_of_another_kind_is_not_logged,
            entry_points=(Host,),
        ),
        Rule("self._refuse_blocked(event.entry)", a_blocked_patient_is_not_logged),
        Rule("self._require_equal(event.entry)", an_entry_of_other_content_is_not_reused),
        Rule(
            "self.open_log().append([event.entry])",
            an_entry_is_in_the_log_before_a_plugin_is_called,
        ),
        Rule("_warn_of_what_is_not_kept(event)", what_is_not_kept_is_named),
        Rule("answers += self._ask('post_deid', event)", a_plugin_that_fails_stops_an_acquisition),
        Rule(
            "answers += (yield from _ask_host('post_deid'))",
            a_plugin_of_the_host_that_fails_stops_an_acquisition,
            "yield from _ask_host('post_deid')",
            (Host,),
        ),
        Rule("_refuse_failures_and_answers(answers)", a_plugin_that_fails_stops_an_acquisition),
    ],
    "clear_around": [
        Rule(
            "event = make_pre_upload(event)",
            the_password_of_a_destination_is_masked_when_it_is_cleared,
            entry_points=(Host,),
        ),
        Rule("self._warn_if_off()", logging_that_is_off_is_warned_of),
        Rule(
            "entry = self._resolve(event.log_id)", an_entry_that_is_lost_is_not_sent, "entry = None"
        ),
        Rule(
            "entry = self._resolve(event.log_id)",
            an_entry_that_was_altered_is_not_sent,
            "entry = None",
        ),
        Rule("self._refuse_blocked(entry)", a_blocked_patient_is_not_sent),
        Rule("answers += self._ask('pre_upload', event)", every_reason_of_a_plugin_refuses),
        Rule(
            "answers += (yield from _ask_host('pre_upload'))",
            a_plugin_of_the_host_refuses,
            "yield from _ask_host('pre_upload')",
            (Host,),
        ),
        Rule("_refuse_with_every_reason(answers)", every_reason_of_a_plugin_refuses),
        Rule("self._record(event, 'cleared')", what_may_leave_is_recorded_before_it_is_sent),
        Rule(
            "return entry",
            an_instance_that_is_not_reported_is_missing,
            entry_points=(Uploader,),
        ),
    ],
    "conclude_around": [
        Rule(
            "event = _write_plainly(event)",
            the_password_of_a_destination_is_masked_in_the_outcome,
            entry_points=(Host,),
        ),
        Rule("self._record_outcome(event)", an_outcome_is_recorded),
        Rule("answers += self._ask('post_upload', event)", a_plugin_hears_of_the_outcome),
        Rule(
            "logger.error(NO_OUTCOME)",
            an_outcome_that_is_none_is_reported,
            entry_points=(Host,),
        ),
        Rule(
            "answers += (yield from _ask_host('post_upload'))",
            a_plugin_of_the_host_that_fails_after_sending_is_reported,
            "yield from _ask_host('post_upload')",
            (Host,),
        ),
        Rule("_report_failures(event, answers)", a_plugin_that_fails_after_sending_is_reported),
    ],
}

CASES = [
    pytest.param(name, rule, entry_point, id=f"{rule.check.__name__}-{entry_point.__name__}")
    for name, rules in RULES.items()
    for rule in rules
    for entry_point in rule.entry_points
]


def find_rule(tree: ast.Module, name: str) -> ast.FunctionDef:
    (found,) = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == name]
    return found


def remove_line(name: str, rule: Rule) -> Any:
    """Compile the gate again without one line of one rule, and return that rule."""

    class Remove(ast.NodeTransformer):
        removed = 0

        def visit(self, node: ast.AST) -> Any:
            if isinstance(node, ast.stmt) and ast.unparse(node) == rule.line:
                self.removed += 1
                return ast.copy_location(ast.parse(rule.instead).body[0], node)
            return self.generic_visit(node)

    tree = ast.parse((SOURCES / "gate.py").read_text(encoding="utf-8"))
    remove = Remove()
    remove.visit(find_rule(tree, name))
    assert remove.removed == 1
    without: dict[str, Any] = {"__name__": "deid_hooks.gate"}
    exec(compile(ast.fix_missing_locations(tree), "gate.py", "exec"), without)
    return getattr(without["Gate"], name)


@pytest.mark.parametrize(("name", "rule", "entry_point"), CASES)
def test_each_line_of_a_rule_is_needed_at_each_entry_point(
    name: str,
    rule: Rule,
    entry_point: type[Uploader],
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with monkeypatch.context() as patch:
        rule.check(entry_point(patch, caplog))
    with monkeypatch.context() as patch:
        patch.setattr(Gate, name, remove_line(name, rule))
        with pytest.raises((AssertionError, pytest.fail.Exception)):
            rule.check(entry_point(patch, caplog))


@pytest.mark.parametrize("name", RULES)
def test_every_line_of_a_rule_has_a_check(name: str) -> None:
    rule = find_rule(ast.parse((SOURCES / "gate.py").read_text(encoding="utf-8")), name)
    _, *statements = rule.body
    lines = {
        ast.unparse(node)
        for statement in statements
        for node in ast.walk(statement)
        if isinstance(node, ast.stmt) and not isinstance(node, ast.With | ast.If | ast.AnnAssign)
    }
    assert lines == {rule.line for rule in RULES[name]}


# The rules are in one module.


def modules_around_the_gate() -> Iterator[tuple[str, ast.Module]]:
    for name in ("hooks.py", "acquisition.py", "install_in_host.py"):
        yield name, ast.parse((SOURCES / name).read_text(encoding="utf-8"))


MAY_IMPORT = {
    "deid_hooks.log": {"Log"},
    "deid_hooks.plugins": {
        "HOOKS",
        "mark_specs",
        "register",
        "PostDeid",
        "PreUpload",
        "PostUpload",
    },
    "deid_hooks.gate": {"Gate", "make_pre_upload"},
}


def test_who_calls_the_gate_imports_nothing_that_calls_the_backend_or_a_plugin() -> None:
    for name, tree in modules_around_the_gate():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                assert not [each for each in node.names if each.name.startswith("deid_hooks")], name
            if isinstance(node, ast.ImportFrom):
                module = str(node.module)
                assert not module.startswith("deid_hooks.backends"), name
                if module in MAY_IMPORT:
                    assert {each.name for each in node.names} <= MAY_IMPORT[module], name


CALLS_OF_THE_LOG_AND_OF_PLUGINS = {
    *("append", "blocked", "resolve", "standing", "with_digest", "look", "erase"),
    *("backend", "hook", "get_hookimpls", "call_extra"),
}
LISTS = {"self._gathered", "causes"}


def test_who_calls_the_gate_calls_neither_the_backend_nor_plugins_nor_private_methods() -> None:
    for name, tree in modules_around_the_gate():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Attribute):
                continue
            of = ast.unparse(node.value)
            if node.attr in CALLS_OF_THE_LOG_AND_OF_PLUGINS and of not in LISTS:
                pytest.fail(f"{name} calls {of}.{node.attr}")
            if node.attr.startswith("_") and not node.attr.startswith("__"):
                assert of == "self", f"{name} uses {of}.{node.attr}"


def test_the_hooks_open_no_log_until_they_are_asked_to(store: Store) -> None:
    STORES[URL] = fresh = Store()
    hooks = DeidHooks.load("tester/1.0", url=URL)
    properties = [n for n in dir(DeidHooks) if isinstance(getattr(DeidHooks, n), property)]
    assert properties == []
    assert (fresh.made, hooks.settings.secret_file.exists()) == (False, False)
