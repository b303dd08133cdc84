"""What a hop works with, where no worker is around it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from stream import metrics
from stream.redis_store import Store
from tests.harness import eventually
from tracker.contract.producer import KafkaOut
from tracker.contract.settings import Settings
from tracker.contract.topics import TOPICS


@asynccontextmanager
async def redis_and_kafka(settings: Settings) -> AsyncIterator[tuple[Store, KafkaOut]]:
    """Both connected."""
    store = Store(settings.redis)
    await store.start()
    out = KafkaOut(
        settings.kafka, linger_ms=1, max_pending_bytes=1 << 28, produce_timeout_s=10, client_id="test",
        observer=metrics.Producing(), ordered=True,
    )  # fmt: skip
    await out.start({t.name: None for t in TOPICS})
    try:
        await eventually(lambda: out.ready)
        yield store, out
    finally:
        await out.stop(5)
        await store.stop()
