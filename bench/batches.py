"""Records to Kafka in batches as aiokafka offers them (`create_batch`, `append`, `send_batch`), for the forwarders.

Its cheapest way, and the one that an engineer would take who does not write a producer: one open batch a partition, one
future for all its waiters, the linger that the endpoint has. Nothing is bounded, and nothing outlives an error.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaProducer

from tracker.contract.codec import partition_of
from tracker.contract.linger import Linger


class Batches:
    """What of `KafkaOut` the forwarders use, with the same arguments."""

    def __init__(self, bootstrap: str, *, linger_ms: float, linger_max_ms: float, **_: object) -> None:
        self._bootstrap = bootstrap
        self._linger = Linger(linger_ms / 1000, linger_max_ms / 1000)
        self._partitions = 0
        self._open: dict[tuple[str, int], tuple[Any, asyncio.Future[None], int]] = {}
        self._flush_at: asyncio.TimerHandle | None = None
        self._sending: set[asyncio.Task[None]] = set()
        self.ready = False

    async def start(self, topics: Mapping[str, int | None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._producer = AIOKafkaProducer(
            bootstrap_servers=self._bootstrap,
            acks="all",
            enable_idempotence=True,
            compression_type="snappy",
            max_batch_size=512 * 1024,
        )
        await self._producer.start()
        (topic,) = topics
        self._partitions = len(await self._producer.partitions_for(topic))
        self.ready = True

    async def stop(self, timeout_s: float) -> None:
        await asyncio.wait_for(self._producer.stop(), timeout_s)

    def partition_of(self, topic: str, key: bytes) -> int:
        return partition_of(key, self._partitions)

    def append(self, topic: str, key: bytes, value: bytes) -> asyncio.Future[None]:
        (ack,) = self.extend(topic, self.partition_of(topic, key), ((key, value),))
        return ack

    def extend(
        self, topic: str, partition: int, records: Sequence[tuple[bytes | None, bytes]]
    ) -> set[asyncio.Future[None]]:
        where = (topic, partition)
        batch, ack, count = self._open.get(where) or (self._producer.create_batch(), self._loop.create_future(), 0)
        for key, value in records:
            if batch.append(key=key, value=value, timestamp=None) is None:
                raise RuntimeError("a batch is full: the bench sends too much at once")
        self._open[where] = batch, ack, count + len(records)
        if self._flush_at is None:
            self._flush_at = self._loop.call_later(self._linger.wait_s(time.monotonic()), self._flush)
        return {ack}

    def _flush(self) -> None:
        self._flush_at = None
        batches, self._open = self._open, {}
        self._linger.flushed(sum(count for _, _, count in batches.values()), len(batches), time.monotonic())
        for (topic, partition), (batch, ack, _) in batches.items():
            task = self._loop.create_task(self._send(topic, partition, batch, ack))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def _send(self, topic: str, partition: int, batch: Any, ack: asyncio.Future[None]) -> None:
        await (await self._producer.send_batch(batch, topic, partition=partition))
        ack.set_result(None)
