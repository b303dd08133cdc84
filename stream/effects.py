"""What a chunk does: everything that apply.lua writes, and what the worker counts and publishes after it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec
from msgspec import Struct

from stream.core.score import Part
from stream.core.visitors import Visits
from stream.profile import Profile
from stream.records import Poison
from tracker.contract import keys
from tracker.contract.durations import MINUTE_MS
from tracker.contract.models import Model

MOVED: Final = ""
"""Kind of what goes from one partition of profile-events to another."""
KNOWN: Final = (("profiles_known", 1),)
"""The gauge of a profile that has been seen."""


class Outgoing(Struct, frozen=True):
    """A trigger on its way to Kafka, or (kind MOVED) a record for another partition of profile-events."""

    kind: str
    topic: str
    key: bytes
    value: bytes
    at_ms: int


class Effects(Struct):
    """What a chunk does."""

    seen: dict[tuple[str, int], dict[tuple[str, str], int]]
    """Events: (site, place) -> (channel, label) -> n; `counts` makes fields of them. A place is the start of a
    minute in seconds: see place_of."""
    extra: dict[tuple[str, int], dict[str, int]]
    """What signals count: (site, place) -> field -> n."""
    gauges: dict[str, int]
    touched: dict[tuple[str, str], Profile]
    src: dict[int, tuple[int, int]]
    triggers: list[Outgoing]
    suppressed: list[tuple[str, str]]
    """(kind, reason)."""
    metrics: dict[tuple[str, tuple[str, ...]], float]
    poison: list[Poison]
    received: list[int]
    """received_at_ms of the events applied."""
    repeats: int
    clock_ms: int
    content: dict[tuple[str, int], dict[str, int]] = msgspec.field(default_factory=dict)
    """What events tell of: (site, place) -> field of the family `content` -> n."""
    campaigns: dict[tuple[str, int], dict[str, int]] = msgspec.field(default_factory=dict)
    """The same of the family `campaign`."""
    visits: Visits = msgspec.field(default_factory=Visits)
    models: list[Model] = []
    """New parameters, in the order of the log."""
    taken_over: int = 0
    """Parts of merged profiles' states."""
    sums: dict[str, dict[str, list[float]]] = msgspec.field(default_factory=dict)
    """Site -> field of its decayed sums -> log2 of each part that is added."""
    unranked: list[tuple[str, str]] = msgspec.field(default_factory=list)
    """(site, profile id) of those who have no place any more."""
    ranked: dict[str, str] = msgspec.field(default_factory=dict)
    """Site -> the rules by which all of its ranks here are, from this step on."""

    @staticmethod
    def none(clock_ms: int) -> Effects:
        """Before the first record."""
        return Effects({}, {}, {}, {}, {}, [], [], {}, [], [], 0, clock_ms)

    def counts(self) -> dict[tuple[str, str, int], dict[str, int]]:
        """(family, site, place) -> field -> n, of all that the chunk counts."""
        found: dict[tuple[str, str, int], dict[str, int]] = {}
        for (site, place), fields in self.extra.items():
            for field, n in fields.items():
                family = keys.FAMILY_OF.get(field.partition("|")[0], "site")  # a kind of somebody's own signal
                found.setdefault((family, site, place), {})[field] = n
        for (site, place), pairs in self.seen.items():
            fields = found.setdefault(("site", site, place), {})
            for (channel, label), n in pairs.items():
                for field in (keys.TOTAL_FIELD, keys.channel_field(channel), keys.event_field(label)):
                    fields[field] = fields.get(field, 0) + n
        for family, counts in (("campaign", self.campaigns), ("content", self.content)):
            for (site, minute), fields in counts.items():
                found[family, site, minute] = fields
        return found

    def gauge(self, site: str, gauges: tuple[tuple[str, int], ...], sign: int = 1) -> None:
        for field, n in gauges:
            name = f"{field}|{site}"
            self.gauges[name] = self.gauges.get(name, 0) + sign * n

    def add_sums(self, site: str, parts: Iterable[Part], back: Iterable[Part]) -> None:
        sums = self.sums.setdefault(site, {})
        for indicator, half_life_d, log2 in parts:
            field = keys.sum_field(indicator, half_life_d)
            if (logs := sums.get(field)) is None:
                sums[field] = [log2]
            else:
                logs.append(log2)
        for indicator, half_life_d, log2 in back:
            sums.setdefault(keys.sum_back_field(indicator, half_life_d), []).append(log2)

    def suppress(self, kind: str, reason: str) -> None:
        self.suppressed.append((kind, reason))

    def count(self, name: str, *labels: str, n: float = 1) -> None:
        """For Prometheus: a counter of stream/metrics.py."""
        self.metrics[name, labels] = self.metrics.get((name, labels), 0) + n


def place_of(ms: int, now_ms: int) -> int:
    """Where a count belongs: the start of its minute, s, and in the place of its seconds how many tiers are over: whose
    buckets of that time no window reads any more. (An import of years would leave some dead keys for each event, each
    for as long as if it were of today.) By the time that is in the log, so the same wherever a chunk is cut."""
    start = ms // MINUTE_MS * 60
    age_s = now_ms // 1000 - start
    return start + sum(age_s > ttl_s for _, ttl_s in keys.TIERS.values())


_outgoing = msgspec.msgpack.Decoder(Outgoing)


def unpack_outgoing(value: bytes) -> Outgoing:
    return _outgoing.decode(value)
