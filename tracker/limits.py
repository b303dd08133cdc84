"""What one sender may take of what all share: requests and events by token bucket, connections, guesses at keys.

The rates are GCRA (the leaky bucket of ITU-T I.371): a bucket is one number, the time at which it will be full again.
All state has a fixed size, however many addresses are made up. Limits count in one process: N processes let through up
to N times as much.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping
from functools import lru_cache
from ipaddress import IPv6Network
from math import ceil
from typing import Any, Final

from tracker.contract.settings import Settings, networks
from tracker.keys import Owner
from tracker.proxies import Proxies, client_ip, joined
from tracker.rejections import INVALID_KEY, MISPLACED_SECRET_KEY, RATE_LIMITED, TOO_MANY_BAD_KEYS, Refusal

OTHER_FILES: Final = 128
"""What a process holds open beside its clients' connections: Kafka, Redis, the spool, connections being refused."""
_SLACK_S: Final = 1e-6
"""Less than this is rounding, not waiting."""


class Limiter:
    """Token buckets by name: `rate_s` tokens a second flow in, `burst` fit in. Pure: the time is an argument.

    At most `max_names` buckets are remembered, in two generations: a name in use is in the young one, and when that
    has half of them, the old one is forgotten. Who makes up names to have an own bucket forgotten needs half of
    `max_names` of them each time, and has a burst with each of those anyway.
    """

    __slots__ = ("_burst", "_burst_s", "_half", "_old", "_token_s", "_young")

    def __init__(self, rate_s: float, burst: int, max_names: int) -> None:
        self._token_s = 1 / rate_s
        self._burst = burst
        self._burst_s = burst * self._token_s
        self._half = max(1, max_names // 2)
        self._young: dict[str, float] = {}
        """Name -> when its bucket is full again, s."""
        self._old: dict[str, float] = {}

    @property
    def names(self) -> int:
        """How many are remembered."""
        return len(self._young) + len(self._old)

    def take(self, name: str, cost: int, now_s: float) -> float:
        """Take `cost` tokens: 0.0, or, when it has not enough, the seconds until it has; then nothing is taken.

        What costs more than a bucket holds is let through when the bucket is full, and leaves it in debt: refused, it
        would be sent for ever.
        """
        full_s = self._young.get(name)
        if full_s is None:
            if len(self._young) >= self._half:
                self._old, self._young = self._young, {}
            # Refused or not, it is in use.
            self._young[name] = full_s = self._old.pop(name, now_s)
        if full_s < now_s:
            full_s = now_s
        wait_s = full_s - now_s + ((cost if cost < self._burst else self._burst) * self._token_s - self._burst_s)
        if wait_s > _SLACK_S:
            return wait_s
        self._young[name] = full_s + cost * self._token_s
        return 0.0

    def wait_s(self, name: str, now_s: float) -> float:
        """What `take` of one token would return; takes and remembers nothing."""
        full_s = self._young.get(name) or self._old.get(name, now_s)
        wait_s = full_s - now_s + (self._token_s - self._burst_s)
        return wait_s if wait_s > _SLACK_S else 0.0


class Limits:
    """The limits that the settings set; a rate of 0 is none."""

    def __init__(self, settings: Settings) -> None:
        def limiter(rate_s: float, burst: int) -> Limiter | None:
            return Limiter(rate_s, burst, settings.rate_limit_addresses) if rate_s else None

        self._key = limiter(settings.rate_limit_key_events_s, settings.rate_limit_key_burst_events)
        self._ip = limiter(settings.rate_limit_ip_requests_s, settings.rate_limit_ip_burst_requests)
        self._bad_keys = limiter(settings.rate_limit_bad_keys_s, settings.rate_limit_bad_keys_burst)

    def request(self, ip: str, now_s: float) -> Refusal | None:
        """One more request of an address."""
        if self._ip is None or not (wait_s := self._ip.take(_host(ip), 1, now_s)):
            return None
        return Refusal(RATE_LIMITED, "of this address", ceil(wait_s))

    def events(self, owner: Owner, events: int, now_s: float) -> Refusal | None:
        """More events of one key."""
        if self._key is None or not (wait_s := self._key.take(f"{owner.source} {owner.site}", events, now_s)):
            return None
        return Refusal(RATE_LIMITED, "of this key", ceil(wait_s))

    def guess(self, owner: Owner | Refusal, ip: str, now_s: float) -> Owner | Refusal:
        """A key, looked up: as it is, or a refusal because too many unknown ones came from this address.

        Then a secret key is refused too, or the answer would say which guess was right. A write key is not: it stands
        in every page, nobody has to guess it, and visitors may share an address.
        """
        bad_keys = self._bad_keys
        if bad_keys is None:
            return owner
        wait_s = 0.0
        if isinstance(owner, Owner):
            if owner.source != "client":
                wait_s = bad_keys.wait_s(_host(ip), now_s)
        elif owner.rejection is INVALID_KEY:
            wait_s = bad_keys.take(_host(ip), 1, now_s)
        elif owner.rejection is MISPLACED_SECRET_KEY:
            wait_s = bad_keys.wait_s(_host(ip), now_s)
        return Refusal(TOO_MANY_BAD_KEYS, "", ceil(wait_s)) if wait_s else owner


def _host(ip: str) -> str:
    """Who is counted under one address: of IPv6 the network that one customer gets, a /64."""
    return _network(ip) if ":" in ip else ip


@lru_cache(4096)
def _network(ip: str) -> str:
    return str(IPv6Network((ip, 64), strict=False))


class Connections:
    """How many connections are open, in all and of one peer."""

    def __init__(self, most: int, most_of_peer: int) -> None:
        self.most = most
        self._most_of_peer = most_of_peer
        self._by_peer: dict[str, int] = {}
        self.open = 0

    def admit(self, peer: str) -> bool:
        """Count one more, unless it is one too many. `peer`: '' counts for none (a trusted proxy, a Unix socket)."""
        of_peer = self._by_peer.get(peer, 0)
        if self.open >= self.most or (peer and self._most_of_peer and of_peer >= self._most_of_peer):
            return False
        self.open += 1
        self._by_peer[peer] = of_peer + 1
        return True

    def leave(self, peer: str) -> None:
        """One that was admitted has ended."""
        self.open -= 1
        if (left := self._by_peer[peer] - 1) == 0:
            del self._by_peer[peer]
        else:
            self._by_peer[peer] = left


class Guard:
    """What all connections of a process share."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.limits = Limits(settings)
        self.connections = Connections(settings.max_connections, settings.max_ip_connections)
        self.proxies = Proxies(networks(settings.trusted_proxies))
        self.arriving_bytes = 0
        """Of requests that have begun and are not complete."""
        self._retry_after_s = itertools.cycle(range(settings.retry_after_s, 2 * settings.retry_after_s + 1))

    def sender(self, scope: Mapping[str, Any]) -> tuple[dict[bytes, bytes], str]:
        """Of an ASGI request: its headers as a dict, and its client's address."""
        client = scope.get("client")
        return self.sender_of(client[0] if client else "", scope["headers"])

    def sender_of(self, peer: str, lines: list[tuple[bytes, bytes]]) -> tuple[dict[bytes, bytes], str]:
        if peer not in self.proxies:
            return dict(lines), peer
        headers = joined(lines)
        return headers, client_ip(peer, headers, self.proxies)

    def retry_after_s(self) -> int:
        """When to send again, if nothing tells when it will do: a turn of the setting, so that not all come at once."""
        return next(self._retry_after_s)

    def fit_open_files(self) -> None:
        """Raise the process's limit of open files as far as it may, and take no more connections than it has room for:
        at the limit itself nothing can be accepted, answered or written to disk."""
        if sys.platform == "win32":
            return
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = self.connections.most + OTHER_FILES
        if soft != resource.RLIM_INFINITY and soft < wanted:
            soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            self.connections.most = max(1, soft - OTHER_FILES)
