"""What both hops do with the Kafka producer: wait for acks, and give up a record as a dead letter."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from time import time
from typing import Any, Final

import msgspec

from tracker.contract.producer import KafkaOut
from tracker.contract.topics import DEAD_LETTERS, MAX_ORIGINAL_BYTES, DeadLetter

MAX_DETAIL_CHARS: Final = 1000
MAX_KEY_BYTES: Final = 1024
_encode: Final = msgspec.json.Encoder().encode


async def acked(acks: Collection[asyncio.Future[None]]) -> None:
    """Wait for all of them. Raises ProduceError when one failed; the others are shared, and go on."""
    waiting = [ack for ack in acks if not ack.done()]
    if waiting:
        await asyncio.wait(waiting)
    for ack in acks:
        ack.result()


def dead_letter(
    out: KafkaOut, stage: str, topic: str, partition: int, record: Any, reason: str, detail: str
) -> asyncio.Future[None]:
    """Give a record that could not be used to tracker.dead-letters.v1; of one that is too large for that its beginning:
    it stays whole in its topic."""
    original, key = record.value or b"", record.key or b""
    letter = DeadLetter(
        reason=reason, detail=detail[:MAX_DETAIL_CHARS], stage=stage, at_ms=int(time() * 1000),
        original=original[:MAX_ORIGINAL_BYTES], topic=topic, partition=partition, offset=record.offset,
        key=None if record.key is None else key[:MAX_KEY_BYTES],
        missing_bytes=max(0, len(original) - MAX_ORIGINAL_BYTES) + max(0, len(key) - MAX_KEY_BYTES),
    )  # fmt: skip
    return out.append(DEAD_LETTERS, None, _encode(letter), None, 0)
