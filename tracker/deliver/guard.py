"""Which addresses a webhook may be sent to: public ones. Else whoever may write a URL into the settings of a shared
installation, or the owner of a name that resolves to 169.254.169.254 a moment after it was checked, could have the
tracker ask its own network.

So the address is looked at where the connection is made: the resolver's answers and literal addresses both come
through here, once, and what was looked at is what is connected to.
"""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any, Final

from aiohttp import TCPConnector

_NAT64: Final = IPv6Network("64:ff9b::/96")


class Refused(OSError):
    """The address is none that this webhook may be sent to."""


def why_refused(text: str) -> str | None:
    """What is wrong with an address; None = it is a public one."""
    address = ip_address(text.partition("%")[0])
    inner = _inside(address) if isinstance(address, IPv6Address) else None
    if inner is not None:
        return why_refused(str(inner))
    for what, wrong in (
        ("a loopback address", address.is_loopback),
        ("a link-local address", address.is_link_local),
        ("a multicast address", address.is_multicast),
        ("no address of a host", address.is_unspecified),
        ("a private or reserved address", not address.is_global or address.is_reserved),
    ):
        if wrong:
            return what
    return None


def _inside(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that an IPv6 address stands for."""
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo is not None else None)


def connector(limit: int, allow_private: bool) -> TCPConnector:
    """Connections to one webhook's endpoint."""
    return TCPConnector(limit=limit, ttl_dns_cache=10, socket_factory=None if allow_private else _public_socket)


def _public_socket(info: tuple[Any, Any, int, str, tuple[Any, ...]]) -> socket.socket:
    """A socket for the address that is about to be connected to (as getaddrinfo gives it)."""
    family, type, proto, _, address = info
    if (reason := why_refused(address[0])) is not None:
        raise Refused(f"{address[0]} is {reason}: allow_private is false")
    return socket.socket(family, type, proto)
