"""The chunk driver: one lane a partition that this worker owns; chunks go through it one after the other. Those that
wait behind one go on as one: a chunk costs, whatever is in it, so that a worker short of CPU saves by itself.

Redis is the truth about where to go on, the lane's memory a copy of it. Whatever goes wrong with a chunk (the head is
another's, Redis or Kafka did not answer, so that an outcome is unknown) has one remedy: the lane is dropped with all
its memory, and the partition claimed again, from what Redis says. So a redelivered chunk, a worker that was frozen and
a Redis that lost its last second all end in the same state.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from math import inf
from time import monotonic, perf_counter
from typing import Final, Protocol

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from faust.types import TP

from stream import metrics
from stream.poison import TooMuchPoison
from stream.redis_nodes import Moving
from stream.redis_store import Lost, RedisError, Store, Unavailable
from stream.stored import StateError
from stream.transport import Chunk, ChunkConsumerThread, joined
from stream.watchdog import OUTAGE_S, Standing
from tracker.contract.producer import REFUSED, ProduceError

log = logging.getLogger(__name__)

QUEUE: Final = 2
"""Chunks that wait in a lane before its partition is no longer fetched; Faust's buffer may hold a few more."""
CLAIM_TIMEOUT_S: Final = 8.0
CLAIM_AT_ONCE: Final = 4
"""Partitions claimed together: their dedupe windows are loaded, so those before are at work meanwhile."""
CHECK_EVERY_S: Final = 2.0
_NOT_CLAIMED: Final = (Lost, KafkaError, RedisError, *Unavailable)
"""Lost: between two steps of a claim, for it may read the log meanwhile, another worker has taken the partition."""


class Hop(Protocol):
    """What a lane drives: stream/resolve.py, stream/signals_hop.py."""

    head_key: str
    next: int

    async def claim(self, first: int | None) -> int | None: ...

    async def process(self, chunk: Chunk) -> int: ...


class Lane:
    """A partition while it is ours."""

    def __init__(self, tp: TP, hop: Hop, generation: int, name: str) -> None:
        self.tp = tp
        self.hop = hop
        self.generation = generation
        self.name = name
        self.waiting: deque[Chunk] = deque()
        self.came = asyncio.Event()
        self.busy = False
        self.steps = 0
        self.task: asyncio.Task[None] | None = None


class Lanes:
    """All lanes of a worker."""

    def __init__(
        self,
        store: Store,
        offsets: AIOKafkaConsumer,
        hops: dict[str, tuple[str, Callable[[int], Hop]]],
        fatal: Callable[[str], None],
        cut_off_s: float = inf,
    ) -> None:
        """`hops`: topic -> (label, hop of a partition). `fatal` ends the worker with a reason. `cut_off_s`: how long
        Redis may be silent before the worker leaves its group."""
        self.cut_off = False
        """Out of the group, until Redis answers."""
        self._cut_off_s = cut_off_s
        self.left_out: Callable[[], str] = lambda: ""
        """Why others should have the partitions, if so: stream/reach.py. Set by stream/worker.py."""
        self.lanes: dict[TP, Lane] = {}
        self.thread: Callable[[], ChunkConsumerThread | None] = lambda: None  # set by stream/worker.py
        self.recovered: Callable[[], int] = lambda: 0
        """Records that claims have read of the log so far. Set by stream/worker.py."""
        self.done: dict[TP, int] = {}
        """Where lanes are that went on since the last commit; Faust's consumer takes them out."""
        self._store = store
        self._offsets = offsets
        self._hops = hops
        self._fatal = fatal
        self._wake = asyncio.Event()
        self._idle_at: dict[TP, tuple[int, int, int]] = {}
        """Partition -> (generation, steps, position of the consumer) of an idle lane at the last check."""
        self._complained = 0.0
        self.ends: dict[TP, int] = {}
        """Ends of the logs, asked beside the consumer; set by stream/worker.py."""
        self._outage_s = -inf
        self._failing: set[TP] = set()
        """Partitions that could not be claimed: the others go first."""
        self._waiting = 0
        """Records in the lanes' queues."""
        self._waiting_bytes = 0

    # -- chunks

    def put(self, chunk: Chunk) -> None:
        """Give a chunk to its lane. Chunks of a generation that is over are dropped: they will be fetched again."""
        lane = self.lanes.get(chunk.tp)
        if lane is not None and lane.generation == chunk.generation:
            lane.waiting.append(chunk)
            lane.came.set()
            self._count(chunk, 1)
            if (thread := self.thread()) is not None and len(lane.waiting) >= QUEUE:
                thread.full.add(lane.tp)

    def _count(self, chunk: Chunk, sign: int) -> None:
        """A chunk waits from now on (1), or no longer (-1). The consumer fetches nothing while too much waits."""
        self._waiting += sign * len(chunk.records)
        self._waiting_bytes += sign * chunk.size
        if (thread := self.thread()) is not None:
            thread.backlog, thread.backlog_bytes = self._waiting, self._waiting_bytes

    async def _next(self, lane: Lane) -> Chunk:
        """What waits, up to where one does not follow the one before it."""
        while not lane.waiting:
            lane.came.clear()
            await lane.came.wait()
        chunks = [lane.waiting.popleft()]
        while lane.waiting and lane.waiting[0].base == chunks[-1].next:
            chunks.append(lane.waiting.popleft())
        for chunk in chunks:
            self._count(chunk, -1)
        if (thread := self.thread()) is not None and len(lane.waiting) < QUEUE:
            thread.full.discard(lane.tp)
        return joined(chunks)

    async def _run(self, lane: Lane) -> None:
        label = lane.name
        while True:
            chunk = await self._next(lane)
            started = perf_counter()
            lane.busy = True
            try:
                if chunk.base != lane.hop.next:
                    raise Lost(f"the chunk begins at {chunk.base}, the head is at {lane.hop.next}")
                events = await lane.hop.process(chunk)
            except (Lost, ProduceError, RedisError, *Unavailable) as e:
                self._note(e)
                if self.lanes.get(lane.tp) is lane:  # Else it was dropped meanwhile, and a newer one is none of its.
                    self._complain(f"{lane.tp.topic}[{lane.tp.partition}]: {type(e).__name__}: {e}; claiming it again")
                    self.drop([lane.tp])
                return
            except asyncio.CancelledError:
                if self.lanes.get(lane.tp) is lane:  # Not by `drop`: what it waited for was cancelled.
                    self.drop([lane.tp])
                raise
            except (TooMuchPoison, StateError) as e:
                self._fatal(str(e))
                return
            except Exception as e:
                log.critical("%s[%d]: offset %d", lane.tp.topic, lane.tp.partition, chunk.base, exc_info=True)
                self._fatal(f"a chunk of {lane.tp.topic}[{lane.tp.partition}] failed: {type(e).__name__}: {e}")
                return
            finally:
                lane.busy = False
                lane.steps += 1
            self.done[lane.tp] = chunk.next
            metrics.EVENTS_TOTAL.labels(label).inc(events)
            metrics.CHUNKS_TOTAL.labels(label).inc()
            metrics.CHUNK_EVENTS.labels(label).observe(len(chunk.records))
            metrics.CHUNK_SECONDS.labels(label).observe(perf_counter() - started)
            if lane.generation < 0:  # Dropped while it was busy: nothing comes any more.
                return

    # -- ownership

    async def on_assigned(self) -> None:
        """After a rebalance: `keep` claims everything anew, beside the rebalance, which must not wait for it."""
        self.done.clear()
        self.drop(list(self.lanes))
        self._wake.set()

    def drop(self, tps: Iterable[TP]) -> None:
        """Forget partitions: their chunks under way go out of date, what is in Redis stays."""
        for tp in tps:
            lane = self.lanes.pop(tp, None)
            if lane is not None:
                lane.generation = -1
                if (thread := self.thread()) is not None:
                    thread.disclaim(tp)
                while lane.waiting:
                    self._count(lane.waiting.popleft(), -1)
                if lane.task is not None and lane.task is not asyncio.current_task() and not lane.busy:
                    lane.task.cancel()

    async def finish(self, timeout_s: float) -> None:
        """Take no more chunks; let those under way come to their effect, at most `timeout_s`."""
        lanes = list(self.lanes.values())
        self.drop(list(self.lanes))
        end = monotonic() + timeout_s
        while any(lane.busy for lane in lanes) and monotonic() < end:  # noqa: ASYNC110  # once, at the end
            await asyncio.sleep(0.02)
        for lane in lanes:
            if lane.task is not None:
                lane.task.cancel()

    async def keep(self) -> None:
        """For ever: claim what is assigned but not ours yet; find out when Redis went back in time, or is gone."""
        checked = monotonic()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.25 if self._missing() and not self.cut_off else 1.0):
                    await self._wake.wait()
            self._wake.clear()
            if await self._is_cut_off():
                continue
            await self._try_claim()
            if monotonic() - checked >= CHECK_EVERY_S:
                checked = monotonic()
                try:
                    await self._check_heads()
                except (RedisError, *Unavailable) as e:
                    self._note(e)
                    self._complain(f"Redis: {type(e).__name__}: {e}")

    async def _is_cut_off(self) -> bool:
        """Whether Redis has been silent for so long that the worker is out of its group: where others have a Redis,
        they go on with its partitions. Where nobody has, all wait outside, and join when it answers. Or whether a part
        of it has, and others do reach that."""
        if (thread := self.thread()) is None:
            return False
        why = self.left_out()
        if self.cut_off:
            with contextlib.suppress(RedisError, *Unavailable):
                await self._store.ping()
            if self._store.silent_s() == 0 and not why:
                log.warning("Redis answers again: joining the group")
                self.cut_off = thread.away = False
            return self.cut_off
        if self._store.silent_s() > self._cut_off_s:
            why = f"Redis has not answered for {self._cut_off_s:.0f} s (setting cut_off_s)"
        if why:
            log.error("%s: leaving the group until it does", why)
            self.cut_off = thread.away = True
            self.drop(list(self.lanes))
        return self.cut_off

    def _missing(self) -> list[TP]:
        thread = self.thread()
        if thread is None or thread._consumer is None:
            return []
        return [tp for tp in thread.assignment() if tp not in self.lanes and tp.topic in self._hops]

    async def _try_claim(self) -> None:
        if (thread := self.thread()) is None or not thread.settled:
            return  # What is in another's hands now must not be taken from it.
        tried: set[TP] = set()
        away: set[Hashable] = set()
        try:
            while missing := [tp for tp in self._missing() if tp not in tried]:
                some = sorted(missing, key=self._failing.__contains__)[:CLAIM_AT_ONCE]
                tried.update(some)
                self._failing.update(some)
                async with asyncio.timeout(CLAIM_TIMEOUT_S):
                    await self._claim(some, away)
                self._failing -= self.lanes.keys()
        except _NOT_CLAIMED as e:
            self._not_claimed(e)

    def _not_claimed(self, e: Exception) -> None:
        self._note(e)
        self._complain(f"Claiming partitions: {type(e).__name__}: {e}; trying again")

    async def _claim(self, missing: list[TP], away: set[Hashable]) -> None:
        """Make lanes of partitions. Only `keep` calls it, one call after the other. One that can't be claimed, for its
        node of a cluster is away, holds up no other. `away`: nodes that are not asked (again), for they did not answer;
        more are added. Raises when none can be."""
        thread = self.thread()
        if thread is None:
            return
        # Redis may have been restarted: that is why lanes are claimed again.
        away |= await self._store.renew_log(away)
        hops = {tp: self._hops[tp.topic][1](tp.partition) for tp in missing}
        if away:
            hops = {tp: hop for tp, hop in hops.items() if self._store.place(hop.head_key) not in away}
        told = await asyncio.gather(*(h.claim(None) for h in hops.values()), return_exceptions=True)
        nexts: dict[TP, int | None] = {}
        failed: Exception | None = None
        for tp, next in zip(hops, told, strict=True):
            if isinstance(next, _NOT_CLAIMED):
                failed = next
            elif isinstance(next, BaseException):
                raise next
            else:
                nexts[tp] = next
        if failed is not None:
            if not nexts:
                raise failed
            self._not_claimed(failed)
        new = [tp for tp, next in nexts.items() if next is None]
        if new:  # A new install: from the beginning of the log.
            first = await self._offsets.beginning_offsets(new)
            for tp in new:
                nexts[tp] = await hops[tp].claim(first[tp])
        generations = await thread.claim({tp: next for tp, next in nexts.items() if next is not None})
        for tp, generation in generations.items():
            lane = self.lanes[tp] = Lane(tp, hops[tp], generation, self._hops[tp.topic][0])
            lane.task = asyncio.create_task(self._run(lane))
        if generations:
            log.info("Claimed %d partitions", len(generations))

    async def _check_heads(self) -> None:
        """A partition without traffic would not notice that its head went back, or that its last chunk never came."""
        self._drop_starved()
        idle = [(lane, lane.steps, lane.hop.next) for lane in self.lanes.values() if not lane.busy]
        if not idle:
            return
        heads = await asyncio.gather(
            *(self._store.run("HGET", lane.hop.head_key, "next") for lane, _, _ in idle), return_exceptions=True
        )
        failed: BaseException | None = None
        for (lane, steps, next), head in zip(idle, heads, strict=True):
            if isinstance(head, BaseException):  # A node of a cluster that is away hides nothing of the others'.
                failed = head
            elif int(head or -1) != next and lane.steps == steps and not lane.busy and self.lanes.get(lane.tp) is lane:
                self._complain(
                    f"{lane.tp.topic}[{lane.tp.partition}]: Redis is at {head!r}, not {next}; claiming it again"
                )
                self.drop([lane.tp])
        if failed is not None:
            raise failed

    def _drop_starved(self) -> None:
        """Between the consumer's thread and its lane a chunk can vanish (Faust clears its queues around a rebalance).
        The next one would show it; where none comes, a lane that was idle at two checks behind its position does."""
        before, self._idle_at = self._idle_at, {}
        if (thread := self.thread()) is None:
            return
        for lane in list(self.lanes.values()):
            position = thread.positions.get(lane.tp, lane.hop.next)
            if lane.busy or lane.waiting or position <= lane.hop.next:
                continue
            self._idle_at[lane.tp] = now = (lane.generation, lane.steps, position)
            if before.get(lane.tp) == now:
                self._complain(f"{lane.tp.topic}[{lane.tp.partition}]: a chunk got lost on its way; claiming it again")
                self.drop([lane.tp])

    # -- what others ask

    def standings(self) -> dict[TP, Standing]:
        """Where each assigned partition stands, for the watchdog."""
        if self.cut_off:
            return {}
        thread = self.thread()
        # The log that a claim waits for may be long: while it is read on, nothing stands still.
        found = {tp: Standing(-1 - self.recovered(), True) for tp in self._missing()}
        for tp, lane in list(self.lanes.items()):
            end = max(self.ends.get(tp, 0), (thread.end(tp) if thread is not None and thread._consumer else None) or 0)
            work = lane.busy or bool(lane.waiting) or end > lane.hop.next
            found[tp] = Standing(lane.hop.next, work)
        return found

    @property
    def outage(self) -> bool:
        """Whether Redis or Kafka did not answer just now: then nothing can go on, and it is nobody's fault here."""
        return monotonic() - max(self._outage_s, self._store.failed_s) < OUTAGE_S

    def note_outage(self) -> None:
        self._outage_s = monotonic()

    def _note(self, e: Exception) -> None:
        if isinstance(e, (ProduceError, KafkaError, *Moving)) and not isinstance(e.__cause__, REFUSED):
            self.note_outage()

    def _complain(self, text: str) -> None:
        """One warning a second at most: an outage makes every lane say the same."""
        now = monotonic()
        if now - self._complained >= 1.0:
            self._complained = now
            log.warning("%s", text)
        else:
            log.debug("%s", text)
