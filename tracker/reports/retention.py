"""Cohorts: of those who were first active in a week, who is active k weeks later (domain: A468).

retained_k = active in week k / size of the cohort
churn_k    = 1 - (of the active in week k - 1 those who are active in week k) / active in week k - 1
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import date, timedelta
from typing import Any, Final

from redis.asyncio import Redis

from stream.core.retention import MAX_WEEKS, monday, week_of
from tracker.contract import keys
from tracker.contract.durations import DAY_S
from tracker.contract.settings import Settings
from tracker.counters import ask_clocks, complete_until, net, zone_of
from tracker.ratios import ratio

DEFAULT_WEEKS: Final = 12
MAX_COHORTS: Final = 53

CONTENTS: Final = """
-- Counter hashes of one partition. KEYS: their names. Returns [field, n, ...] of each.
local found = {}
for i, key in ipairs(KEYS) do found[i] = redis.call('HGETALL', key) end
return found
"""


async def read_retention(redis: Redis, settings: Settings, site: str, weeks: int, now_ms: int) -> dict[str, Any]:
    """The answer of .../retention: of this week's cohort and those of the weeks before. Raises RedisError."""
    this = week_of(zone_of(settings, site).day(now_ms // 1000) // DAY_S)
    cohorts = range(this - weeks + 1, this + 1)
    contents = redis.register_script(CONTENTS)
    pipe = redis.pipeline(transaction=False)
    for p in range(settings.partitions):
        names = [keys.counter_key(p, site, "retention", "d", monday(week) * DAY_S) for week in cohorts]
        await contents(keys=names, client=pipe)
    ask_clocks(pipe, settings)
    replies = await pipe.execute()
    parts, clocks = replies[: settings.partitions], replies[settings.partitions :]
    counts = {week: net(part[i] for part in parts) for i, week in enumerate(cohorts)}
    return {**retention(counts, this), "complete_until": complete_until(clocks)}


def retention(counts: Mapping[int, Mapping[str, int]], this_week: int) -> dict[str, Any]:
    """Week -> fields of its bucket: the cohorts, oldest first, and all of them as one.

    A period is a week after the cohort's; the one that still runs is marked. `all` has of each k the cohorts whose week
    k is over.
    """
    cohorts = []
    whole: dict[int, Counter[str]] = {}
    for week in sorted(counts):
        fields = counts[week]
        size = fields.get(keys.cohort_field(0), 0)
        periods = []
        for k in range(1, min(this_week - week, MAX_WEEKS - 1) + 1):
            n = {
                "size": size,
                "active": fields.get(keys.cohort_field(k), 0),
                "before": fields.get(keys.cohort_field(k - 1), 0),
                "kept": fields.get(keys.cohort_field(k, kept=True), 0),
            }
            runs = week + k == this_week
            if not runs:
                whole.setdefault(k, Counter()).update(n)
            periods.append(_period(k, n) | {"runs": runs})
        begin = date(1970, 1, 1) + timedelta(days=monday(week))
        cohorts.append({"week": begin.isoformat(), "size": size, "periods": periods})
    return {"cohorts": cohorts, "all": [_period(k, n) | {"size": n["size"]} for k, n in sorted(whole.items())]}


def _period(k: int, n: Mapping[str, int]) -> dict[str, Any]:
    kept = ratio("retention.churn", n["kept"], n["before"])
    return {
        "k": k,
        "active": n["active"],
        "retained": ratio("retention.retained", n["active"], n["size"]),
        "churn": None if kept is None else 1 - kept,
    }
