"""``install(pm)``: a host that ignores every return value still can't upload what is refused."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Iterator
from dataclasses import replace
from typing import Any

import pluggy
import pytest

from deid_hooks import (
    DeidHooks,
    PluginError,
    PostDeid,
    PostUpload,
    PreUpload,
    UnableToLog,
    UploadRefused,
    install,
)
from deid_hooks.records.model import Erasure, make_log_id
from tests.hooks.conftest import URL
from tests.hooks.distributions import Distributions
from tests.hooks.memory import Store
from tests.hooks.series import assert_hides_everything, fill, logged, series, shown

OUT = "dicom://ARCHIVE@pacs:11112"


class Host:
    """An uploader with a plugin manager of its own, careless about what hooks return."""

    def __init__(self, project_name: str) -> None:
        self.pm = pluggy.PluginManager(project_name)
        self.hookimpl = pluggy.HookimplMarker(project_name)
        self.sent: list[str] = []

    def install(self, **arguments: Any) -> DeidHooks:
        settings = {"url": URL, "deadline": 0.3, "plugin_timeout": 0.3, **arguments}
        self.hooks = install(self.pm, "host/1.0", **settings)
        self.hooks.init()
        return self.hooks

    def upload(self, destination: str = OUT) -> str:
        with self.hooks.acquisition() as acquisition:
            fill(acquisition, series())
            event = acquisition.event()
            self.pm.hook.post_deid(event=event)
        self.pm.hook.pre_upload(event=PreUpload(event.log_id, destination, "host/1.0"))
        self.sent.append(event.log_id)
        self.pm.hook.post_upload(
            event=PostUpload(event.log_id, destination, "host/1.0", "uploaded")
        )
        return event.log_id

    def plugin(self, name: str, hook: str, function: Any, **options: Any) -> None:
        """Register a plugin of the host with one hook."""

        def implementation(event: Any) -> Any:
            return function(event)

        def wrapper(event: Any) -> Generator[None, Any, Any]:
            return (yield from function(event))

        chosen = wrapper if options else implementation
        self.pm.register(
            type(name, (), {hook: staticmethod(self.hookimpl(**options)(chosen))})(), name
        )


@pytest.fixture(params=["hostapp", "deid_hooks"])
def host(request: pytest.FixtureRequest, store: Store) -> Iterator[Host]:
    made = Host(request.param)
    yield made
    if hasattr(made, "hooks"):
        made.hooks.close()


def raises(event: object) -> None:
    raise ValueError("Canary")


def test_a_host_logs_clears_and_concludes(host: Host, store: Store) -> None:
    host.install()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log_id = host.upload()
    assert host.sent == [log_id] == [entry.log_id for entry in store.entries]
    assert [(e.event, e.destination, e.uploader) for e in store.events] == [
        ("cleared", OUT, "host/1.0"),
        ("uploaded", OUT, "host/1.0"),
    ]


def test_plugins_of_the_host_are_called_whenever_they_were_registered(
    host: Host, store: Store
) -> None:
    received: list[tuple[str, str, int]] = []

    def keep(name: str) -> Any:
        return lambda event: received.append((name, event.log_id, len(store.entries)))

    host.plugin("early", "post_deid", keep("early"))
    host.install()
    host.plugin("late", "post_deid", keep("late"))
    log_id = host.upload()
    assert sorted(received) == [("early", log_id, 1), ("late", log_id, 1)]


@pytest.mark.parametrize(
    "faults",
    [[], ["unavailable"], ["lost", "lost"], ["written", "written"], ["written", "unavailable"]],
    ids=" then ".join,
)
def test_a_host_that_logs_an_event_twice_leaves_one_entry(
    host: Host, store: Store, faults: list[str]
) -> None:
    host.install()
    store.faults = list(faults)
    with host.hooks.acquisition() as acquisition:
        fill(acquisition, series())
        event = acquisition.event()
        if faults:
            with pytest.raises(UnableToLog):
                host.pm.hook.post_deid(event=event)
        else:
            host.pm.hook.post_deid(event=event)
        host.pm.hook.post_deid(event=event)
    assert [entry.log_id for entry in store.entries] == [event.log_id]


def test_a_retry_after_a_plugin_of_the_host_failed_leaves_one_entry(
    host: Host, store: Store
) -> None:
    failures = [ValueError]

    def fails_once(event: object) -> None:
        if failures:
            raise failures.pop()

    host.install()
    host.plugin("fails", "post_deid", fails_once)
    with host.hooks.acquisition() as acquisition:
        fill(acquisition, series())
        with pytest.raises(UnableToLog):
            host.pm.hook.post_deid(event=acquisition.event())
        host.pm.hook.post_deid(event=acquisition.event())
    assert len(store.entries) == 1


def log_in_a_run_of_its_own(host: Host, reuse: bool) -> tuple[str, PostDeid]:
    with host.hooks.acquisition() as acquisition:
        fill(acquisition, series())
        event = acquisition.event(reuse=reuse)
        host.pm.hook.post_deid(event=event)
    return acquisition.log_id, event


def test_a_second_run_of_a_host_that_reuses_leaves_one_entry(
    host: Host, distributions: Distributions, store: Store
) -> None:
    distributions.plugin(
        "collects",
        "ids = []\n@hookimpl\ndef post_deid(event): ids.append((event.log_id, event.reused))",
    )
    host.install()
    ids: list[str] = []
    host.plugin("mine", "post_deid", lambda event: ids.append(event.log_id))
    first, _ = log_in_a_run_of_its_own(host, reuse=True)
    second, event = log_in_a_run_of_its_own(host, reuse=True)
    assert first == second == event.log_id == event.entry.log_id
    assert [entry.log_id for entry in store.entries] == [first]
    assert ids == [first, first]
    plugin = host.hooks.gate.plugins.get_plugin("collects")
    assert plugin.ids == [(first, False), (first, True)]  # type: ignore[union-attr]
    host.pm.hook.pre_upload(event=PreUpload(second, OUT, "host/1.0"))


def test_without_reuse_a_second_run_of_a_host_is_a_second_entry(host: Host, store: Store) -> None:
    host.install()
    for _ in range(2):
        log_in_a_run_of_its_own(host, reuse=False)
    assert len(store.entries) == 2


def test_an_event_that_claims_to_be_logged_already_is_refused_if_it_is_not(
    host: Host, store: Store
) -> None:
    host.install()
    with host.hooks.acquisition() as acquisition:
        fill(acquisition, series())
        event = replace(acquisition.event(), reused=True)
        with pytest.raises(UnableToLog, match="the log has no entry"):
            host.pm.hook.post_deid(event=event)


def test_a_log_that_cant_be_searched_for_an_equal_entry_refuses_and_a_retry_is_logged(
    host: Host, store: Store
) -> None:
    host.install()
    with host.hooks.acquisition() as acquisition:
        fill(acquisition, series())
        store.down = True
        with pytest.raises(UnableToLog, match="the log can't be reached"):
            acquisition.event(reuse=True)
        store.down = False
        host.pm.hook.post_deid(event=acquisition.event(reuse=True))
    assert len(store.entries) == 1


def test_an_entry_that_was_forgotten_since_is_logged_again_under_an_id_of_its_own(
    host: Host, store: Store
) -> None:
    host.install()
    first, _ = log_in_a_run_of_its_own(host, reuse=True)
    with host.hooks.acquisition() as acquisition:
        fill(acquisition, series())
        event = acquisition.event(reuse=True)
        erasure = Erasure("", "dpo", "asked for")
        host.hooks.gate.open_log().erase([first], erasure, 1)
        with pytest.raises(UnableToLog, match="was forgotten"):
            host.pm.hook.post_deid(event=event)
        host.pm.hook.post_deid(event=acquisition.event(reuse=True))
    assert [entry.log_id for entry in store.entries] == [acquisition.log_id] != [first]


@pytest.mark.parametrize("fault", ["unavailable", "hang", "driver"])
def test_a_log_that_fails_stops_a_careless_host(host: Host, store: Store, fault: str) -> None:
    host.install()
    store.faults = [fault]
    with pytest.raises(UnableToLog) as caught:
        host.upload()
    assert host.sent == []
    assert_hides_everything(shown(caught.value))


def test_an_entry_that_is_gone_stops_a_careless_host(host: Host, store: Store) -> None:
    host.plugin("loses", "post_deid", lambda event: store.records.clear())
    host.install()
    with pytest.raises(UploadRefused, match="the log has no entry"):
        host.upload()
    assert host.sent == []


def test_a_plugin_of_ours_stops_a_careless_host(
    host: Host, distributions: Distributions, store: Store
) -> None:
    distributions.plugin("quota", "@hookimpl\ndef pre_upload(event): return 'the quota is used up'")
    host.install()
    with pytest.raises(UploadRefused, match="the plugin quota refused: the quota is used up"):
        host.upload()
    assert host.sent == []
    assert store.events == []


def test_a_plugin_of_ours_that_fails_in_post_deid_stops_a_careless_host(
    host: Host, distributions: Distributions
) -> None:
    distributions.plugin("stops", "@hookimpl\ndef post_deid(event): raise OSError")
    host.install()
    with pytest.raises(UnableToLog, match="the plugin stops raised OSError in post_deid"):
        host.upload()
    assert host.sent == []


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("consent was withdrawn.", "a plugin of the host refused: consent was withdrawn"),
        ("", "a plugin of the host refused without a reason"),
        (True, "a plugin of the host refused without a reason"),
    ],
)
def test_a_reason_of_the_hosts_own_plugin_refuses(
    host: Host, store: Store, answer: object, message: str
) -> None:
    host.install()
    host.plugin("mine", "pre_upload", lambda event: answer)
    with pytest.raises(UploadRefused) as caught:
        host.upload()
    assert caught.value.reasons == (message,)
    assert host.sent == []
    assert store.events == []


def test_every_reason_is_collected_ours_and_the_hosts(
    host: Host, distributions: Distributions
) -> None:
    distributions.plugin("quota", "@hookimpl\ndef pre_upload(event): return 'no more'")
    host.install()
    host.plugin("one", "pre_upload", lambda event: "first")
    host.plugin("two", "pre_upload", lambda event: "second")
    with pytest.raises(UploadRefused) as caught:
        host.upload()
    assert set(caught.value.reasons) == {
        "the plugin quota refused: no more",
        "a plugin of the host refused: first",
        "a plugin of the host refused: second",
    }


@pytest.mark.parametrize(
    ("hook", "error", "message"),
    [
        ("post_deid", UnableToLog, "a plugin of the host raised ValueError in post_deid"),
        ("pre_upload", UploadRefused, "a plugin of the host raised ValueError in pre_upload"),
    ],
)
def test_a_plugin_of_the_host_that_raises_refuses(
    host: Host, store: Store, hook: str, error: type[Exception], message: str
) -> None:
    host.install()
    host.plugin("breaks", hook, raises)
    with pytest.raises(error, match=message) as caught:
        host.upload()
    assert_hides_everything(shown(caught.value))
    assert host.sent == []
    assert store.events == []


def test_post_deid_takes_no_answer(host: Host) -> None:
    host.install()
    host.plugin("answers", "post_deid", lambda event: True)
    with pytest.raises(UnableToLog, match="takes no answer"):
        host.upload()
    assert host.sent == []


def test_an_exception_after_sending_is_reported_and_not_raised(
    host: Host, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    host.install()
    host.plugin("breaks", "post_upload", raises)
    log_id = host.upload()
    assert host.sent == [log_id]
    assert f"{log_id}: a plugin of the host raised ValueError in post_upload" in caplog.text
    assert_hides_everything(caplog.text)
    assert [event.event for event in store.events] == ["cleared", "uploaded"]


# Wrappers, and other ways around a refusal


def swallows(event: object) -> Generator[None, Any, Any]:
    try:
        yield
    except Exception:
        return []
    return []


@pytest.mark.parametrize("options", [{"wrapper": True}, {"hookwrapper": True}])
@pytest.mark.parametrize("order", [{}, {"tryfirst": True}, {"trylast": True}])
@pytest.mark.parametrize("hook", ["post_deid", "pre_upload"])
@pytest.mark.parametrize("down", [True, False])
def test_a_wrapper_cant_turn_a_refusal_into_an_approval(
    host: Host,
    store: Store,
    hook: str,
    options: dict[str, bool],
    order: dict[str, bool],
    down: bool,
) -> None:
    host.install()
    host.plugin("wraps", hook, swallows, **options, **order)
    store.faults = ["unavailable"] if down else []
    with pytest.raises((UnableToLog, UploadRefused), match=f"wraps {hook}|Service Unavailable"):
        host.upload()
    assert host.sent == []


def test_a_wrapper_that_was_registered_before_install_is_refused(host: Host) -> None:
    host.plugin("wraps", "pre_upload", swallows, wrapper=True, tryfirst=True)
    host.install()
    with pytest.raises(UploadRefused, match="the plugin wraps wraps pre_upload"):
        host.upload()
    assert host.sent == []


def test_a_wrapper_of_post_upload_is_allowed(host: Host, store: Store) -> None:
    host.install()
    host.plugin("wraps", "post_upload", swallows, wrapper=True)
    host.upload()
    assert [event.event for event in store.events] == ["cleared", "uploaded"]


def test_a_host_that_unregisters_the_gate_cant_upload(host: Host) -> None:
    host.install()
    host.pm.unregister(name="deid-hooks gate")
    with pytest.raises(UnableToLog, match="was taken out of post_deid"):
        host.upload()
    log_id, _ = logged(host.hooks)
    with pytest.raises(UploadRefused, match="was taken out of pre_upload"):
        host.pm.hook.pre_upload(event=PreUpload(log_id, OUT, "host/1.0"))


def test_installing_where_the_host_blocks_the_gate_is_an_error(host: Host) -> None:
    host.pm.set_blocked("deid-hooks gate")
    with pytest.raises(PluginError, match="blocks the plugin deid-hooks gate"):
        host.install()


def test_installing_twice_is_an_error(host: Host) -> None:
    host.install()
    with pytest.raises(PluginError, match="installed twice"):
        host.install()


def test_a_plugin_of_the_host_with_other_arguments_is_an_error(host: Host) -> None:
    class Mine:
        @staticmethod
        def pre_upload(path: object) -> None:
            raise AssertionError

    mine = Mine()
    setattr(Mine, "pre_upload", staticmethod(host.hookimpl(Mine.pre_upload)))  # noqa: B010
    host.pm.register(mine, "mine")
    with pytest.raises(PluginError, match=r"(?s)other arguments than event.*mine"):
        host.install()


# What a host may call the hooks with


@pytest.mark.parametrize("event", [None, "65774D086757457C9DCF96E762803606", object()])
def test_a_wrong_event_is_refused(host: Host, store: Store, event: object) -> None:
    host.install()
    with pytest.raises(UnableToLog, match="without the event of an acquisition"):
        host.pm.hook.post_deid(event=event)
    with pytest.raises(UploadRefused, match="without a PreUpload event"):
        host.pm.hook.pre_upload(event=event)
    assert store.attempts == []


def test_an_event_for_another_hook_is_refused(host: Host, store: Store) -> None:
    host.install()
    asked = PreUpload(make_log_id(), OUT, "host/1.0")
    with pytest.raises(UnableToLog):
        host.pm.hook.post_deid(event=asked)
    with host.hooks.acquisition() as acquisition:
        fill(acquisition, series())
        with pytest.raises(UploadRefused):
            host.pm.hook.pre_upload(event=acquisition.event())


def test_what_is_not_a_log_id_is_refused(host: Host) -> None:
    host.install()
    with pytest.raises(UploadRefused, match="not a de-id log id"):
        host.pm.hook.pre_upload(event=PreUpload("nonsense", OUT, "host/1.0"))


@pytest.mark.parametrize(
    "event",
    [
        None,
        PostUpload("nonsense", OUT, "host/1.0", "uploaded"),
        PostUpload("65774D086757457C9DCF96E762803606", OUT, "host/1.0", "done"),
    ],
)
def test_a_wrong_event_after_sending_is_reported_and_not_raised(
    host: Host, store: Store, caplog: pytest.LogCaptureFixture, event: object
) -> None:
    host.install()
    assert host.pm.hook.post_upload(event=event) == []
    assert "without a PostUpload event: no outcome was recorded" in caplog.text
    assert store.events == []


def test_a_password_in_the_destination_of_a_host_is_masked_in_the_log(
    host: Host, store: Store
) -> None:
    host.install()
    host.upload("dicomweb+https://me:hunter2@pacs/studies")
    assert {event.destination for event in store.events} == {"dicomweb+https://me:***@pacs/studies"}


def test_our_plugins_get_the_event_as_the_log_records_it(
    host: Host, distributions: Distributions, store: Store
) -> None:
    distributions.plugin(
        "collects",
        "received = []\n"
        + "".join(
            f"@hookimpl\ndef {hook}(event): received.append(event)\n"
            for hook in ("post_deid", "pre_upload", "post_upload")
        ),
    )
    host.install()
    host.upload("dicomweb+https://me:hunter2@pacs/studies")
    received = host.hooks.gate.plugins.get_plugin("collects").received  # type: ignore[union-attr]
    assert [type(event) for event in received] == [PostDeid, PreUpload, PostUpload]
    assert "hunter2" not in repr(received)
