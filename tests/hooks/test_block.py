"""Nothing of a blocked patient leaves, and no message identifies the patient."""

from __future__ import annotations

import pytest

from deid_hooks import DeidHooks, UnableToLog, UploadRefused
from deid_hooks.records.model import Block, Entry, read_clock
from tests.hooks.memory import Store
from tests.hooks.series import assert_hides_everything, fill, logged, series, shown

OUT = "folder:/out"


def block(
    hooks: DeidHooks, log_id: str, number: int, project: str = "", lift: bool = False
) -> None:
    entry = hooks.gate.open_log().resolve(log_id)
    [patient] = entry.patients
    hooks.gate.open_log().append(
        [Block(f"{number:032x}", read_clock(), patient, project, "x", "consent", lift)]
    )


def test_what_was_logged_before_the_block_does_not_leave_after_it(hooks: DeidHooks) -> None:
    log_id, _ = logged(hooks)
    block(hooks, log_id, 1)
    with pytest.raises(UploadRefused, match="blocked") as caught, hooks.uploading(log_id, OUT):
        pytest.fail("it must not be sent")
    assert_hides_everything(shown(caught.value))


def test_a_later_acquisition_of_a_blocked_patient_is_not_logged(
    hooks: DeidHooks, store: Store
) -> None:
    block(hooks, logged(hooks)[0], 1)
    with hooks.acquisition() as acquisition:
        fill(acquisition, series(2))
        with pytest.raises(UnableToLog, match="blocked") as caught:
            acquisition.post_deid()
    assert_hides_everything(shown(caught.value))
    assert len(store.entries) == 1


def test_other_patients_and_other_projects_are_not_blocked(hooks: DeidHooks, store: Store) -> None:
    block(hooks, logged(hooks)[0], 1, project="TRIAL7")
    with hooks.acquisition(project="TRIAL8") as acquisition:
        fill(acquisition, series(1))
        acquisition.post_deid()
    with hooks.acquisition(project="TRIAL7") as acquisition:
        fill(acquisition, series(1, patient="ANOTHER"))
        acquisition.post_deid()
    with hooks.acquisition(project="TRIAL7") as acquisition:
        fill(acquisition, series(1))
        with pytest.raises(UnableToLog, match="blocked"):
            acquisition.post_deid()


def test_after_a_block_was_lifted_the_patient_is_uploaded_again(hooks: DeidHooks) -> None:
    log_id, _ = logged(hooks)
    block(hooks, log_id, 1)
    block(hooks, log_id, 2, lift=True)
    with hooks.uploading(log_id, OUT) as upload:
        upload.sent_all()
    assert hooks.outcome(log_id, OUT) == "uploaded"


def test_a_block_holds_a_keyed_digest_of_the_patient(hooks: DeidHooks, store: Store) -> None:
    log_id, _ = logged(hooks)
    entry = hooks.gate.open_log().resolve(log_id)
    assert isinstance(entry, Entry)
    block(hooks, log_id, 1)
    assert entry.fields["PatientID"][0] not in str(store.records[-1])
