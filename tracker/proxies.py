"""Who a request comes from: the peer of the connection, or, behind a trusted proxy, who the proxy says.

Only X-Forwarded-For is read, and only from proxies in `trusted_proxies`. Each proxy adds at its right end who it talked
to, so the rightmost address that is no trusted proxy is the client; left of it the client may have made things up.
`Forwarded` (RFC 7239) is not read: a proxy that writes one of the two passes the other on as the client sent it.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address

from tracker.contract.settings import Network


class Proxies:
    """The trusted ones: `ip in proxies`."""

    def __init__(self, trusted: tuple[Network, ...]) -> None:
        self._networks = trusted
        self._known = lru_cache(4096)(self._has)

    def __bool__(self) -> bool:
        return bool(self._networks)

    def __contains__(self, ip: str) -> bool:
        return bool(self._networks) and self._known(ip)

    def _has(self, ip: str) -> bool:
        address = _address(ip)
        return address is not None and any(address in network for network in self._networks)


def client_ip(peer: str, headers: dict[bytes, bytes], trusted: Proxies) -> str:
    """`peer`: the other end of the connection; '' on a Unix socket, which is no proxy. `headers`: see `joined`."""
    if peer not in trusted:
        return peer
    for part in reversed(headers.get(b"x-forwarded-for", b"").split(b",")):
        address = _address(part.decode("latin-1"))
        if address is None:  # nothing, or no address: the proxy before it is all that is known
            break
        peer = str(address)
        if peer not in trusted:
            break
    return peer


def joined(lines: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Headers as a dict, with X-Forwarded-For of several lines as one: some proxies add a line of their own."""
    headers = dict(lines)
    if b"x-forwarded-for" in headers:
        headers[b"x-forwarded-for"] = b",".join(value for name, value in lines if name == b"x-forwarded-for")
    return headers


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """An address as proxies write it: with or without a port, IPv6 in brackets or not. None: it is none."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
