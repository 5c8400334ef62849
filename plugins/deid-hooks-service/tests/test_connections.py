"""Whom a request is from: one address, or a network of one owner, or what a proxy says."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from running import Site

from deid_hooks_service.connections import Proxies
from deid_hooks_service.tokens import find_network


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("", ""),
        ("/run/socket", "/run/socket"),
    ],
)
def test_an_owner_of_ipv6_addresses_counts_once(address: str, network: str) -> None:
    assert find_network(address) == network


PROXIES = Proxies([ip_network("10.0.0.0/24"), ip_network("::1")])


def scope(client: str, *forwarded: str) -> dict[str, Any]:
    headers = [(b"x-forwarded-for", each.encode("latin-1")) for each in forwarded]
    return {"client": (client, 1), "headers": headers}


@pytest.mark.parametrize(
    ("client", "forwarded", "found"),
    [
        ("10.0.0.1", ["192.0.2.1"], "192.0.2.1"),
        ("::1", ["6.6.6.6, 192.0.2.1"], "192.0.2.1"),
        ("10.0.0.1", ["6.6.6.6", "192.0.2.1, 10.0.0.2"], "192.0.2.1"),
        ("10.0.0.1", ["2001:DB8::1"], "2001:db8::1"),
        ("10.0.0.1", [], ""),
        ("10.0.0.1", ["10.0.0.2"], ""),
        ("10.0.0.1", ["192.0.2.1, x\x1b"], ""),
        ("192.0.2.9", ["192.0.2.1"], ""),
        ("", ["192.0.2.1"], ""),
    ],
)
def test_a_proxy_is_believed_its_last_word(client: str, forwarded: list[str], found: str) -> None:
    assert PROXIES.find_sender(scope(client, *forwarded)) == found
    assert Proxies().find_sender(scope(client, *forwarded)) == ""


def test_a_proxy_that_is_no_address_is_refused_in_words(site: Site) -> None:
    done = site.run("deid-hooks-service", "serve", "--proxy", "proxy.example")
    assert done.returncode == 2
    assert "--proxy takes the address" in done.stderr


def test_keys_of_flywheel_users_do_not_leave_without_tls(site: Site) -> None:
    done = site.run("deid-hooks-service", "serve", "--flywheel-site", "http://flywheel.example")
    assert done.returncode == 2
    assert "readable over the network" in done.stderr


def test_a_key_that_anybody_may_read_is_refused(site: Site, tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.touch(0o644)
    words = ["--tls-certificate", str(key), "--tls-key", str(key)]
    done = site.run("deid-hooks-service", "serve", *words)
    assert done.returncode == 2
    assert "Anybody may read the key" in done.stderr
