"""``none:``: logging is switched off on purpose, and every use warns of it."""

from __future__ import annotations

import logging

import pytest

from deid_hooks import DeidHooks, PreUpload, UploadRefused, hookimpl
from deid_hooks.gate import NOT_LOGGED
from tests.hooks.series import fill, logged, series


@pytest.fixture
def unlogged(caplog: pytest.LogCaptureFixture) -> DeidHooks:
    hooks = DeidHooks.load(url="none:")
    hooks.init()
    caplog.clear()
    return hooks


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelno == logging.WARNING]


def test_check_warns_that_nothing_is_logged(
    unlogged: DeidHooks, caplog: pytest.LogCaptureFixture
) -> None:
    unlogged.check()
    assert warnings(caplog) == [NOT_LOGGED]


def test_every_upload_warns_that_nothing_is_logged(
    unlogged: DeidHooks, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        log_id, _ = logged(unlogged)
        assert len(log_id) == 32
        with unlogged.uploading(log_id, "folder:/out") as upload:
            upload.sent_all()
        assert upload.outcome == "uploaded"
    assert warnings(caplog) == [NOT_LOGGED] * 2


def test_the_outcome_follows_from_the_reports_alone(unlogged: DeidHooks) -> None:
    log_id, uids = logged(unlogged)
    with unlogged.uploading(log_id, "folder:/out") as upload:
        upload.sent(uids[0], ok=False)
    assert upload.outcome == "failed"
    with unlogged.uploading(log_id, "folder:/out") as upload:
        upload.sent(uids[0])
        upload.sent(uids[1], ok=False)
    assert (upload.outcome, upload.missing()) == ("partial", (uids[1],))
    with unlogged.uploading(log_id, "folder:/out") as upload:
        upload.sent(uids[0])
    assert upload.outcome == "uploaded"


def test_reuse_finds_nothing_and_raises_nothing(unlogged: DeidHooks) -> None:
    with unlogged.acquisition() as acquisition:
        fill(acquisition, series())
        assert acquisition.post_deid(reuse=True) == acquisition.log_id
    assert unlogged.outcome(acquisition.log_id, "folder:/out") is None


def test_plugins_are_called_all_the_same(unlogged: DeidHooks) -> None:
    class Refuses:
        @hookimpl
        def pre_upload(self, event: PreUpload) -> str:
            return "no"

    unlogged.register(Refuses(), "refuses")
    log_id, _ = logged(unlogged)
    with pytest.raises(UploadRefused, match="refuses refused: no"):
        unlogged.uploading(log_id, "folder:/out").__enter__()


def test_it_works_on_a_machine_where_nothing_was_set_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    hooks = DeidHooks.load(url="none:")
    logged(hooks)
    assert hooks.settings.secret_file.is_file()
    assert str(hooks.settings.secret_file) in caplog.text
