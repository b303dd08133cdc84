"""The median score of a site's active visitors: what a score of 50 of 100 means. Only ever shown, never decided by.

Ranks are ordered and rise with the score, so the median is the rank that half of the active are above: it is looked for
by halving, with one count a partition at a time. The owner of profile-events partition 0 does it; two who both believe
to be it write the same.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from time import time
from typing import Final

from stream.core import score as core
from stream.redis_store import RedisError, Store, Unavailable
from tracker.contract import keys
from tracker.contract.settings import Settings
from tracker.contract.sites import Site

log = logging.getLogger(__name__)

EVERY_S: Final = 60.0
HALVINGS: Final = 20
"""From a width of 64 (a score 2^64 times the least) to one of a ten-thousandth."""
WIDEST: Final = 64.0


async def keep_medians(is_ours: Callable[[], bool], store: Store, current: Callable[[], Settings]) -> None:
    """For ever: while profile-events partition 0 is ours, keep the medians of all sites up to date."""
    while True:
        if is_ours():
            settings = current()
            try:
                for name, site in settings.sites.items():
                    await find_median(store, settings.partitions, name, site, int(time() * 1000))
            except (RedisError, *Unavailable) as e:
                log.warning("Medians of scores were not found: %s: %s", type(e).__name__, e)
        await asyncio.sleep(EVERY_S if is_ours() else 1.0)


async def find_median(store: Store, partitions: int, name: str, site: Site, now_ms: int) -> float | None:
    """Write and give the site's median (of two in the middle the higher); None: nobody is active, so the last one
    stays. Raises RedisError, Unavailable."""
    rules = core.rules_of(site.score)

    async def above(rank: float) -> int:
        each = [store.run("ZCOUNT", keys.rank_key(p, name), repr(rank), "+inf") for p in range(partitions)]
        return sum(int(n) for n in await asyncio.gather(*each))

    low = core.bound(rules.active, rules, now_ms)
    active = await above(low)
    if not active:
        return None
    high = low + WIDEST
    for _ in range(HALVINGS):
        mid = (low + high) / 2
        if await above(mid) >= (active + 1) // 2:
            low = mid
        else:
            high = mid
    e50 = core.of_rank(low, rules, now_ms)
    await store.run("HSET", keys.score_key(name), "e50", repr(e50), "active", active, "at_ms", now_ms)
    return e50
