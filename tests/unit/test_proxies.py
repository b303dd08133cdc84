"""X-Forwarded-For is believed from trusted proxies only, from its right end on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker.contract.loading import SettingsError, load
from tracker.contract.settings import networks
from tracker.proxies import Proxies, client_ip, joined

PROXIES = Proxies(networks("10.0.0.0/8, 2001:db8::/64, 192.0.2.7"))


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("203.0.113.9", "198.51.100.1", "203.0.113.9"),  # no proxy of ours: made up
        ("10.0.0.1", None, "10.0.0.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "1.1.1.1, 198.51.100.1", "198.51.100.1"),  # left of it, the client wrote
        ("10.0.0.1", "198.51.100.1, 10.0.0.2, 192.0.2.7", "198.51.100.1"),
        ("10.0.0.1", "10.0.0.3,10.0.0.2", "10.0.0.3"),  # a client inside
        ("10.0.0.1", "198.51.100.1,unknown", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1,unknown,10.0.0.9", "10.0.0.9"),
        ("10.0.0.1", "198.51.100.1:4711", "198.51.100.1"),
        ("10.0.0.1", "[2001:db9::1]:4711", "2001:db9::1"),
        ("10.0.0.1", "2001:DB9:0:0::1", "2001:db9::1"),
        ("10.0.0.1", "::ffff:198.51.100.1", "198.51.100.1"),
        ("::ffff:10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("2001:db8::5", "198.51.100.1", "198.51.100.1"),
        ("2001:db8:1::5", "198.51.100.1", "2001:db8:1::5"),
        ("", "198.51.100.1", ""),
    ],
)
def test_the_client_is_the_rightmost_address_that_is_no_trusted_proxy(
    peer: str, forwarded: str | None, client: str
) -> None:
    headers = {} if forwarded is None else {b"x-forwarded-for": forwarded.encode(), b"forwarded": b"for=9.9.9.9"}
    assert client_ip(peer, headers, PROXIES) == client
    assert client_ip(peer, headers, Proxies(())) == peer


def test_a_proxy_may_add_a_line_of_its_own() -> None:
    lines = [(b"x-forwarded-for", b"1.1.1.1, 198.51.100.1"), (b"a", b"b"), (b"x-forwarded-for", b"10.0.0.2")]
    assert client_ip("10.0.0.1", joined(lines), PROXIES) == "198.51.100.1"
    assert joined(lines)[b"a"] == b"b"


@given(st.binary(max_size=200))
def test_whatever_stands_there_the_answer_is_an_address(value: bytes) -> None:
    assert client_ip("10.0.0.1", {b"x-forwarded-for": value}, PROXIES)


@pytest.mark.parametrize("text", ["10.0.0.0/33", "10.0.0.1/8", "proxy", "1.2.3.4;5.6.7.8"])
def test_networks_that_are_none_are_told_at_start(text: str) -> None:
    with pytest.raises(SettingsError, match=r"^trusted_proxies: "):
        load({}, trusted_proxies=text)
