"""Merges that the identity script made, on their way to Kafka: tracker.merges.v1 and the losers' partitions.

The script writes them to the site's list in the step that re-points the ids; they leave it when Kafka has both records.
Whoever finds one there publishes it: under one id it may come twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from stream import metrics
from stream.kafka_out import acked
from stream.packing import unpackb
from stream.recovery import MERGES_AT_ONCE, rules_of
from stream.redis_store import Store
from tracker.contract import keys
from tracker.contract.codec import partition_of
from tracker.contract.merges import Merge, encode_merge, merge_id
from tracker.contract.producer import KafkaOut
from tracker.contract.settings import Settings
from tracker.contract.topics import MERGES, PROFILE_EVENTS

AT_ONCE: Final = 500

Made = tuple[str, str, str, str, str, int]
"""A merge: site, winner, loser, rule, messageId, when the event was received."""


async def publish(site: str, store: Store, out: KafkaOut, settings: Settings, made: Sequence[Made] = ()) -> None:
    """Empty the site's list; `made`: merges that it must have had. Raises ProduceError, Unavailable: what is not in
    Kafka stays in the list, or with whoever made it."""
    key = keys.merges_key(site)
    listed: set[tuple[str, str]] = set()
    while waiting := await store.run("LRANGE", key, 0, AT_ONCE - 1):
        merges = [(site, *unpackb(packed)) for packed in waiting]
        listed |= {(winner, loser) for _, winner, loser, *_ in merges}
        await _send(merges, out, settings.partitions)
        # By value: another worker may have published the same ones, and more may have come behind them.
        removed = await asyncio.gather(*(store.run("LREM", key, 1, packed) for packed in waiting))
        metrics.MERGES.inc(sum(removed))
    if missing := [merge for merge in made if merge[1:3] not in listed]:
        # Another worker was faster; or Redis lost them, and the events that made them are decided: they are true.
        await _send(missing, out, settings.partitions)
        rows = [list(merge[1:]) for merge in missing]
        for first in range(0, len(rows), MERGES_AT_ONCE):
            restore = [rows[first : first + MERGES_AT_ONCE], False, False]
            await store.call("identify", keys.identifiers_key(site), [*rules_of(settings), [], restore])


async def _send(merges: Sequence[Made], out: KafkaOut, partitions: int) -> None:
    acks: set[asyncio.Future[None]] = set()
    for site, winner, loser, rule, message_id, at_ms in merges:
        merge = Merge(
            merge_id=merge_id(site, loser, winner), site=site, winner=winner, loser=loser, rule=rule,
            message_id=message_id, at_ms=at_ms,
        )  # fmt: skip
        value, to = encode_merge(merge), loser.encode()
        acks.add(out.append(MERGES, to, value, None, 0))
        acks.add(out.append(PROFILE_EVENTS, to, value, None, partition_of(to, partitions)))
    await acked(acks)
