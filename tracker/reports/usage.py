"""Who uses what the site offers: users of a day, a week, a month, and how much (domain: A451)."""

from __future__ import annotations

from typing import Any, Final

from redis.asyncio import Redis

from tracker.contract import keys
from tracker.contract.durations import MINUTE_MS
from tracker.contract.settings import Settings
from tracker.counters import count_visitors, read_sums
from tracker.ratios import ratio

GRAIN: Final = 60
"""Users are known to the hour, minutes."""


async def read_usage(redis: Redis, settings: Settings, site: str, window: str, now_ms: int) -> dict[str, Any]:
    """The answer of .../usage. Raises RedisError."""
    users, are_exact = [], []
    for span in ("24h", "7d", "30d"):
        counts, exact, _ = await count_visitors(redis, settings, site, span, now_ms, (keys.USED,), GRAIN)
        users.append(counts[keys.USED])
        are_exact.append(exact)
    spans = dict.fromkeys((window, "24h"))
    sums = {w: await read_sums(redis, settings, site, "site", keys.ACTIVE_MS_FIELD, w, now_ms) for w in spans}
    minutes = {w: sums[w][0][keys.ACTIVE_MS_FIELD] / MINUTE_MS for w in spans}
    return {
        **usage(users[0], users[1], users[2], minutes["24h"]),
        "exact": all(are_exact),
        "window": window,
        "active_minutes": minutes[window],
        "complete_until": sums[window][1],
    }


def usage(dau: int, wau: int, mau: int, minutes_24h: float) -> dict[str, Any]:
    return {
        "dau": dau,
        "wau": wau,
        "mau": mau,
        "stickiness": ratio("usage.stickiness", dau, mau),
        "minutes_a_user": minutes_24h / dau if dau else None,
    }
