"""Beyond this machine a server is verified, or the URL says that it need not be."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from sql_servers import MariaDBServer
from tests.needed import program

from deid_hooks.backends import Deadline, LogUnavailable
from deid_hooks.log import make_backend
from deid_hooks_sql import mysql
from deid_hooks_sql.mysql import MySQL
from deid_hooks_sql.postgresql import PostgreSQL

FAR = "postgresql://deid:hunter2@db.example/deid"
NEAR = [
    *("postgresql://deid@127.0.0.1:5432/deid", "postgresql://deid@localhost/deid"),
    *("postgresql://deid@[::1],127.0.0.2/deid", "postgresql:///deid?host=/run/postgresql"),
    "postgresql:///deid",
]


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("PGHOST", "PGHOSTADDR", "PGSERVICE", "PGSSLMODE", "PGSSLROOTCERT"):
        monkeypatch.delenv(name, raising=False)


def test_libpq_is_told_to_verify_whom_it_reaches_beyond_this_machine() -> None:
    found = PostgreSQL(FAR)._parameters
    assert (found["sslmode"], found["sslrootcert"]) == ("verify-full", "system")
    found = PostgreSQL(f"{FAR}?sslmode=verify-ca&sslrootcert=/ca.pem")._parameters
    assert (found["sslmode"], found["sslrootcert"]) == ("verify-ca", "/ca.pem")


@pytest.mark.parametrize("mode", ["disable", "allow", "prefer", "require"])
def test_less_than_verified_tls_is_refused_unless_the_url_insists(mode: str) -> None:
    with pytest.raises(LogUnavailable, match="does not verify the server") as caught:
        PostgreSQL(f"{FAR}?sslmode={mode}")
    assert "hunter2" not in str(caught.value)
    for url in (f"{FAR}?sslmode={mode}&insecure=true", f"{FAR}?insecure=true&sslmode={mode}"):
        found = PostgreSQL(url)._parameters
        assert (found["sslmode"], found["host"]) == (mode, "db.example")
        assert "insecure" not in found


@pytest.mark.parametrize("url", NEAR)
def test_within_this_machine_libpq_does_as_it_does(url: str) -> None:
    assert "sslmode" not in PostgreSQL(url)._parameters


@pytest.mark.parametrize(
    ("variable", "value"),
    [("PGHOST", "db.example"), ("PGSERVICE", "log"), ("PGHOSTADDR", "10.1.2.3")],
)
def test_a_variable_that_leads_away_is_no_way_around(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    assert PostgreSQL("postgresql:///deid")._parameters["sslmode"] == "verify-full"


def test_one_host_that_is_far_away_is_enough() -> None:
    assert PostgreSQL("postgresql://127.0.0.1,db/deid")._parameters["sslmode"] == "verify-full"


@pytest.mark.parametrize(
    ("url", "verifies"),
    [
        ("mysql://deid@db.example/deid", True),
        ("mysql://deid@127.0.0.1,db/deid", True),
        ("mysql://deid@db.example/deid?insecure=true", False),
        ("mysql://deid@127.0.0.1/deid", False),
        ("mysql://deid@db.example/deid?unix_socket=/run/mysqld.sock", False),
    ],
)
def test_pymysql_is_told_to_verify_whom_it_reaches_beyond_this_machine(
    url: str, verifies: bool
) -> None:
    context = MySQL(url)._make_context()
    assert (context is not None) == verifies
    if context:
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname


@pytest.mark.parametrize(
    "option", ["ssl_verify_cert=true", "ssl_disabled=1", "sslca=/x", "x=hunter2"]
)
def test_an_unknown_option_is_an_error(option: str) -> None:
    with pytest.raises(LogUnavailable, match="has an unknown option") as caught:
        MySQL(f"mysql://deid@db.example/deid?{option}")
    assert "hunter2" not in str(caught.value)
    with pytest.raises(LogUnavailable, match="is not one of a PostgreSQL database"):
        PostgreSQL(f"{FAR}?{option}")


def certify(folder: Path, name: str) -> Path:
    """Make a certificate for 127.0.0.1 that signs itself, and its key beside it."""
    made = folder / f"{name}.pem"
    words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
    files = ["-out", str(made), "-keyout", str(made.with_suffix(".key"))]
    command = [program("openssl"), *words, "-addext", "subjectAltName=IP:127.0.0.1", *files]
    subprocess.run(command, check=True, capture_output=True)
    return made


class Encrypting(MariaDBServer):
    def launch(self, command: list[str]) -> None:
        self.certificate = certify(self.folder, "server")
        for path in (self.certificate, self.certificate.with_suffix(".key")):
            shutil.chown(path, "nobody") if Path("/").owner() == "root" else None
        key = f"--ssl-key={self.certificate.with_suffix('.key')}"
        super().launch([*command, f"--ssl-cert={self.certificate}", key])


@pytest.fixture
def encrypting() -> Iterator[Encrypting]:
    program("mariadbd")
    server = Encrypting()
    try:
        yield server.start()  # type: ignore[misc]
    finally:
        server.remove()


@pytest.mark.ci
def test_a_server_that_is_another_gets_nothing(
    encrypting: Encrypting, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(mysql, "is_local", lambda host: False)
    encrypting.do("CREATE DATABASE log")
    url = encrypting.url("log")
    made = make_backend(f"{url}?ssl_ca={encrypting.certificate}")
    made.create(Deadline())
    made.close()
    for options in ("", f"?ssl_ca={certify(tmp_path, 'other')}"):
        made = make_backend(f"{url}{options}")
        with pytest.raises(LogUnavailable, match="do not agree on encryption"):
            made.check(Deadline())
        made.close()
    made = make_backend(f"{url}?insecure=true")
    made.check(Deadline())
    made.close()
