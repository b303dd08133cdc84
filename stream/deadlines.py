"""The clock in the log: once a second, the owner of events partition 0 writes the time to all of profile-events.

Its time is the least receivedAt at the resolve hop's heads, less 2 s; a partition at the end of its log, freshly asked,
counts as now - 2 s. So every event received before a clock record stands before it in the log, timers that fire by it
see them all, an outage fires no cart whose purchase still waits in a backlog, and a fold of the log reproduces every
firing.
Whoever writes it, it is true: a worker that lost partition 0 and does not know yet does no harm.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from time import time
from typing import Final

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from stream.kafka_out import acked
from stream.redis_store import RedisError, Store, Unavailable
from stream.signals_hop import MARGIN_MS
from tracker.contract import keys
from tracker.contract.events import encode_clock
from tracker.contract.producer import KafkaOut, ProduceError
from tracker.contract.topics import EVENTS, PROFILE_EVENTS

log = logging.getLogger(__name__)
EVERY_S: Final = 1.0


async def clock_ms(store: Store, offsets: AIOKafkaConsumer, partitions: int) -> int | None:
    """The time that may be written now; None while a partition has events but no head yet."""
    now_ms = int(time() * 1000)  # Before the ends are asked: what comes later is later.
    ends = await offsets.end_offsets([TopicPartition(EVENTS, p) for p in range(partitions)])
    heads = await asyncio.gather(
        *(store.run("HMGET", keys.events_tag(p) + ":head", "next", "received_at_ms") for p in range(partitions))
    )
    least = now_ms - MARGIN_MS
    for p, (next, received_at_ms) in enumerate(heads):
        if next is not None and int(next) >= ends[TopicPartition(EVENTS, p)]:
            continue
        if next is None and ends[TopicPartition(EVENTS, p)] == 0:
            continue
        if received_at_ms is None:
            return None
        # Endpoints differ by their clocks and their batches: receivedAt rises with the offset but for this much.
        least = min(least, int(received_at_ms) - MARGIN_MS)
    return least


async def keep_time(
    is_ours: Callable[[], bool], store: Store, offsets: AIOKafkaConsumer, out: KafkaOut, partitions: int
) -> None:
    """For ever: while events partition 0 is ours, write the clock."""
    written = 0
    while True:
        await asyncio.sleep(EVERY_S)
        if not is_ours():
            continue
        try:
            t = await clock_ms(store, offsets, partitions)
            if t is not None and t > written:
                value = encode_clock(t)
                await acked({out.append(PROFILE_EVENTS, None, value, None, p) for p in range(partitions)})
                written = t
        except (KafkaError, ProduceError, RedisError, *Unavailable) as e:
            log.warning("The clock was not written: %s: %s", type(e).__name__, e)
