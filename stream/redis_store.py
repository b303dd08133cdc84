"""Everything that touches Redis: the scripts, and calls batched into pipelines.

Keys are mapped in tracker/contract/keys.py. Every write to a partition's keys is one script call that compares epoch
and seq of its head, does all or nothing and increments seq:

    claim.lua     take a partition over: a higher epoch, so that whoever had it is refused from now on
    decide.lua    resolve hop: store the decisions of a chunk before it is published
    advance.lua   resolve hop: the chunk is in Kafka; next moves, dedupe hashes are kept, decisions go
    apply.lua     signals hop: all effects of a chunk and next, in one step
    trim.lua      signals hop: triggers that are in Kafka leave the outbox
    load.lua      signals hop: read profiles and due timers
    identify.lua  identifiers -> profile ids of one site
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import msgspec
import redis.asyncio as aioredis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from stream import metrics

SCRIPTS: Final = ("claim", "decide", "advance", "apply", "trim", "load", "identify")
APPLIED: Final = b"applied"

packb = msgspec.msgpack.Encoder().encode
unpackb = msgspec.msgpack.Decoder().decode


def binary(data: bytes) -> msgspec.Raw:
    """Bytes inside a script's argument: as msgpack's str, for Redis's cmsgpack knows no bin."""
    return msgspec.Raw(b"\xdb" + len(data).to_bytes(4, "big") + data)


Unavailable: Final = (RedisConnectionError, RedisTimeoutError, OSError)
"""Errors after which the outcome of a write is unknown: whoever wrote asks Redis where it stands (a new claim)."""


class Lost(Exception):
    """The partition's head is not where this process left it: another worker has it, or Redis went back in time."""


class Store:
    """One connection pool; calls made in one turn of the event loop leave as one pipeline."""

    def __init__(self, url: str, *, timeout_s: float = 5.0) -> None:
        # No retries inside redis-py: a write that came through unseen and is sent again would be refused.
        self.redis: aioredis.Redis = aioredis.Redis.from_url(
            url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=Retry(NoBackoff(), 0)
        )
        here = Path(__file__).parent
        self._sources = {name: (here / f"{name}.lua").read_text("utf-8") for name in SCRIPTS}
        self._sha: dict[str, str] = {}
        self._queue: list[tuple[tuple[Any, ...], asyncio.Future[Any]]] = []
        self._flusher: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Load the scripts. Raises RedisError / OSError when Redis does not answer."""
        for name, source in self._sources.items():
            self._sha[name] = await self.redis.script_load(source)

    async def stop(self) -> None:
        await self.redis.aclose()

    def run(self, *command: Any) -> asyncio.Future[Any]:
        """A command's answer. Raises Unavailable or ResponseError."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queue.append((command, future))
        if self._flusher is None:
            self._flusher = asyncio.create_task(self._flush())
        return future

    async def call(self, script: str, key: str, argument: Any) -> Any:
        """Run a script with one key and one msgpack argument. Raises Unavailable or ResponseError."""
        return await self.run("EVALSHA", self._sha[script], 1, key, packb(argument))

    async def _flush(self) -> None:
        try:
            while self._queue:
                commands, self._queue = self._queue, []
                await self._send(commands)
        finally:
            self._flusher = None

    async def _send(self, commands: Sequence[tuple[tuple[Any, ...], asyncio.Future[Any]]]) -> None:
        started = perf_counter()
        answers: list[Any]
        try:
            pipe = self.redis.pipeline(transaction=False)
            for command, _ in commands:
                pipe.execute_command(*command)
            answers = await pipe.execute(raise_on_error=False)
            if any(isinstance(a, NoScriptError) for a in answers):
                await self.start()  # Redis was restarted. The lanes claim again.
        except Exception as e:
            metrics.REDIS_ERRORS.inc()
            answers = [e] * len(commands)
        metrics.REDIS_SECONDS.observe(perf_counter() - started)
        for (_, future), answer in zip(commands, answers, strict=True):
            if future.done():
                continue  # Its waiter was cancelled.
            if isinstance(answer, BaseException):
                future.set_exception(answer)
            else:
                future.set_result(answer)


class Head:
    """A partition's head in Redis, as its owner knows it: who may write (epoch), the number of the next write (seq)."""

    def __init__(self, store: Store, key: str) -> None:
        self.key = key
        self.epoch = 0
        self.seq = 0
        self._store = store

    async def claim(self, first: int | None) -> int | None:
        """Take the partition over: the offset to go on at; None = there is none and `first` does not say it."""
        epoch, seq, next = unpackb(await self._store.call("claim", self.key, [False if first is None else first]))
        if next < 0:
            return None
        self.epoch, self.seq = epoch, seq
        return int(next)

    async def write(self, script: str, argument: Any) -> None:
        """Run a script that writes to the partition; `argument` has epoch and seq. Raises Lost: it is not ours."""
        answer: bytes = await self._store.call(script, self.key, argument)
        if answer != APPLIED:
            raise Lost(answer.decode("utf-8", "replace"))
        self.seq += 1


__all__ = ["Head", "Lost", "RedisError", "Store", "Unavailable", "binary", "packb", "unpackb"]
