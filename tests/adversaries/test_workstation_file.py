"""Who has the one file of a workstation: no pseudonym of others, no key, no place in the trail."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from deid_hooks.deadline import Deadline
from deid_hooks.records.keys import Pseudonyms, compute_patient_digest
from deid_hooks.records.model import Block, Entry, make_log_id
from deid_hooks.testing.records import make_entry
from tests.adversaries.attacks import Attack, attack
from tests.adversaries.conftest import MakeServed
from tests.adversaries.served import Served

OVER_HTTP: list[Any] = []
PROJECT = "TRIAL8"
"""That the file is for; the entry of the log is in TRIAL7."""


def make_acquisition(patient: str, label: str, project: str = PROJECT) -> Entry:
    """Return an entry as a workstation sends it."""
    fields = {"PatientID": (patient,)}
    deid = {"PatientID": (label,)}
    return make_entry(digest="", key="", fields=fields, deid=deid, project=project)


def ask_for_label(served: Served, patient: str, project: str = PROJECT) -> str:
    body = {"project": project, "patient_id": patient, "issuer": ""}
    answer = served.ask("workstation", "POST", "/v1/labels", body)
    return str(answer.json().get("label", ""))


@attack(
    OVER_HTTP,
    "deid_hooks_service.committer.Committer._is_label_of_another",
    lambda self, entry, labels: False,
    "is another patient's in this project",
)
def give_a_patient_the_label_of_another(served: Served) -> bool:
    served.append("workstation", make_acquisition("first", "SUBJ-1"))
    planted = make_acquisition("second", "SUBJ-1")
    served.append("workstation", planted)
    return served.log.backend.resolve(planted.log_id, Deadline()) is not None


@attack(
    OVER_HTTP,
    "deid_hooks_service.tokens.Sender.require_project",
    lambda self, project: None,
    "held to other projects",
)
def ask_for_a_pseudonym_in_another_project(served: Served) -> bool:
    return bool(ask_for_label(served, "4711", "TRIAL7"))


@attack(
    OVER_HTTP,
    "deid_hooks_service.service.Call.record_use",
    lambda self, action, asked: None,
    "label by the workstation",
)
def ask_for_a_pseudonym_unseen(served: Served) -> bool:
    label = ask_for_label(served, "4711")
    return bool(label) and all(row.action != "label" for row in served.read_trail())


@attack(
    OVER_HTTP,
    "deid_hooks_service.service._MOST_AN_HOUR",
    100,
    "patients in an hour",
)
def ask_for_the_pseudonyms_of_everybody(served: Served) -> bool:
    return all(ask_for_label(served, str(number)) for number in range(5))


@attack(
    OVER_HTTP,
    "deid_hooks_service.handlers.derive_project_key",
    lambda project, root: root.derive(f"labels {project}"),
    "",
)
def make_a_pseudonym_with_the_key_that_a_workstation_gets(served: Served) -> bool:
    body = {"project": PROJECT}
    key = bytes.fromhex(served.ask("workstation", "POST", "/v1/keys", body).json()["key"])
    return Pseudonyms(PROJECT, key).label("4711", "") == ask_for_label(served, "4711")


@attack(
    OVER_HTTP,
    "deid_hooks_service.handlers._refuse_unsound",
    lambda records: None,
    "the service makes them",
)
def make_the_digests_oneself(served: Served) -> bool:
    """One under which no block is found, say."""
    root = served.log.keyring.newest
    digest = compute_patient_digest("blocked", "", root)
    served.log.append([Block(make_log_id(), "t", digest, "", "dpo", "asked to")])
    sent = make_acquisition("blocked", "SUBJ-1")
    other = (compute_patient_digest("somebody", "", root),)
    served.append("workstation", replace(sent, key=root.name, digest="0" * 64, patients=other))
    return served.log.backend.resolve(sent.log_id, Deadline()) is not None


@pytest.fixture
def few_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deid_hooks_service.service._MOST_AN_HOUR", 4)


@pytest.mark.usefixtures("few_labels")
@pytest.mark.parametrize("attack", OVER_HTTP)
def test_the_attack_over_http_fails(make_served: MakeServed, attack: Attack) -> None:
    attack.fails(make_served(True))


@pytest.mark.parametrize("attack", OVER_HTTP)
def test_it_succeeds_over_http_without_that_defence(
    make_served: MakeServed, attack: Attack, monkeypatch: pytest.MonkeyPatch
) -> None:
    attack.succeeds_without(make_served(True), monkeypatch)
