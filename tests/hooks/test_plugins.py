"""Installed plugins are found, verified, called, and never silently left out."""

from __future__ import annotations

import signal
import threading
from typing import Any

import pytest

from deid_hooks import DeidHooks, PluginError, PreUpload, SettingsError, UploadRefused, hookimpl
from deid_hooks.plugins import find_all, find_installed
from tests.hooks.conftest import Load
from tests.hooks.distributions import Distributions
from tests.hooks.memory import Store
from tests.hooks.series import assert_hides_everything, logged, shown

REFUSES = """
    @hookimpl
    def pre_upload(event):
        return "the quota is used up"
"""


def refusal(hooks: DeidHooks) -> UploadRefused:
    log_id, _ = logged(hooks)
    with pytest.raises(UploadRefused) as caught, hooks.uploading(log_id, "folder:/out"):
        pytest.fail("it must not be sent")
    return caught.value


@pytest.mark.parametrize(
    ("target", "source"),
    [
        ("", REFUSES),
        (
            ":Quota",
            """
            class Quota:
                @hookimpl
                def pre_upload(self, event):
                    return "the quota is used up"
            """,
        ),
        (
            ":quota",
            """
            class Quota:
                @staticmethod
                @hookimpl(specname="pre_upload")
                def count(event):
                    return "the quota is used up"
            quota = Quota()
            """,
        ),
    ],
    ids=["module", "class", "object"],
)
def test_an_installed_plugin_is_called(
    distributions: Distributions, load: Load, target: str, source: str
) -> None:
    distributions.plugin("quota", source, target)
    assert refusal(load()).reasons == ("the plugin quota refused: the quota is used up",)


BROKEN = {
    "a misspelt hook": (
        "@hookimpl\ndef pre_uplaod(event): pass",
        "has an unknown hook pre_uplaod (did you mean pre_upload?)",
    ),
    "a misspelt specname": (
        "@hookimpl(specname='post_died')\ndef mine(event): pass",
        "has an unknown hook post_died (did you mean post_deid?)",
    ),
    "a wrong argument": (
        "@hookimpl\ndef pre_upload(evnt): pass",
        "must take exactly one argument in pre_upload, called event",
    ),
    "no argument": ("@hookimpl\ndef pre_upload(): pass", "must take exactly one argument"),
    "one argument more": (
        "@hookimpl\ndef pre_upload(event, log_id): pass",
        "must take exactly one argument",
    ),
    "a default": (
        "@hookimpl\ndef pre_upload(event=None): pass",
        "called event and without a default",
    ),
    "a star": ("@hookimpl\ndef pre_upload(*event): pass", "must take exactly one argument"),
    "a keyword": ("@hookimpl\ndef pre_upload(*, event): pass", "must take exactly one argument"),
    "async": ("@hookimpl\nasync def pre_upload(event): pass", "has an async pre_upload"),
    "an async generator": (
        "@hookimpl\nasync def pre_upload(event): yield",
        "has an async pre_upload",
    ),
    "a generator": (
        "@hookimpl\ndef pre_upload(event): yield 'no'",
        "has a generator as pre_upload",
    ),
    "a wrapper": (
        "@hookimpl(wrapper=True)\ndef pre_upload(event): return (yield)",
        "wraps pre_upload: a wrapper could turn a refusal into an approval",
    ),
    "an old wrapper": (
        "@hookimpl(hookwrapper=True)\ndef post_deid(event): yield",
        "wraps post_deid",
    ),
    "a mark left out": (
        "@hookimpl\ndef post_deid(event): pass\ndef pre_upload(event): pass",
        "has a function pre_upload that is not marked with @hookimpl",
    ),
    "a mark of another project": (
        "import pluggy\n@pluggy.HookimplMarker('other')\ndef pre_upload(event): pass",
        "has a function pre_upload that is not marked with @hookimpl",
    ),
    "no hook": ("def check(event): pass", "has none of the hooks post_deid, pre_upload"),
}


@pytest.mark.parametrize(("source", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_a_plugin_that_would_not_run_as_it_should_stops_the_load(
    distributions: Distributions, load: Load, source: str, message: str
) -> None:
    distributions.plugin("broken", source)
    with pytest.raises(PluginError) as caught:
        load()
    assert "The plugin broken (dist-of-broken 1.0) " in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize("body", ["def __init__(self, path): pass", "def __init__(self): exit()"])
def test_a_class_that_cant_be_made_stops_the_load(
    distributions: Distributions, load: Load, body: str
) -> None:
    distributions.plugin("broken", f"class Broken:\n    {body}", ":Broken")
    with pytest.raises(PluginError, match=r"broken \(dist-of-broken 1.0\) is a class that can't"):
        load()


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("import not_installed_anywhere", "ModuleNotFoundError"),
        ("raise SystemExit(3)", "SystemExit"),
        ("def pre_upload(", "SyntaxError"),
    ],
)
def test_a_plugin_that_cant_be_imported_stops_the_load_by_its_name(
    distributions: Distributions, load: Load, source: str, kind: str
) -> None:
    distributions.plugin("broken", source)
    with pytest.raises(PluginError) as caught:
        load()
    assert str(caught.value).startswith(
        f"The plugin broken (dist-of-broken 1.0) can't be imported: {kind}. Repair or uninstall it;"
    )


def test_a_plugin_whose_object_is_missing_stops_the_load(
    distributions: Distributions, load: Load
) -> None:
    distributions.plugin("broken", REFUSES, ":Quota")
    with pytest.raises(PluginError, match="can't be imported: AttributeError"):
        load()


def test_two_distributions_with_one_name_are_an_error_that_names_both(
    distributions: Distributions, load: Load
) -> None:
    distributions.plugin("quota", REFUSES, distribution="first")
    distributions.plugin("quota", REFUSES, distribution="second")
    with pytest.raises(PluginError, match=r"quota .* by first 1.0 and by second 1.0"):
        load()


def test_two_backends_with_one_scheme_are_an_error(
    distributions: Distributions, load: Load
) -> None:
    target = "tests.hooks.memory:MemoryBackend"
    distributions.install("second", {"deid_hooks.backends": {"kept": target}})
    with pytest.raises(PluginError, match=r"kept .* by deid-hooks-memory 1.0 and by second 1.0"):
        load()


def test_a_name_claimed_twice_by_one_distribution_is_an_error(
    distributions: Distributions, load: Load
) -> None:
    distributions.install("twice", {"deid_hooks": {"quota": "a", "quota ": "b"}})
    with pytest.raises(PluginError, match="claimed twice"):
        load()


def test_every_claim_can_be_listed(distributions: Distributions) -> None:
    distributions.plugin("quota", REFUSES, distribution="first")
    distributions.plugin("quota", REFUSES, distribution="second")
    assert [str(each) for each in find_all("deid_hooks")] == [
        "quota (first 1.0)",
        "quota (second 1.0)",
    ]


def test_our_own_backends_and_engines_are_found_by_entry_points() -> None:
    assert {"none", "sqlite"} <= set(find_installed("deid_hooks.backends"))
    assert {"basic", "dicognito"} <= set(find_installed("deid_hooks.engines"))


def test_a_disabled_plugin_is_neither_imported_nor_called(
    distributions: Distributions, load: Load
) -> None:
    distributions.plugin("broken", "raise SystemExit")
    distributions.plugin("quota", REFUSES)
    hooks = load(disabled_plugins=["broken"])
    assert refusal(hooks).reasons == ("the plugin quota refused: the quota is used up",)


def test_a_disabled_name_that_is_not_installed_is_an_error(
    distributions: Distributions, load: Load
) -> None:
    distributions.plugin("quota", REFUSES)
    with pytest.raises(SettingsError, match=r"names qouta, .* \(did you mean quota\?\)\."):
        load(disabled_plugins="qouta")


def test_a_backend_that_cant_be_imported_is_named(distributions: Distributions) -> None:
    distributions.install("mine", {"deid_hooks.backends": {"mine": "not_installed_anywhere:X"}})
    with pytest.raises(PluginError, match=r"The backend mine \(mine 1.0\) can't be .* it\.$"):
        DeidHooks.load(url="mine:x")


def test_what_is_not_a_backend_is_named(distributions: Distributions) -> None:
    distributions.install("mine", {"deid_hooks.backends": {"mine": "json:JSONDecoder"}})
    with pytest.raises(PluginError, match=r"mine \(mine 1.0\) is not a subclass of LogBackend"):
        DeidHooks.load(url="mine:x")


def test_a_backend_that_does_not_take_the_url_is_named_without_the_text_of_its_error(
    distributions: Distributions,
) -> None:
    source = """
    from deid_hooks.backends.contract import NoLog
    class Mine(NoLog):
        def __init__(self, url):
            raise ValueError(url)
    """
    distributions.install(
        "mine", {"deid_hooks.backends": {"mine": "module_of_mine:Mine"}}, {"module_of_mine": source}
    )
    password = "".join(("hunter", "2"))  # not a word of this line, which a traceback shows
    with pytest.raises(SettingsError, match=r"mine \(mine 1.0\) can't be made .* ValueError") as e:
        DeidHooks.load(url=f"mine://me:{password}@host")
    assert password not in shown(e.value)


def test_an_unknown_scheme_is_an_error_with_the_nearest(load: Load) -> None:
    with pytest.raises(SettingsError, match=r"'memroy' .* \(did you mean memory\?\)\. Installed"):
        load(url="memroy:site")


def test_an_uploader_registers_a_plugin_of_its_own_under_the_same_rules(load: Load) -> None:
    hooks = load()

    class Mine:
        @hookimpl
        def pre_upload(self, event: PreUpload) -> str:
            return "not on Sundays"

    with pytest.raises(PluginError, match="The plugin mine has none of the hooks"):
        hooks.register(object(), "mine")
    hooks.register(Mine(), "mine")
    with pytest.raises(PluginError, match="The plugin mine is registered already"):
        hooks.register(Mine(), "mine")
    assert refusal(hooks).reasons == ("the plugin mine refused: not on Sundays",)


# Plugins that misbehave when they are called


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise ValueError('Canary')", "raised ValueError in pre_upload"),
        ("raise SystemExit('Canary')", "called exit in pre_upload"),
        ("raise KeyboardInterrupt('Canary')", "raised KeyboardInterrupt in pre_upload"),
        ("raise GeneratorExit('Canary')", "raised GeneratorExit in pre_upload"),
        ("threading.Event().wait()", "did not answer pre_upload within 0.3 s"),
        ("return True", "refused without a reason"),
        ("return False", "refused without a reason"),
        ("return ''", "refused without a reason"),
        ("return 0", "refused without a reason"),
        ("return ['no']", "refused without a reason"),
        ("return deny()", "refused without a reason"),  # a coroutine that nobody awaits
    ],
)
@pytest.mark.filterwarnings("ignore:coroutine")
def test_a_plugin_that_misbehaves_refuses(
    distributions: Distributions, load: Load, store: Store, body: str, message: str
) -> None:
    distributions.plugin(
        "odd",
        f"import threading\nasync def deny(): pass\n@hookimpl\ndef pre_upload(event): {body}",
    )
    error = refusal(load())
    assert error.reasons == (f"the plugin odd {message}",)
    assert_hides_everything(shown(error))
    assert store.events == []


def test_a_plugin_that_hangs_does_not_keep_the_others_from_being_called(
    distributions: Distributions, load: Load
) -> None:
    hang = "import threading\n@hookimpl\ndef pre_upload(event): threading.Event().wait()"
    distributions.plugin("hangs", hang)
    distributions.plugin("quota", REFUSES)
    assert set(refusal(load()).reasons) == {
        "the plugin hangs did not answer pre_upload within 0.3 s",
        "the plugin quota refused: the quota is used up",
    }


def test_an_interrupt_by_the_user_is_not_taken_for_a_failure_of_the_plugin(
    load: Load, store: Store
) -> None:
    hooks = load(plugin_timeout=30)
    done = threading.Event()
    main = threading.main_thread().ident or 0

    class Slow:
        @hookimpl
        def pre_upload(self, event: PreUpload) -> Any:
            signal.pthread_kill(main, signal.SIGINT)
            done.wait()

    hooks.register(Slow(), "slow")
    log_id, _ = logged(hooks)
    with pytest.raises(KeyboardInterrupt), hooks.uploading(log_id, "folder:/out"):
        pytest.fail("it must not be sent")
    done.set()
    assert store.events == []


def test_a_plugin_that_no_thread_can_be_started_for_refuses(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks = load()

    class Happy:
        @hookimpl
        def pre_upload(self, event: PreUpload) -> None:
            return None

    def no_more(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    hooks.register(Happy(), "happy")
    log_id, _ = logged(hooks)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_more)
        with pytest.raises(UploadRefused, match="happy could not be asked"):
            hooks.uploading(log_id, "folder:/out").__enter__()


def test_an_event_cant_be_changed_by_a_plugin(load: Load) -> None:
    hooks = load()

    class Forges:
        @hookimpl
        def pre_upload(self, event: PreUpload) -> None:
            event.log_id = "0" * 32  # type: ignore[misc]

    hooks.register(Forges(), "forges")
    assert refusal(hooks).reasons == ("the plugin forges raised FrozenInstanceError in pre_upload",)
