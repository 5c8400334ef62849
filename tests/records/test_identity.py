"""Who runs a process is what the kernel says, and never what a variable says."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from types import SimpleNamespace

import pytest

from deid_hooks import access
from deid_hooks.access import identify_user

UNSET = "4294967295"
NAMES = {0: "root", 1000: "jane", 1001: "adams"}


@pytest.mark.parametrize(
    ("uid", "login", "sudo", "who"),
    [
        (1000, "1000", None, "jane"),
        (1000, "1000\n", None, "jane"),
        (1000, UNSET, None, "jane"),
        (1000, None, None, "jane"),
        (1000, "", None, "jane"),
        (1000, "nonsense \xff", None, "jane"),
        (1234, UNSET, None, "uid 1234"),
        (1234, "1234", None, "uid 1234"),
        (0, "1000", None, "root (login jane)"),
        (0, "1234", None, "root (login uid 1234)"),
        (1001, "1000", None, "adams (login jane)"),
        (1000, "0", None, "jane (login root)"),
        (0, "0", None, "root"),
        (0, UNSET, "1000", "root (sudo says jane)"),
        (0, None, "1000", "root (sudo says jane)"),
        (0, "1001", "1000", "root (login adams)"),
        (0, "0", "1000", "root"),
        (0, UNSET, "0", "root"),
        *[
            (0, UNSET, odd, "root")
            for odd in ("", "1234", "jane", "-1", "1_000", " 1000", "9" * 99)
        ],
        (0, UNSET, UNSET, "root"),
        (0, UNSET, "\u0661\u0660\u0660\u0660", "root"),
        (1001, UNSET, "1000", "adams"),
        (1234, UNSET, "1000", "uid 1234"),
    ],
)
def test_it_is_the_effective_user_and_who_logged_in(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    uid: int,
    login: str | None,
    sudo: str | None,
    who: str,
) -> None:
    def find(uid: int) -> SimpleNamespace:
        return SimpleNamespace(pw_name=NAMES[uid])

    if login is not None:
        (tmp_path / "loginuid").write_bytes(login.encode("latin-1"))
    monkeypatch.setattr(access, "_LOGIN_UID", tmp_path / "loginuid")
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(pwd, "getpwuid", find)
    monkeypatch.delenv("SUDO_UID", raising=False)
    if sudo is not None:
        monkeypatch.setenv("SUDO_UID", sudo)
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME", "SUDO_USER"):
        monkeypatch.setenv(name, "dr-adams")
    monkeypatch.setenv("HOME", "/home/dr-adams")
    assert identify_user() == who


def test_numbers_that_no_user_can_have_are_none_for_the_real_table_of_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "loginuid").write_text("9999999999")
    monkeypatch.setattr(access, "_LOGIN_UID", tmp_path / "loginuid")
    monkeypatch.delenv("SUDO_UID", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 4294967294)
    assert identify_user() == "uid 4294967294"


def test_a_process_that_changes_its_user_is_named_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    first = identify_user()
    monkeypatch.setattr(os, "geteuid", lambda: 4294967294)
    assert identify_user() != first
