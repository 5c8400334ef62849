"""Roles of least privilege: who uploads learns that the log is whole, and reads nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sql_servers import PostgreSQLServer
from tests.hooks.series import read
from tests.whole.site import Site

from deid_hooks import LogUnavailable
from deid_hooks.backends import Deadline
from deid_hooks.backends.contract import Receipt
from deid_hooks.errors import Forgotten, IdConflict, NotAllowed
from deid_hooks.records.model import Block, Entry, Erasure, Tombstone, UploadEvent
from deid_hooks.testing.records import chain_seals, fresh_id, make_entry
from deid_hooks_sql import PostgreSQLBackend
from deid_hooks_sql.roles import make_script

_ENTRIES = [
    make_entry(patients=("p",), large={"d" * 64: b"x" * 1000, "e" * 64: b"y"}),
    make_entry(instances=(), uids=(), fields={"PatientID": ("a", "b"), "InstitutionName": ()}),
    make_entry(fields={"PatientName": ("山田^太郎\0",)}, originals='{"x":"\ud800"}'),
]


@pytest.fixture
def owner(postgresql: PostgreSQLServer, postgresql_url: str) -> Iterator[PostgreSQLBackend]:
    database = postgresql_url.rpartition("/")[2]
    made = PostgreSQLBackend(postgresql_url)
    made.create(Deadline())
    postgresql.do(make_script(), database=database)
    for name in ("upload", "search"):
        postgresql.do(f"CREATE ROLE its_{name} LOGIN IN ROLE deid_{name}", database=database)
    yield made
    made.close()
    for role in ("its_upload", "its_search", "deid_upload", "deid_search"):
        postgresql.do(f"DROP OWNED BY {role}", f"DROP ROLE {role}", database=database)


@pytest.fixture
def uploader(owner: PostgreSQLBackend) -> Iterator[PostgreSQLBackend]:
    made = PostgreSQLBackend(owner.url.replace("postgres@", "its_upload@"))
    yield made
    made.close()


@pytest.mark.parametrize("entry", _ENTRIES)
def test_who_uploads_appends_and_learns_that_it_is_there_whole(
    owner: PostgreSQLBackend, uploader: PostgreSQLBackend, entry: Entry
) -> None:
    uploader.check(Deadline())
    event = UploadEvent(entry.log_id, "t", "cleared", "folder:/x", "sender/1")
    uploader.append([entry, event], chain_seals, Deadline())
    uploader.append([entry, event], chain_seals, Deadline())
    assert owner.resolve(entry.log_id, Deadline()) == entry
    assert uploader.resolve(entry.log_id, Deadline()) == Receipt(
        *(entry.log_id, entry.project, entry.deid_uids, entry.digest, entry.key, entry.patients)
    )
    assert uploader.with_digest(entry.digest, Deadline()) == entry.log_id
    assert list(uploader.uploads([entry.log_id], Deadline())) == [event]
    other = make_entry(log_id=entry.log_id, project="other")
    with pytest.raises(IdConflict):
        uploader.append([other], chain_seals, Deadline())


def test_who_uploads_is_told_of_blocks_labels_and_what_was_forgotten(
    owner: PostgreSQLBackend, uploader: PostgreSQLBackend
) -> None:
    entry = make_entry(patients=("p",))
    block = Block(fresh_id(), "t", "p", "", "who", "why")
    owner.append([entry, block], chain_seals, Deadline())
    assert list(uploader.blocks(["p"], Deadline())) == [block]
    assert uploader.subject("TRIAL7", "p", Deadline()) == "SUBJ-007"
    owner.erase([entry.log_id], Erasure("t", "who", "why"), chain_seals, Deadline())
    assert isinstance(uploader.resolve(entry.log_id, Deadline()), Tombstone)
    with pytest.raises(Forgotten):
        uploader.append([entry], chain_seals, Deadline())


def test_who_uploads_can_not_read_what_identifies(
    owner: PostgreSQLBackend, uploader: PostgreSQLBackend
) -> None:
    owner.append(_ENTRIES, chain_seals, Deadline())
    for call in (
        lambda: uploader.read(0, Deadline()),
        lambda: list(uploader.entries([_ENTRIES[0].log_id], Deadline())),
        lambda: list(uploader.trail(Deadline())),
    ):
        with pytest.raises(NotAllowed):
            call()
    with psycopg.connect(uploader.url, autocommit=True) as connection:
        for column, table in (
            ("PatientName", "deid_log"),
            ("exact", "deid_log"),
            ("originals", "deid_instance"),
            ("value", "deid_value"),
            ("uid", "deid_uid"),
            ("word", "deid_word"),
            ("value", "deid_log_large"),
            ("asked", "deid_log_access"),
            ("PatientID", "deid_log_subject"),
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"SELECT {column} FROM {table}")
        for sql in ("DELETE FROM deid_log", "UPDATE deid_log SET project = ''"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(sql)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE deid_log SET PatientName = 'Roe^Jane'",
        "UPDATE deid_log SET originals = '{}'",
        "DELETE FROM deid_instance WHERE key = 1",
        "UPDATE deid_instance SET SOPInstanceUID = '1.2'",
        "DELETE FROM deid_uid",
        "UPDATE deid_log_large SET value = 'z'",
        "DELETE FROM deid_large WHERE key = 0",
    ],
)
def test_an_entry_that_was_altered_is_not_vouched_for(
    owner: PostgreSQLBackend, uploader: PostgreSQLBackend, damage: str
) -> None:
    owner.append(_ENTRIES[:1], chain_seals, Deadline())
    with psycopg.connect(owner.url, autocommit=True) as connection:
        connection.execute(damage)
    with pytest.raises(LogUnavailable, match="altered"):
        uploader.resolve(_ENTRIES[0].log_id, Deadline())


def test_who_searches_reads_and_adds_to_the_trail_and_nothing_else(
    owner: PostgreSQLBackend,
) -> None:
    from deid_hooks.records.model import AccessRow

    owner.append(_ENTRIES, chain_seals, Deadline())
    searcher = PostgreSQLBackend(owner.url.replace("postgres@", "its_search@"))
    row = AccessRow(fresh_id(), "t", "who", "host", "show", "", (), "")
    searcher.append([row], chain_seals, Deadline())
    assert len(list(owner.trail(Deadline()))) == 1
    assert list(searcher.everything(Deadline())) == list(owner.everything(Deadline()))
    with pytest.raises(LogUnavailable):
        searcher.append([make_entry()], chain_seals, Deadline())
    with psycopg.connect(searcher.url, autocommit=True) as connection:
        for sql in ("DELETE FROM deid_log_access", "UPDATE deid_log_access SET who = ''"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(sql)
    searcher.close()


def test_a_whole_upload_goes_with_the_uploaders_role(
    owner: PostgreSQLBackend, uploader: PostgreSQLBackend, tmp_path: Path
) -> None:
    (tmp_path / "images").mkdir()
    read().save_as(tmp_path / "images" / "one.dcm")
    site = Site(tmp_path / "site")
    site.environment["DEID_HOOKS_URL"] = uploader.url
    assert site.run("check").returncode == 0
    for status in ("uploaded", "already there"):
        sent = site.upload(tmp_path / "images")
        assert sent.returncode == 0, sent.stderr
        assert f'"status": "{status}"' in sent.stdout
    assert len(site.files()) == 1
