"""Merges that the identity script made, on their way to Kafka: tracker.merges.v1 and the losers' partitions.

The script writes them to the site's list in the step that re-points the ids; they leave it when Kafka has both records.
Whoever finds one there publishes it: under one id it may come twice.
"""

from __future__ import annotations

import asyncio
from typing import Final

from stream import metrics
from stream.kafka_out import acked
from stream.redis_store import Store, unpackb
from tracker.contract import keys
from tracker.contract.codec import partition_of
from tracker.contract.merges import Merge, encode_merge, merge_id
from tracker.contract.producer import KafkaOut
from tracker.contract.topics import MERGES, PROFILE_EVENTS

AT_ONCE: Final = 500


async def publish(site: str, store: Store, out: KafkaOut, partitions: int) -> None:
    """Empty the site's list. Raises ProduceError, Unavailable: what is not in Kafka stays in the list."""
    key = keys.merges_key(site)
    while waiting := await store.run("LRANGE", key, 0, AT_ONCE - 1):
        acks: set[asyncio.Future[None]] = set()
        for packed in waiting:
            winner, loser, rule, message_id, at_ms = unpackb(packed)
            merge = Merge(
                merge_id=merge_id(site, loser, winner), site=site, winner=winner, loser=loser, rule=rule,
                message_id=message_id, at_ms=at_ms,
            )  # fmt: skip
            value, to = encode_merge(merge), loser.encode()
            acks.add(out.append(MERGES, to, value, None, 0))
            acks.add(out.append(PROFILE_EVENTS, to, value, None, partition_of(to, partitions)))
        await acked(acks)
        # By value: another worker may have published the same ones, and more may have come behind them.
        removed = await asyncio.gather(*(store.run("LREM", key, 1, packed) for packed in waiting))
        metrics.MERGES.inc(sum(removed))
