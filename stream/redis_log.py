"""Redis's append-only file after a crash: a transaction that was torn at its end must not come back.

Redis (seen with 6.2) leaves a torn transaction out when it starts, but its MULTI stays in the file. What is written
then stands behind it, and the start after that one applies the part of the transaction that is there, whose chunk we
have folded again meanwhile: it would count twice. Written anew from memory, the file has no such rest.
"""

from __future__ import annotations

import logging

from redis.asyncio import Redis
from redis.exceptions import ResponseError

log = logging.getLogger(__name__)


async def renew_after_start(server: Redis) -> None:
    """Have the server write its file anew if it has not done so since it was started."""
    try:
        info = await server.info("persistence")
        if info.get("aof_enabled") and info["aof_last_rewrite_time_sec"] < 0 and not info["aof_rewrite_in_progress"]:
            await server.bgrewriteaof()
    except ResponseError as e:  # Another worker was first, or it is a service that keeps this to itself.
        log.info("Redis does not rewrite its append-only file: %s", e)
