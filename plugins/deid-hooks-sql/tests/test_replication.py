"""Two nodes with synchronous replication: what was acknowledged outlives the primary."""

from __future__ import annotations

import itertools
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import UID
from sql_servers import PostgreSQLServer
from tests.hooks.series import read
from tests.whole.site import Site, rows

from deid_hooks import AppendUnknown, LogUnavailable
from deid_hooks.backends import Deadline
from deid_hooks.testing.records import chain_seals, make_entry
from deid_hooks_sql import PostgreSQLBackend

pytestmark = pytest.mark.ci

_SERIES = 60
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def primary() -> Iterator[PostgreSQLServer]:
    server = PostgreSQLServer().initialise().start()
    yield server
    server.remove()


@pytest.fixture(scope="module")
def standby(primary: PostgreSQLServer) -> Iterator[PostgreSQLServer]:
    server = PostgreSQLServer()
    source = f"host=127.0.0.1 port={primary.port} user=postgres application_name=standby"
    programs = server.programs
    server.run(
        programs / "pg_basebackup", "-D", str(server.data), "-R", "-X", "stream", "-d", source
    )
    server.start()
    primary.do("ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()")
    while primary.do("SELECT sync_state FROM pg_stat_replication") != [("sync",)]:
        time.sleep(0.05)
    yield server
    server.remove()


@pytest.fixture
def url(primary: PostgreSQLServer, standby: PostgreSQLServer) -> str:
    """Both hosts; which of them may be written is for the driver to find out."""
    name = f"log_{next(_numbers)}"
    primary.do(f"CREATE DATABASE {name}")
    return f"postgresql://postgres@127.0.0.1:{primary.port},127.0.0.1:{standby.port}/{name}"


def _write_series(folder: Path) -> None:
    folder.mkdir()
    dataset = read()
    for number in range(_SERIES):
        dataset["SeriesInstanceUID"].value = f"1.2.3.{number}"
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = UID(f"{number}.1")
        dataset.PatientID = f"P{number}"
        dataset.save_as(folder / f"{number:03}.dcm")


def _logged(server: PostgreSQLServer, database: str) -> set[str]:
    sql = "SELECT deid_SOPInstanceUID FROM deid_log_instance"
    return {uid for (uid,) in server.do(sql, database=database)}


def _delivered(site: Site) -> set[str]:
    return {str(dcmread(path).SOPInstanceUID) for path in site.delivered.rglob("*.dcm")}


def test_a_standby_is_refused_as_not_writable(standby: PostgreSQLServer, url: str) -> None:
    with_both = PostgreSQLBackend(url)
    with_both.create(Deadline())
    with_both.append([make_entry()], chain_seals, Deadline())
    with_both.close()
    alone = PostgreSQLBackend(standby.url(url.rpartition("/")[2]))
    for call in (
        alone.check,
        lambda deadline: alone.append([make_entry()], chain_seals, deadline),
    ):
        with pytest.raises(LogUnavailable, match="is a standby, not writable"):
            call(Deadline())
    alone.close()


def test_what_did_not_reach_the_standby_is_not_acknowledged_not_even_when_it_is_repeated(
    primary: PostgreSQLServer, standby: PostgreSQLServer, url: str
) -> None:
    backend, entry = PostgreSQLBackend(url), make_entry()
    backend.create(Deadline())
    standby.send(signal.SIGSTOP)
    try:
        cancel = threading.Thread(target=_cancel_a_wait, args=(primary,))
        cancel.start()
        with pytest.raises(AppendUnknown, match="not to its standby"):
            backend.append([entry], chain_seals, Deadline())
        cancel.join()
        assert backend.resolve(entry.log_id, Deadline()) == entry  # on the primary alone
        with pytest.raises(AppendUnknown):
            backend.append([entry], chain_seals, Deadline(0.7))
    finally:
        standby.send(signal.SIGCONT)
    backend.append([entry], chain_seals, Deadline())
    backend.close()


def _cancel_a_wait(server: PostgreSQLServer) -> None:
    """As an impatient administrator does: the server then says that it committed."""
    cancel = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    while not server.do(cancel):
        time.sleep(0.05)


def test_nothing_acknowledged_is_lost_when_the_primary_dies_during_an_upload(
    primary: PostgreSQLServer, standby: PostgreSQLServer, url: str, tmp_path: Path
) -> None:
    database = url.rpartition("/")[2]
    _write_series(tmp_path / "images")
    site = Site(tmp_path / "site")
    site.environment["DEID_HOOKS_URL"] = url
    site.run("init")
    words = ("upload", str(tmp_path / "images"), "folder:delivered", "--project", "TRIAL7")
    upload = site.start(*words)
    while len(site.files()) < 5:
        assert upload.poll() is None, upload.communicate()
        time.sleep(0.01)
    primary.stop(signal.SIGKILL)
    out, err = upload.communicate(timeout=100)
    assert upload.returncode in (3, 69), err
    delivered = _delivered(site)
    assert 5 <= len(delivered) < _SERIES

    refused = site.run(*words)  # while there is no primary
    assert refused.returncode == 69, refused.stderr
    assert _delivered(site) == delivered

    standby.run(standby.programs / "pg_ctl", "promote", "-w", "-D", str(standby.data))
    standby.do("ALTER SYSTEM SET synchronous_standby_names = ''", "SELECT pg_reload_conf()")
    assert _logged(standby, database) >= delivered
    told = {row["log_id"] for row in rows(out) if row.get("status") == "uploaded"}
    known = {log_id for (log_id,) in standby.do("SELECT id FROM deid_log", database=database)}
    assert told <= known

    again = site.run(*words)
    assert again.returncode == 0, again.stderr
    assert len(_delivered(site)) == _SERIES
    assert _logged(standby, database) == _delivered(site)
