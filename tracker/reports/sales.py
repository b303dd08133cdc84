"""What customers buy more of in a window: renewals of subscriptions, cross-sells, upsells (domain: A464).

renewal_rate = renewed / due, due = renewed + lapsed
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from redis.asyncio import Redis

from tracker.contract import keys
from tracker.contract.settings import Settings
from tracker.counters import read_sums
from tracker.ratios import ratio


async def read_sales(redis: Redis, settings: Settings, site: str, window: str, now_ms: int) -> dict[str, Any]:
    """The answer of .../sales. Raises RedisError."""
    sums, complete_until = await read_sums(redis, settings, site, "sales", "sale", window, now_ms)
    return {"window": window, **sales(sums), "complete_until": complete_until}


def sales(sums: Mapping[str, int]) -> dict[str, Any]:
    n = {what: max(0, sums.get(keys.sale_field(what), 0)) for what in ("renewed", "lapsed", "cross", "up")}
    due = n["renewed"] + n["lapsed"]
    return {
        "due": due,
        "renewed": n["renewed"],
        "lapsed": n["lapsed"],
        "renewal_rate": ratio("sales.renewal_rate", n["renewed"], due),
        "cross_sells": n["cross"],
        "upsells": n["up"],
    }
