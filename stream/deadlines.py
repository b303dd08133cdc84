"""The clock in the log: once a second, twice while events are on their way, the owner of events partition 0 writes the
time to all of profile-events.

Its time is the least receivedAt at the resolve hop's heads, less 2 s; a partition at the end of its log, freshly asked,
counts as now - 2 s. And it is not after what an endpoint still has in its spool (tracker/waits.py), nor, until hop 1
has read all that was in the log when the last spool was empty, after what was there: old events come behind new ones
then. So every event received before a clock record stands before it in the log, timers that fire by it see them all, an
outage fires no cart whose purchase still waits in a backlog, and a fold of the log reproduces every firing.
Whoever writes it, it is true: a worker that lost partition 0 and does not know yet does no harm. Nor does a machine
whose clock runs ahead: "now" is the worker's time, but where that is more than MOST_AHEAD_MS after Redis's, Redis's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from math import inf
from time import monotonic, time
from typing import Final

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from stream import metrics
from stream.kafka_out import acked
from stream.packing import binary
from stream.redis_store import RedisError, Store, Unavailable
from stream.signals_hop import MARGIN_MS
from tracker.contract import keys
from tracker.contract.durations import HOUR_MS
from tracker.contract.events import encode_clock
from tracker.contract.producer import KafkaOut, ProduceError
from tracker.contract.topics import EVENTS, PROFILE_EVENTS

log = logging.getLogger(__name__)
EVERY_S: Final = 1.0
WHILE_BEHIND_S: Final = 0.5
"""While a partition is not at its end: what is due waits for hop 1 as well then. With nothing on its way, two rounds a
second would be most of what a worker does."""
LEAST_PAUSE_S: Final = 0.25
"""Between two rounds, which take long when the worker is short of CPU."""
MOST_AHEAD_MS: Final = 1_000
"""Less than MARGIN_MS: a clock so far ahead still passes no event of an endpoint whose clock is right."""
UNSEEN_MS: Final = 5_000
"""After so long without a look a spool may have come and gone unseen: the process stood still, Redis did not answer."""
TELL_EVERY_S: Final = 60.0
GONE_MS: Final = HOUR_MS
"""After what a process said has not been believed for so long, it is removed: each process has a name of its own, and
one that is killed leaves it behind."""


class Spooled:
    """What the clock knows of events that came, or come, by way of a spool."""

    def __init__(self, since_ms: int | None = None) -> None:
        """`since_ms` = 0: there may have been some before this was made."""
        self._since_ms = since_ms
        """When the oldest of them was received; None: there are none."""
        self._ends: dict[int, int] | None = None
        """Partition of events -> where it ended when all of them were in Kafka."""
        self._looked_ms: int | None = None

    def least_ms(self, waits: Iterable[bytes], now_ms: int, nexts: Mapping[int, int], ends: Mapping[int, int]) -> int:
        """The clock must not pass this. `waits`: "since:until" of each process; `nexts`, `ends`: of the partitions'
        heads, and their ends as they were asked after `waits`."""
        if self._looked_ms is not None and now_ms - self._looked_ms > UNSEEN_MS:
            self._since_ms, self._ends = 0, None
        self._looked_ms = now_ms
        found = [since for since, until in map(_wait, waits) if until > now_ms]
        if found:
            self._since_ms, self._ends = min([*found, *([self._since_ms] if self._since_ms is not None else [])]), None
        elif self._since_ms is not None:
            self._ends = self._ends or dict(ends)
            if all(nexts.get(p, 0) >= end for p, end in self._ends.items()):
                self._since_ms = self._ends = None
        return now_ms if self._since_ms is None else self._since_ms


def long_gone(waits: Mapping[bytes, bytes], now_ms: int) -> list[tuple[bytes, bytes]]:
    """(name, what it said) of processes that are long gone."""
    return [(name, value) for name, value in waits.items() if _wait(value)[1] < now_ms - GONE_MS]


def _wait(value: bytes) -> tuple[int, int]:
    since, _, until = value.partition(b":")
    return (int(since), int(until)) if since.isdigit() and until.isdigit() else (0, 0)


class OwnClock:
    """This machine's clock, which must not run ahead of Redis's."""

    def __init__(self, now: Callable[[], float] = time) -> None:
        """`now`: seconds since 1970."""
        self._now = now
        self._told_s = -inf

    def ms(self) -> int:
        return int(self._now() * 1000)

    def bounded_ms(self, own_ms: int, redis_ms: int) -> int:
        """What counts as now. `own_ms` is of just before Redis was asked: so a slow answer is not taken for a fast
        clock."""
        ahead_ms = own_ms - redis_ms
        metrics.CLOCK_AHEAD.set(max(0, ahead_ms) / 1000)
        if ahead_ms <= MOST_AHEAD_MS:
            return own_ms
        if monotonic() - self._told_s >= TELL_EVERY_S:
            self._told_s = monotonic()
            log.warning(
                "This machine's clock is %.1f s ahead of Redis's: the clock in the log goes by Redis's", ahead_ms / 1000
            )
        return redis_ms


async def clock_ms(
    store: Store,
    offsets: AIOKafkaConsumer,
    partitions: int,
    spooled: Spooled | None = None,
    own: OwnClock | None = None,
) -> int | None:
    """The time that may be written now; None while a partition has events but no head yet."""
    own = own or OwnClock()
    own_ms = own.ms()
    # In this order: what is in no spool any more is before the ends, and what comes after the ends is later than now.
    waits, redis_ms = await asyncio.gather(store.run("HGETALL", keys.WAITS_KEY), store.time_ms(keys.WAITS_KEY))
    now_ms = own.bounded_ms(own_ms, redis_ms)
    if gone := long_gone(waits, now_ms):
        await store.call("forget", keys.WAITS_KEY, [[binary(name), binary(value)] for name, value in gone])
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
    nexts = {p: int(next or 0) for p, (next, _) in enumerate(heads)}
    last = {tp.partition: end for tp, end in ends.items()}
    return min(least, (spooled or Spooled()).least_ms(waits.values(), now_ms, nexts, last))


async def keep_time(
    is_ours: Callable[[], bool], store: Store, offsets: AIOKafkaConsumer, out: KafkaOut, partitions: int
) -> None:
    """For ever: while events partition 0 is ours, write the clock."""
    written, spooled, own = 0, Spooled(0), OwnClock()
    began, every_s = monotonic(), EVERY_S
    while True:
        await asyncio.sleep(max(LEAST_PAUSE_S, every_s - (monotonic() - began)))
        began, every_s = monotonic(), EVERY_S
        if not is_ours():
            # What its former owner knew is not known here: what is in the log at the beginning is read first.
            spooled = Spooled(0)
            metrics.CLOCK_AHEAD.set(0)
            continue
        try:
            caught_up_ms = own.ms() - MARGIN_MS
            t = await clock_ms(store, offsets, partitions, spooled, own)
            every_s = EVERY_S if t is not None and t >= caught_up_ms else WHILE_BEHIND_S
            if t is not None and t > written:
                value = encode_clock(t)
                await acked({out.append(PROFILE_EVENTS, None, value, None, p) for p in range(partitions)})
                written = t
        except (KafkaError, ProduceError, RedisError, *Unavailable) as e:
            log.warning("The clock was not written: %s: %s", type(e).__name__, e)
