"""The same made-up shop traffic for every benchmark: about 600 bytes an event, visitors by a skewed draw, seeded."""

from __future__ import annotations

import asyncio
import json
import random
import time
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

from aiokafka import AIOKafkaProducer

from tracker.contract.codec import partition_of
from tracker.contract.topics import EVENTS

NAMES = (
    ("Product Viewed", 55), ("Product List Viewed", 12), ("Product Added", 9), ("Product Removed", 2),
    ("Cart Viewed", 6), ("Checkout Started", 3), ("Order Completed", 1), ("Popup Viewed", 6), ("Email Opened", 6),
)  # fmt: skip


_names, _weights = zip(*NAMES, strict=True)


def event(draw: random.Random, visitor: str, at_ms: int) -> tuple[bytes, bytes]:
    """(key, value) of a record of tracker.events.v1, received at `at_ms`."""
    found: dict[str, Any] = {
        "site": "demo",
        "type": "page" if draw.random() < 0.35 else "track",
        "messageId": str(uuid.UUID(int=draw.getrandbits(128), version=4)),
        "timestampMs": at_ms,
        "receivedAtMs": at_ms,
        "channel": "site",
        "source": "client",
        "anonymousId": visitor,
        "properties": {
            "product_id": f"p{draw.randrange(500)}",
            "name": "Cà phê sữa đá",
            "price": 45000,
            "quantity": 1,
            "currency": "VND",
            "url": "https://shop.example/p/ca-phe-sua-da",
        },
        "context": {
            "page": {"url": "https://shop.example/p/ca-phe-sua-da", "title": "Cà phê sữa đá", "referrer": ""},
            "userAgent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140",
            "locale": "vi-VN",
        },
    }
    if found["type"] == "track":
        found["event"] = draw.choices(_names, _weights)[0]
        if found["event"] == "Order Completed":
            found["properties"] |= {"order_id": f"o{draw.getrandbits(64):x}", "revenue": 45000}
    return visitor.encode(), json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode()


def skewed(draw: random.Random, visitors: int) -> str:
    """A visitor: few come often, most come seldom."""
    return f"visitor-{int(visitors * draw.random() ** 2):08d}"


def events(
    count: int, visitors: int, seed: int = 7, span_ms: int = 2000, *, evenly: bool = False
) -> Iterator[tuple[bytes, bytes]]:
    """Records of tracker.events.v1, received over the last `span_ms`. `evenly`: each visitor comes as often."""
    draw = random.Random(seed)
    now_ms = int(time.time() * 1000)
    for i in range(count):
        visitor = f"visitor-{i % visitors:08d}" if evenly else skewed(draw, visitors)
        yield event(draw, visitor, now_ms - span_ms + i * span_ms // count)


async def produce(bootstrap: str, partitions: int, records: Iterable[tuple[bytes, bytes]]) -> None:
    """Write records to tracker.events.v1 as the endpoint would."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, compression_type="lz4", max_batch_size=256 * 1024)
    await producer.start()
    try:
        batches: dict[int, Any] = {}
        sent: list[asyncio.Future[Any]] = []
        for key, value in records:
            p = partition_of(key, partitions)
            batch = batches.get(p)
            if batch is None or batch.append(timestamp=None, key=key, value=value) is None:
                if batch is not None:
                    sent.append(await producer.send_batch(batch, EVENTS, partition=p))
                batch = batches[p] = producer.create_batch()
                batch.append(timestamp=None, key=key, value=value)
        for p, batch in batches.items():
            sent.append(await producer.send_batch(batch, EVENTS, partition=p))
        await asyncio.gather(*sent)
    finally:
        await producer.stop()
