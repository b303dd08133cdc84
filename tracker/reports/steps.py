"""Moves between the 14 steps of a customer in a window: how many from which to which, and how long they took
(domain: A401)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from redis.asyncio import Redis

from tracker.contract import spans
from tracker.contract.settings import Settings
from tracker.contract.steps import STEPS
from tracker.counters import read_sums


async def read_steps(redis: Redis, settings: Settings, site: str, window: str, now_ms: int) -> dict[str, Any]:
    """The answer of .../steps. Raises RedisError."""
    sums, complete_until = await read_sums(redis, settings, site, "steps", "", window, now_ms)
    return {"window": window, **steps(sums), "complete_until": complete_until}


def steps(sums: Mapping[str, int]) -> dict[str, Any]:
    """Of the counters' fields: the steps with how many came to each, the moves by number with their median time.

    `from` None: it was the first that is known of the person. `unnamed`: moves of which a full bucket kept no more.
    """
    times: dict[tuple[int, int], Counter[int]] = {}
    unnamed = 0
    for field, n in sums.items():
        _, _, rest = field.partition("|")
        if not rest:
            unnamed += n
            continue
        from_, to, bucket = map(int, rest.split("|"))
        times.setdefault((from_, to), Counter())[bucket] += n
    came: Counter[int] = Counter()
    for (_, to), counts in times.items():
        came[to] += counts.total()
    moves = sorted(times.items(), key=lambda item: (-item[1].total(), item[0]))
    return {
        "steps": [{"number": i, "name": en, "vi": vi, "came": came[i]} for i, (en, vi) in enumerate(STEPS, 1)],
        "moves": [
            {
                "from": STEPS[from_ - 1][0] if from_ else None,
                "to": STEPS[to - 1][0],
                "count": counts.total(),
                "median_s": spans.quantile(counts) if from_ else None,
            }
            for (from_, to), counts in moves
            if counts.total()
        ],
        "unnamed": unnamed,
    }
