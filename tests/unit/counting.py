"""Events as clients send them -> what the real fold counts: sums by family, as the read API adds up its buckets."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from typing import Any, Final

from stream.fold import Folder
from stream.profile import Profile
from stream.records import decode
from stream.signals import SIGNALS
from tracker.contract import keys
from tracker.contract.events import encode_clock
from tracker.contract.loading import load
from tracker.contract.settings import Settings
from tracker.counters import net

T0_MS: Final = 1_795_000_000_000
"""A Wednesday, 20 past midday in Vietnam."""
SETTINGS: Final = load({"TRACKER_DEMO": "1"})
_places = itertools.count(1)


class Counting:
    """One partition without Redis, whose counters are kept by family."""

    def __init__(self, settings: Settings = SETTINGS) -> None:
        self.folder = Folder(SIGNALS, settings)
        self.profiles: dict[tuple[str, str], Profile] = {}
        self.counts: dict[str, Counter[str]] = {family: Counter() for family in keys.FAMILIES}
        self.at: dict[tuple[str, int], Counter[str]] = {}
        """(family, start of the minute in seconds) -> field -> n."""
        self.gauges: Counter[str] = Counter()
        self.visits: dict[str, dict[str, int]] = {}
        """SITE:CHANNEL -> profile -> minute, of the exact visitors."""
        self.clock_ms = 0

    def take(self, *events: dict[str, Any]) -> Counting:
        """Each in a chunk of its own."""
        for event in events:
            self._fold(json.dumps(event).encode())
        return self

    def clock(self, ms: int) -> Counting:
        self._fold(encode_clock(ms))
        return self

    def net(self, family: str) -> Counter[str]:
        """Field -> n, less what was undone; as the read API has it."""
        return net([[x for pair in self.counts[family].items() for x in (pair[0], str(pair[1]))]])

    def _fold(self, value: bytes) -> None:
        decoded = decode([value])
        for key in decoded.profiles:
            self.profiles.setdefault(key, Profile(*key))
        due = [key for key, p in sorted(self.profiles.items()) if (p.due_ms or 1 << 60) <= (decoded.clock_ms or 0)]
        fx = self.folder.fold(decoded, self.profiles, due, {}, self.clock_ms)
        assert fx.poison == []
        for (family, _, minute), fields in fx.counts().items():
            self.counts[family].update(fields)
            self.at.setdefault((family, minute), Counter()).update(fields)
        for where, pairs in self.folder.blob(fx, epoch=1, seq=1, base=0, next=1)["visits"]:
            self.visits.setdefault(where, {}).update(zip(pairs[1::2], pairs[::2], strict=True))
        for field, n in fx.gauges.items():
            self.gauges[field] += n
        self.clock_ms = fx.clock_ms


def track(name: str, at_ms: int = T0_MS, pid: str = "p1", channel: str = "site", **properties: Any) -> dict[str, Any]:
    n = next(_places)
    return {
        "profileId": pid, "src": [3, n, 0], "site": "demo", "type": "track", "event": name, "messageId": f"m{n:06}",
        "timestampMs": at_ms, "receivedAtMs": at_ms, "channel": channel, "anonymousId": f"a-{pid}",
        "properties": properties,
    }  # fmt: skip


def page(at_ms: int = T0_MS, pid: str = "p1", path: str = "/") -> dict[str, Any]:
    return {**track("", at_ms, pid, path=path), "type": "page", "event": None}
