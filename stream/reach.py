"""Whether a worker that some nodes of a Redis Cluster do not answer should leave its partitions to others.

Alone it can't tell a node that is down from one that it alone can't reach, and while nobody reaches a node, leaving
would stop the partitions of the other nodes, too. So whoever has just had an answer of every node, and can take
partitions, says so at each ({pN}:whole, for half of cut_off_s). One that has missed a node for cut_off_s asks those
that it does reach: where another has all of Redis, it leaves. It comes back when all nodes answer again, or when no
such worker is left. Those that all miss a node have nobody to leave to: no mark outlives half of the time that they
wait.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Hashable
from time import monotonic
from typing import Final

from stream.redis_store import Store
from tracker.contract import keys

log = logging.getLogger(__name__)

MOST_PAUSE_S: Final = 5.0
"""Between two looks."""


class Reach:
    """Of a worker on a Redis Cluster."""

    def __init__(
        self, store: Store, partitions: int, worker_id: str, cut_off_s: float, takes: Callable[[], bool]
    ) -> None:
        """`takes`: whether this worker can take partitions: it is in its group."""
        self.why = ""
        """Why the partitions should go to others, if so."""
        self._store = store
        self._tags = [tag(p) for tag in (keys.profiles_tag, keys.events_tag) for p in range(partitions)]
        self._worker_id = worker_id
        self._cut_off_s = cut_off_s
        self._takes = takes
        self._since: dict[str, float] = {}
        """Node that does not answer -> since when, monotonic."""

    async def keep(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(min(MOST_PAUSE_S, self._cut_off_s / 8))
            await self.look(monotonic())

    async def look(self, now_s: float) -> None:
        away = await self._store.away()
        self._since = {node: self._since.get(node, now_s) for node in away}
        if not away:
            self.why = ""
            if self._takes():
                await self._say()
            return
        if not self.why and now_s - min(self._since.values()) <= self._cut_off_s:
            return
        other = await self._whole()
        if other:
            self.why = (
                f"Redis: {', '.join(sorted(away))} has not answered for {self._cut_off_s:.0f} s (setting cut_off_s), "
                f"and {other} reaches all nodes"
            )
        elif self.why:
            log.warning("No other worker reaches all nodes of Redis")
            self.why, self._since = "", dict.fromkeys(away, now_s)

    def _marks(self) -> dict[Hashable, str] | None:
        """Node -> the key of its mark; None while a partition has no node."""
        found: dict[Hashable, str] = {}
        for tag in self._tags:
            found.setdefault(self._store.place(tag), f"{tag}:whole")
        return None if None in found else found

    async def _say(self) -> None:
        if marks := self._marks():
            ttl_ms = int(self._cut_off_s * 500)
            told = (self._store.run("SET", key, self._worker_id, "PX", ttl_ms) for key in marks.values())
            await asyncio.gather(*told, return_exceptions=True)  # What fails is said again soon.

    async def _whole(self) -> str:
        """Another worker that has just reached all nodes, if there is one."""
        marks = [f"{tag}:whole" for tag in self._tags]
        told = await asyncio.gather(*(self._store.run("GET", key) for key in marks), return_exceptions=True)
        names = (value.decode() for value in told if isinstance(value, bytes))
        return next((name for name in names if name != self._worker_id), "")
