"""Tells the workers' clock of events that were answered with 200 and are not in Kafka yet.

Carts are abandoned by a clock in the log (stream/deadlines.py), which must not pass an event that still lies in an
endpoint's spool: its purchase would come after the reminder. So each process keeps in Redis since when it has events
that Kafka has not acked, for as long as it has any; the clock stays before the least of these times. What a process
said that is gone counts for KEPT_MS more: until then another one has adopted its spool.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, Final
from uuid import uuid4

from redis.asyncio import Redis
from redis.exceptions import RedisError

from tracker.contract import keys
from tracker.contract.durations import DAY_S

log = logging.getLogger(__name__)
EVERY_S: Final = 0.5
AGAIN_MS: Final = 5_000
KEPT_MS: Final = 90_000
"""Three times the default of spool_adopt_s."""
HASH_KEPT_S: Final = DAY_S


async def keep_telling(redis: Redis, oldest_ms: Callable[[], int | None]) -> None:
    """For ever. `oldest_ms`: when the oldest event was received that Kafka does not have, or before; None: it has all
    of them."""
    client: Any = redis
    name, since, told, told_at_ms, complained = uuid4().hex, 0, 0, 0, False
    sure = True
    """That nothing is there was said twice: a Redis that was started again may have lost the first time."""
    while True:
        await asyncio.sleep(EVERY_S)
        oldest, now_ms = oldest_ms(), time.time_ns() // 1_000_000
        # It does not go on while older ones are sent: those of two processes come to a partition in any order.
        since = min(since or oldest, oldest) if oldest is not None else 0
        if since == told and (sure or now_ms - told_at_ms < AGAIN_MS):
            continue
        try:
            if since:
                await client.hset(keys.WAITS_KEY, name, f"{since}:{now_ms + KEPT_MS}")
                await client.expire(keys.WAITS_KEY, HASH_KEPT_S)
            else:
                await client.hdel(keys.WAITS_KEY, name)
            told, told_at_ms, sure, complained = since, now_ms, not since and not told, False
        except (RedisError, OSError) as e:
            if not complained:
                log.warning("The workers' clock does not know of what waits for Kafka: %s: %s", type(e).__name__, e)
            complained = True
