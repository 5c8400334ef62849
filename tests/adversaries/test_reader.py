"""Who may read does it in their own name, with a row of the access trail, or not at all."""

from __future__ import annotations

import getpass
import os
from functools import partial
from typing import Any

import pytest

from deid_hooks.access import _find_name, _parse_uid
from deid_hooks.records.json_codec import encode_record
from deid_hooks.records.model import AccessRow, make_log_id
from tests.adversaries.attacks import Attack, Place, attack
from tests.adversaries.conftest import MakeServed, MakeSite
from tests.adversaries.served import ORIGINAL, Served, find_keeper

ATTACKS: list[Any] = []
OVER_HTTP: list[Any] = []

AT = "2026-01-01T00:00:00.000000Z"
NAMES = ("LOGNAME", "USER", "LNAME", "USERNAME", "SUDO_USER")


def believe_sudo() -> str:
    """Return the user that SUDO_UID names, whoever runs this."""
    return str(_find_name(_parse_uid(os.environ.get("SUDO_UID", ""))))


asks_the_kernel = partial(attack, ATTACKS, "deid_hooks.access.identify_user")
leaves_rows = partial(
    attack, ATTACKS, "deid_hooks.access.AccessRecorder.record", lambda self, asked, log_ids: None
)


@asks_the_kernel(getpass.getuser, "No access is recorded")
def search_as_another_by_variables(site: Place) -> bool:
    site.run("search", "Doe", **{name: "dr-adams" for name in NAMES})
    return site.run("access", "--who", "dr-adams").returncode == 0


AS_SOMEBODY = """
import os, sys
from unittest.mock import patch
from deid_hooks.cli import main
os.environ["SUDO_UID"] = "0"
sys.argv = ["deid-hooks", "search", "Doe", "--reason", "as another"]

# The log is root's, and who has another uid could not open it: they have access by a group.
import deid_hooks.backends.sqlite.connection as connection
connection.find_stranger = lambda found: ""
with patch("os.geteuid", lambda: 54321):
    main()
"""


@asks_the_kernel(believe_sudo, "")
def search_as_root_by_what_sudo_would_say(site: Place) -> bool:
    site.program(AS_SOMEBODY)
    [(who,)] = site.sql("SELECT who FROM deid_log_access WHERE reason = 'as another'")
    return str(who).split(" ")[0] == "root"


READER = """
from deid_hooks import DeidHooks
with DeidHooks.load("reader/1.0") as hooks:
    reader = hooks.reading(reason="curious")
    for entry in reader.entries(reader.search("Modality=CT")):
        print(*entry.fields["PatientName"])
"""


@leaves_rows('"action": "read"')
def read_unseen_by_a_program(site: Place) -> bool:
    read = site.program(READER)
    return "Doe" in read.stdout and '"read"' not in site.run("access").stdout


@leaves_rows('"action": "show"')
def show_unseen(site: Place) -> bool:
    [(log_id,)] = site.sql("SELECT id FROM deid_log WHERE Modality = 'CT'")
    shown = site.run("show", log_id, "--reason", "curious")
    return "Doe" in shown.stdout and '"show"' not in site.run("access").stdout


def take_no_rows(site: Place) -> None:
    """Let the store take no row of the trail, as one does whose disk is full."""
    site.change(
        "CREATE TRIGGER full BEFORE INSERT ON deid_log_access"
        " BEGIN SELECT raise(ABORT, 'full'); END"
    )


@leaves_rows("can't be used")
def read_by_a_program_where_no_row_can_be_left(site: Place) -> bool:
    take_no_rows(site)
    return "Doe" in site.program(READER).stdout


@leaves_rows("can't be used")
def show_where_no_row_can_be_left(site: Place) -> bool:
    [(log_id,)] = site.sql("SELECT id FROM deid_log WHERE Modality = 'CT'")
    take_no_rows(site)
    return "Doe" in site.run("show", log_id).stdout


# Over HTTP, with the token of one who may read.


@attack(
    OVER_HTTP, "deid_hooks_service.tokens.Senders.find", find_keeper, "search by the reidentify"
)
def note_a_search_in_the_name_of_another(served: Served) -> bool:
    row = AccessRow(make_log_id(), AT, "dr-adams", "desk", "search", "", ())
    served.ask("reidentify", "POST", "/v1/access", encode_record(row))
    return any(row.who == "dr-adams" for row in served.read_trail())


leaves_rows_itself = partial(
    attack,
    OVER_HTTP,
    "deid_hooks_service.service.Call.record_access",
    lambda self, *_: None,
    "show by the reidentify",
)


@leaves_rows_itself()
def resolve_an_entry_unseen(served: Served) -> bool:
    answer = served.ask("reidentify", "GET", f"/v1/entries/{served.entry.log_id}")
    return ORIGINAL in answer.text and not served.read_trail()


@leaves_rows_itself()
def read_an_entry_unseen(served: Served) -> bool:
    body = {"log_ids": [served.entry.log_id], "reason": "curious"}
    answer = served.ask("reidentify", "POST", "/v1/entries", body)
    return ORIGINAL in answer.text and not served.read_trail()


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize(
    "here", [True, pytest.param(False, marks=pytest.mark.ci)], ids=["here", "installed"]
)
def test_the_attack_fails(make_site: MakeSite, attack: Attack, here: bool) -> None:
    attack.fails(make_site(here))


@pytest.mark.parametrize("attack", ATTACKS)
def test_it_succeeds_without_that_defence(
    make_site: MakeSite, attack: Attack, monkeypatch: pytest.MonkeyPatch
) -> None:
    attack.succeeds_without(make_site(True), monkeypatch)


@pytest.mark.parametrize("attack", OVER_HTTP)
@pytest.mark.parametrize(
    "here", [True, pytest.param(False, marks=pytest.mark.ci)], ids=["here", "installed"]
)
def test_the_attack_over_http_fails(make_served: MakeServed, attack: Attack, here: bool) -> None:
    attack.fails(make_served(here))


@pytest.mark.parametrize("attack", OVER_HTTP)
def test_it_succeeds_over_http_without_that_defence(
    make_served: MakeServed, attack: Attack, monkeypatch: pytest.MonkeyPatch
) -> None:
    attack.succeeds_without(make_served(True), monkeypatch)
