"""A folder of the spool to Kafka: once from the oldest record to the newest, in the order of each partition.

    chunk read -> sent by a producer of its own -> all acked -> noted as acked -> the next chunk

A partition that fails is left out of the rest of the pass, and is where the next pass begins. At the end of the
process's own folder new records are held back until the last spooled ones are acked (`Handover`); then Kafka gets them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Coroutine
from typing import Any, Final

from tracker import metrics
from tracker.contract.batch import Where
from tracker.contract.codec import partition_of
from tracker.contract.producer import REFUSED, KafkaOut, ProduceError
from tracker.spool.folder import Folder
from tracker.spool.format import Record

log = logging.getLogger(__name__)

CHUNK_BYTES: Final = 256 * 1024
"""What is sent between two acks: after a crash at most so much is repeated."""
PROGRESS_S: Final = 5.0


class Handover:
    """The way back from the spool to Kafka, of the process's own partitions."""

    def __init__(
        self, live: KafkaOut, spooled: set[Where], folder: Folder, flushed: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        """`spooled`: the partitions whose new records go to the spool; it is changed here. `flushed` comes back when
        all that has come to the spool is on disk."""
        self._live, self._spooled, self._folder, self._flushed = live, spooled, folder, flushed
        self._held: set[Where] = set()

    @property
    def possible(self) -> bool:
        return self._live.connected.is_set()

    async def begin(self, stuck: Collection[Where]) -> int:
        """New records of all partitions but these wait in memory from now on; -> where the spool ends for them."""
        self._held = self._spooled.difference(stuck)
        self._spooled -= self._held
        self._live.hold(self._held)
        await self._flushed()
        return self._folder.tail

    def fail(self, places: Collection[Where]) -> None:
        """Kafka did not take their last spooled records: what was held goes behind those."""
        if places := self._held.intersection(places):
            self._held -= places
            self._spooled |= places
            self._live.take_back(places, "Kafka did not take the end of the spool")

    def end(self) -> None:
        self._live.release(self._held)

    def give_up(self) -> None:
        self.fail([*self._held])


class Replay:
    def __init__(
        self,
        folder: Folder,
        out: KafkaOut,
        handover: Handover | None,
        in_thread: Callable[..., asyncio.Future[Any]],
        refused: set[Where],
        pace: Callable[[int, float], float],
    ) -> None:
        """`refused`: partitions with a record ahead that Kafka refuses for what it holds; kept between passes.
        `pace`: (records, s that they took) -> s to wait."""
        self._folder, self._out, self._handover = folder, out, handover
        self._in_thread, self._refused, self._pace = in_thread, refused, pace

    async def run(self) -> bool:
        """False: some partitions did not take theirs. Raises OSError, and ProduceError when Kafka is away again."""
        try:
            return await self._run()
        except BaseException:
            if self._handover is not None:
                self._handover.give_up()
            raise

    async def _run(self) -> bool:
        folder, handover = self._folder, self._handover
        stuck: dict[Where, int] = {}
        """Partitions that did not take a record, and its position."""
        position, end, sent = folder.start, None, 0
        started_s = told_s = time.monotonic()
        while end is None or position < end:
            chunk_s = time.monotonic()
            chunk = await self._in_thread(folder.read, position, CHUNK_BYTES)
            records = [(at, r) for at, r in chunk.records if (r.topic, r.partition) not in stuck]
            failed = await self._send(records)
            if failed and handover is not None:
                handover.fail(failed)
            position = chunk.end
            stuck |= failed
            # Of those that were stuck in an earlier pass, what this one has not come to yet.
            earlier = {where: max(at, position) for where, at in folder.stuck.items() if position < folder.done}
            acked = sum((r.topic, r.partition) not in failed for _, r in records)
            oldest_ms = records[-1][1].timestamp_ms if records and not (earlier or stuck) else 0  # those are older
            await self._in_thread(folder.ack, max(folder.done, position), earlier | stuck, acked, oldest_ms)
            metrics.REPLAYED.inc(acked)
            sent += acked
            if failed and handover is not None and not handover.possible:
                raise ProduceError("Kafka is away again")
            if end is None and chunk.whole:
                # What is left came while the last chunk was sent and is soon gone: so long the new ones wait.
                end = folder.tail if handover is None else await handover.begin(stuck)
            elif end is None:
                await asyncio.sleep(self._pace(len(records), max(time.monotonic() - chunk_s, 1e-3)))
            if time.monotonic() - told_s > PROGRESS_S:
                told_s = time.monotonic()
                log.info("spool: %d events sent, %d wait (%d MB)", sent, folder.records, folder.bytes >> 20)
        if handover is not None:
            handover.end()
        self._refused.intersection_update(stuck)
        if sent or stuck:
            log.warning("spool: %d events sent in %.1f s, %d wait", sent, time.monotonic() - started_s, folder.records)
        if stuck:
            log.warning("spool: Kafka does not take those of %d partitions", len(stuck))
        return not stuck

    async def _send(self, records: list[tuple[int, Record]]) -> dict[Where, int]:
        """-> partitions that failed, and the position from which they have to be sent again."""
        failed: dict[Where, int] = {}
        firsts: dict[Where, int] = {}
        acks: dict[Where, set[asyncio.Future[None]]] = {}
        one_by_one: list[tuple[int, Record]] = []
        for at, record in records:
            where = (record.topic, record.partition)
            if where in self._refused:
                one_by_one.append((at, record))
            elif where not in failed:
                firsts.setdefault(where, at)
                try:
                    acks.setdefault(where, set()).add(self._append(record))
                except ProduceError:
                    failed[where] = firsts[where]
        if acks:
            await asyncio.wait(set[asyncio.Future[None]]().union(*acks.values()))
        for where, of_where in acks.items():
            errors = [error for ack in of_where if (error := ack.exception()) is not None]
            if errors:
                failed[where] = firsts[where]
                if any(isinstance(error.__cause__, REFUSED) for error in errors):
                    self._refused.add(where)  # by one of these; in the next pass, sent alone, it is found
        for at, record in one_by_one:
            where = (record.topic, record.partition)
            if where in failed:
                continue
            try:
                await self._append(record)
            except ProduceError as e:
                failed[where] = at
                if isinstance(e.__cause__, REFUSED):
                    self._refused.discard(where)
                    why = type(e.__cause__).__name__
                    failed[where] = await self._in_thread(self._folder.set_aside, at, record, why)
        return failed

    def _append(self, record: Record) -> asyncio.Future[None]:
        """By its key: the topic may have another number of partitions than was believed while Kafka was away."""
        topic, partition, timestamp_ms, key, value = record
        count = self._out.partitions(topic)
        partition = partition % count if key is None else partition_of(key, count)
        return self._out.append(topic, key, value, timestamp_ms, partition)
