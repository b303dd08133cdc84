"""Everything that touches Redis: the scripts, and calls batched into pipelines.

Keys are mapped in tracker/contract/keys.py. Every write to a partition's keys is one script call that compares epoch
and seq of its head, does all or nothing and increments seq:

    claim.lua     take a partition over: a higher epoch, so that whoever had it is refused from now on
    decide.lua    resolve hop: store the decisions of a chunk before it is published
    advance.lua   resolve hop: the chunk is in Kafka; next moves, dedupe hashes are kept, decisions go
    settle.lua    resolve hop: what a restarted Redis had lost of the partition has been taken from the log
    apply.lua     signals hop: all effects of a chunk and next, in one step
    trim.lua      signals hop: triggers that are in Kafka leave the outbox
    load.lua      signals hop: read profiles and due timers
    days.lua      signals hop: read day buckets of counters, or their sums only
    roll.lua      a day's counters of a site, summed up over all partitions
    identify.lua  identifiers -> profile ids of one site
    split.lua     identifiers of a profile become a new one's
    forget.lua    what processes said of their spools that are long gone
    hold.lua      one process a worker_id
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Set
from pathlib import Path
from time import time
from typing import Any, Final

import redis.asyncio as aioredis
from redis.exceptions import RedisError

from stream.packing import packb, unpackb
from stream.redis_nodes import Nodes, Unavailable

SCRIPTS: Final = (
    "claim", "decide", "advance", "settle", "apply", "trim", "load", "days", "roll", "identify", "split", "forget",
    "hold",
)  # fmt: skip
APPLIED: Final = b"applied"


class Lost(Exception):
    """The partition's head is not where this process left it: another worker has it, or Redis went back in time."""


class Store:
    """Commands and scripts, each by its one key: it says which server of a cluster it is for."""

    def __init__(self, url: str, *, timeout_s: float = 5.0) -> None:
        """Raises ValueError when `url` is none of tracker/contract/redis_url.py's."""
        here = Path(__file__).parent
        self._sources = {name: (here / f"{name}.lua").read_text("utf-8") for name in SCRIPTS}
        self._sha: dict[str, str] = {}
        self._nodes = Nodes(url, timeout_s, self._load)

    @property
    def failed_s(self) -> float:
        """When Redis last did not answer, whoever asked; monotonic."""
        return self._nodes.failed_s

    def silent_s(self) -> float:
        """For how long Redis (all nodes of a cluster) has not answered, though asked, whoever did."""
        return self._nodes.silent_s()

    def refusing(self) -> str | None:
        """Why Redis takes no writes just now (stream/refusals.py)."""
        return self._nodes.refusing()

    async def start(self) -> None:
        """Load the scripts. Raises RedisError / OSError when Redis does not answer."""
        await self._nodes.start()

    async def evicts(self) -> str | None:
        """The maxmemory-policy of a server that would drop keys for want of memory: with a partition's head it would
        forget where to go on, and count the log a second time. Raises RedisError, OSError."""
        return await self._nodes.evicts()

    async def renew_log(self, but: Set[Hashable] = frozenset()) -> Set[Hashable]:
        """See stream/redis_log.py. -> servers of a cluster that do not answer, as `place` names them; `but` are not
        asked. Raises RedisError, OSError when none answers."""
        return await self._nodes.renew_logs(but)

    @property
    def cluster(self) -> bool:
        return self._nodes.cluster

    async def away(self) -> set[str]:
        """Nodes of a cluster that own slots and do not answer."""
        return {f"{host}:{port}" for host, port in await self._nodes.away()}

    async def stop(self) -> None:
        await self._nodes.stop()

    async def ping(self) -> None:
        """Raises RedisError / OSError when Redis, or a part of the cluster, does not answer."""
        await self._nodes.ping()

    def place(self, key: str) -> Hashable:
        """Which server a key is on, as far as is known."""
        return self._nodes.place(key)

    def run(self, command: str, key: str, *arguments: Any) -> asyncio.Future[Any]:
        """A command's answer. Raises Unavailable or ResponseError."""
        return self._nodes.run(key, (command, key, *arguments))

    async def time_ms(self, key: str) -> int:
        """The time of the server that a key is on. Raises Unavailable or ResponseError."""
        s, us = await self._nodes.run(key, ("TIME",))
        return int(s) * 1000 + int(us) // 1000

    async def call(self, script: str, key: str, argument: Any) -> Any:
        """Run a script with one key and one msgpack argument. Raises Unavailable or ResponseError."""
        return await self._nodes.run(key, ("EVALSHA", self._sha[script], 1, key, packb(argument)))

    async def _load(self, server: aioredis.Redis) -> None:
        for name, source in self._sources.items():
            self._sha[name] = await server.script_load(source)


class Head:
    """A partition's head in Redis, as its owner knows it: who may write (epoch), the number of the next write (seq)."""

    def __init__(self, store: Store, key: str) -> None:
        self.key = key
        self.epoch = 0
        self.seq = 0
        self.run = ""
        """Id of the server's run."""
        self.settled = False
        self._store = store

    async def claim(self, first: int | None, least: int = 0) -> int | None:
        """Take the partition over: the offset to go on at; None = there is none and `first` does not say it. The epoch
        is above `least`."""
        answer = await self._store.call("claim", self.key, [False if first is None else first, least, _now_ms()])
        epoch, seq, next, self.run, self.settled = unpackb(answer)
        if next < 0:
            return None
        self.epoch, self.seq = epoch, seq
        return int(next)

    async def settle(self) -> None:
        """What the server had lost of this partition when its run began is there again. Raises Lost."""
        if (answer := await self._store.call("settle", self.key, [self.epoch, self.run, _now_ms()])) != APPLIED:
            raise Lost(answer.decode())
        self.settled = True

    async def write(self, script: str, argument: Any) -> int:
        """Run a script that writes to the partition; `argument` has epoch and seq. The time it told, us; else 0.

        Raises Lost: the partition is not ours.
        """
        answer: bytes = await self._store.call(script, self.key, argument)
        what, _, took_us = answer.partition(b" ")
        if what != APPLIED:
            raise Lost(answer.decode("utf-8", "replace"))
        self.seq += 1
        return int(took_us or 0)


def _now_ms() -> int:
    return int(time() * 1000)


__all__ = ["Head", "Lost", "RedisError", "Store", "Unavailable"]
