"""One process a worker_id: a second one ends with a line that says so, and takes nothing from the first.

A worker is a static member of its group under its worker_id. Of two under one name Kafka believes the later. aiokafka's
heartbeats do not name the instance, so the earlier one is told not that it was fenced, but that it is unknown; it joins
again, and so they would go on for ever. So each process says in Redis that it holds its worker_id, once a second. One
that starts waits until the holder has said so again, for then it lives, or until it has been silent for DEAD_S: it was
killed, or hangs. A start takes nearly as long anyway. A holder that was frozen and finds another in its place ends.

It is a courtesy, and guards nothing: what keeps effects single is each partition's epoch. So a Redis that can't be
asked holds nobody up.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
from collections.abc import Callable
from typing import Any, Final

from stream.packing import unpackb
from stream.redis_store import RedisError, Store, Unavailable
from tracker.contract import keys

EVERY_S: Final = 1.0
DEAD_S: Final = 3.0
KEPT_S: Final = 60.0
"""What a process that is killed leaves in Redis."""
LOOK_EVERY_S: Final = 0.25
LET_GO_S: Final = 0.5


class Lease:
    """Of this process on its worker_id."""

    def __init__(self, store: Store, worker_id: str) -> None:
        self._store = store
        self._key = keys.worker_key(worker_id)
        self._run = secrets.token_hex(8)
        self._who = f"process {os.getpid()} on {socket.gethostname()}"

    async def take(self) -> str | None:
        """None when it is ours, else who has it and lives. Raises RedisError, Unavailable."""
        before_ms: float | None = None
        while True:
            held = await self._hold(KEPT_S)
            if not held:
                return None
            who, age_ms = held
            if before_ms is not None and age_ms < before_ms:
                return str(who)
            before_ms = age_ms
            await asyncio.sleep(LOOK_EVERY_S)

    async def keep(self, lost: Callable[[str], object]) -> None:
        """For ever. `lost`: told who has it now."""
        while True:
            await asyncio.sleep(EVERY_S)
            with contextlib.suppress(RedisError, *Unavailable):
                if held := await self._hold(KEPT_S):
                    lost(str(held[0]))

    async def let_go(self) -> None:
        """So that the next process need not wait."""
        with contextlib.suppress(RedisError, TimeoutError, *Unavailable):
            async with asyncio.timeout(LET_GO_S):
                await self._hold(0)

    async def _hold(self, ttl_s: float) -> Any:
        argument = [self._run, self._who, int(ttl_s * 1000), int(DEAD_S * 1000)]
        return unpackb(await self._store.call("hold", self._key, argument))
