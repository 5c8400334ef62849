"""Tokens: made, listed, revoked, and kept so that nobody reads them."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import pytest
from running import Site
from typer.testing import CliRunner

from deid_hooks.errors import SettingsError
from deid_hooks_service.cli import app
from deid_hooks_service.forms import Problem
from deid_hooks_service.tokens import Senders, Tokens

API_KEY = "flywheel.example:djEa1b2c3d4e5f6a7b8c9d0e1f2a3b4c5d6e7f8a9b0c1d2e3f4a5b6c"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokens.json"


def run(path: Path, *words: str, stdin: str = "") -> str:
    done = CliRunner().invoke(app, ["token", *words, "--tokens", str(path)], input=stdin)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


def test_add_prints_the_token_alone_and_keeps_no_more_than_its_hash(path: Path) -> None:
    printed = run(path, "add", "ws12", "--role", "upload", "--project", "TRIAL7")
    token = printed.strip()
    assert printed == f"{token}\n"
    assert token not in path.read_text()
    holder = Tokens(path).find(token)
    assert holder is not None
    assert (holder.name, holder.role, holder.projects) == ("ws12", "upload", ("TRIAL7",))
    assert token not in run(path, "list")
    assert "ws12" in run(path, "list")


def test_a_token_is_written_to_a_file_that_is_ones_own(path: Path) -> None:
    output = path.with_name("ws12.token")
    assert run(path, "add", "ws12", "--role", "upload", "--output", str(output)) == ""
    assert stat.S_IMODE(output.stat().st_mode) == 0o600
    assert Tokens(path).find(output.read_text()) is not None
    assert "a new file" in run(path, "add", "ws13", "--role", "upload", "--output", str(output))
    assert len(Tokens(path).all()) == 1


def test_the_file_is_its_owners_alone_and_refused_otherwise(path: Path) -> None:
    run(path, "add", "ws12", "--role", "upload")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o640)
    with pytest.raises(SettingsError, match="chmod 600"):
        Tokens(path).all()


def test_an_existing_key_is_taken_from_standard_input_in_whatever_form_it_comes(
    path: Path,
) -> None:
    assert run(path, "add", "alice", "--role", "upload", "--stdin", stdin=f"{API_KEY}\n") == ""
    tokens = Tokens(path)
    assert tokens.find(API_KEY) == tokens.find(API_KEY.split(":")[1]) != None  # noqa: E711
    with pytest.raises(SettingsError, match="20 characters"):
        run(path, "add", "bob", "--role", "upload", "--stdin", stdin="short\n")


def test_a_name_is_never_given_twice(path: Path) -> None:
    run(path, "add", "ws12", "--role", "upload")
    run(path, "revoke", "ws12")
    with pytest.raises(SettingsError, match="ws12 already"):
        run(path, "add", "ws12", "--role", "admin")
    with pytest.raises(SettingsError, match="no token other"):
        run(path, "revoke", "other")


def test_a_token_ends_when_it_expires_or_is_revoked(path: Path) -> None:
    tokens = Tokens(path)
    past = run(path, "add", "past", "--role", "upload", "--expires", "2020-01-31").strip()
    to_come = run(path, "add", "to-come", "--role", "upload", "--expires", "90d").strip()
    assert tokens.find(past) is None
    assert tokens.find(to_come) is not None
    run(path, "revoke", "to-come")
    assert tokens.find(to_come) is None


def test_the_same_command_serves_under_both_names(site: Site) -> None:
    for command in (["deid-hooks", "serve"], ["deid-hooks-service", "serve"]):
        done = site.run(*command, "--host", "192.0.2.1")
        assert done.returncode == 2
        assert "--plain-http insists" in done.stderr


def test_who_guesses_is_slowed_down_whoever_else_is_at_that_address(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr("asyncio.sleep", sleep)
    tokens = Tokens(path)
    good = f"Bearer {tokens.add('ws12', 'upload')}"

    async def guess(senders: Senders, addresses: list[str]) -> None:
        for address in addresses:
            with pytest.raises(Problem):
                await senders.find("Bearer wrong", address)
            await senders.find(good, address)

    asyncio.run(guess(Senders(tokens), ["10.1.2.3"] * 10))
    assert waited == [0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0]
    waited.clear()
    asyncio.run(guess(Senders(tokens), [f"2001:db8::{n}" for n in range(1, 11)]))
    assert len(waited) == 7
    waited.clear()
    asyncio.run(guess(Senders(tokens), [f"10.1.2.{n} via 10.0.0.1" for n in range(1, 11)]))
    assert waited == []
