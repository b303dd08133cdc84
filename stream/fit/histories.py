"""What a fit takes: the histories of a site's profiles, read from Redis. Nothing there is changed.

SCAN goes over all keys of all nodes, some at a time, and only the fields that are fitted are read. A profile that it
gives twice, or that a merge moves meanwhile, is one history more or less. Memory: 32 bytes a history and its value; of
more than `most` a sample by profile id, so that the next fit takes the same ones.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final
from zlib import crc32

from stream.core import orders
from stream.core.churn_watch import Watched
from stream.fit.gaps import Gaps
from stream.profile import ProfileCodec
from stream.signals import SIGNALS
from stream.signals.base import Signal
from stream.signals.purchase import Purchases

PURCHASE: Final = "purchase"
REORDER: Final = "reorder"
SCAN_COUNT: Final = 1000
"""Keys that Redis looks at in one call; it serves nobody else meanwhile (about 0.3 ms)."""


class Found:
    """The histories of one signal: columns, a customer each."""

    def __init__(self, most: int) -> None:
        self.x, self.t_x_days, self.t_days = array("q"), array("q"), array("q")
        self.hash = array("q")
        self.means: dict[str, tuple[array[int], array[float]]] = {}
        """Currency -> (customer's place, mean value of its repeats; without repeats 0)."""
        self.gaps = Gaps()
        """Of products; only of purchases."""
        self._most = most
        self.share = 1
        """One in so many profiles is taken."""

    def __len__(self) -> int:
        return len(self.x)

    def take(self, profile_id: str, state: Watched, today: int) -> None:
        hash = crc32(profile_id.encode())
        if not state.days or hash % self.share:
            return
        place = len(self.x)
        self.x.append(state.x)
        self.t_x_days.append(state.t_x_days)
        self.t_days.append(max(today - state.days[0], state.t_x_days))
        self.hash.append(hash)
        if isinstance(state, Purchases):
            repeats = orders.totals(state.orders, state.sums, state.days[0])
            for cur in orders.totals(state.orders, state.sums):
                places, means = self.means.setdefault(cur, (array("q"), array("d")))
                places.append(place)
                means.append(repeats.get(cur, 0.0) / state.x if state.x else 0.0)
        if len(self.x) > self._most:
            self._halve()

    def _halve(self) -> None:
        self.share *= 2
        kept = [i for i, hash in enumerate(self.hash) if hash % self.share == 0]
        moved = {old: new for new, old in enumerate(kept)}
        for name in ("x", "t_x_days", "t_days", "hash"):
            column = getattr(self, name)
            setattr(self, name, array("q", (column[i] for i in kept)))
        for cur, (places, means) in self.means.items():
            both = [(moved[i], m) for i, m in zip(places, means, strict=True) if i in moved]
            self.means[cur] = array("q", (i for i, _ in both)), array("d", (m for _, m in both))


def read(
    redis: Any,
    site: str,
    signals: Sequence[Signal[Any]],
    today: int,
    most: int,
    progress: Callable[[int], None] = lambda n: None,
) -> dict[str, Found]:
    """Signal -> its histories. `redis`: tracker/contract/redis_url.py's `admin`; `progress` is told of profiles read.

    Raises RedisError; StateError when a newer worker wrote a state.
    """
    codec = ProfileCodec(signals)
    names = [signal.name for signal in signals]
    found = {name: Found(most) for name in names}
    if PURCHASE in names:  # and what was in the orders
        signals = [*signals, *(s for s in SIGNALS if s.name == REORDER)]
        codec, names = ProfileCodec(signals), [*names, REORDER]
    for batch in profile_keys(redis, site):
        pipeline = redis.pipeline(transaction=False)
        for key in batch:
            pipeline.hmget(key, names)
        for key, values in zip(batch, pipeline.execute(), strict=True):
            profile_id = key.rpartition(":")[2]
            fields = [x for name, text in zip(names, values, strict=True) if text is not None for x in (name, text)]
            states = codec.decode(site, profile_id, fields).states
            for name, state in states.items():
                if name != REORDER:
                    found[name].take(profile_id, state, today)
                elif (purchases := states.get(PURCHASE)) is not None:
                    found[PURCHASE].gaps.take(state, purchases.orders)
        progress(len(batch))
    return found


def profile_keys(redis: Any, site: str) -> Iterator[list[str]]:
    """The keys of the site's profiles, some at a time. Of a cluster every node is asked for its own: cursors are a
    node's."""
    pattern = f"{{p*}}:v:{site}:*"
    nodes = [node.redis_connection for node in redis.get_primaries()] if hasattr(redis, "get_primaries") else [redis]
    for node in nodes:
        cursor = 0
        while True:
            cursor, keys = node.scan(cursor, match=pattern, count=SCAN_COUNT)
            if keys:
                yield keys
            if cursor == 0:
                break
