"""Events to Kafka, or to disk while it does not take them: whoever waits gets his ack from either, and at once if
neither is to be had.

    Kafka takes      append -> KafkaOut -> ack                    (this file is not even called: see `_go`)
    a batch is late  all that waits goes to the spool, the producer is replaced; acks follow the fsync
    Kafka is away    append -> spool -> fsync -> ack
    Kafka is back    the spool is replayed; a partition's new events queue behind it on disk, until its last
                     spooled record has been acked; for that moment they are held in memory

So a partition keeps its order, and what is acked is in Kafka or on disk. After a crash some may be sent twice, under
the same messageIds. Everything of one process lies in one folder of its own, under a lock; folders that no process
holds (there are fewer processes than before) are replayed by those that run.

Of one event loop; all that blocks is done by one thread, in order.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from tracker import metrics
from tracker.contract.batch import Batch, Where
from tracker.contract.codec import partition_of
from tracker.contract.producer import Full, KafkaOut, ProduceError, fail
from tracker.contract.settings import Settings
from tracker.spool.folder import Folder, InUse
from tracker.spool.format import FRAME_OVERHEAD, encode
from tracker.spool.replay import Handover, Replay

log = logging.getLogger(__name__)
T = TypeVar("T")

MAX_FOLDERS: Final = 1024
"""Processes that may share spool_dir."""
PAUSES_S: Final = (0.5, 1.0, 2.0, 5.0)
"""Before a replay is tried again."""
DISK_PAUSE_S: Final = 1.0
"""After an error of the disk events are refused for so long, then it is tried again."""
SEGMENT_BYTES: Final = 16 << 20
SWEEP_S: Final = 0.25
LATE_S: Final = 1.0
"""What Kafka has not acked by then is waiting. Told in time for the clock, which is 2 s behind."""
EARLY_MS: Final = 500
"""Events are received before they come here."""


Part = Batch | tuple[Where, int, Sequence[tuple[bytes | None, bytes]]]
"""Partition, timestamp_ms, (key, value) of each record; or what Kafka did not ack."""


class SpoolFull(Full):
    """Kafka does not take events, and the disk neither; nothing was taken."""


class State(NamedTuple):
    """For /readyz."""

    status: str
    """'ready', 'spooling' or 'not ready'."""
    reason: str
    spool_bytes: int
    spool_free_bytes: int


class Group:
    """Records that are written and fsynced together; all who wait share one future."""

    def __init__(self, done: asyncio.Future[None], now_s: float) -> None:
        self.done = done
        self.opened_s = now_s
        self.opened_ms = time.time_ns() // 1_000_000
        self.parts: list[Part] = []
        self.bytes = 0
        self.records = 0


class Durable:
    """The interface of KafkaOut, with the spool behind it. `spool_dir` = '': without, as KafkaOut is."""

    append: Callable[..., asyncio.Future[None]]
    """As KafkaOut's. Raises Full, SpoolFull and ProduceError, then nothing was taken."""
    extend: Callable[..., set[asyncio.Future[None]]]
    partition_of: Callable[[str, bytes], int]

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._root = Path(settings.spool_dir) if settings.spool_dir else None
        self._live = KafkaOut(
            settings.kafka,
            linger_ms=settings.linger_ms,
            linger_max_ms=settings.linger_max_ms,
            max_pending_bytes=settings.max_pending_bytes,
            produce_timeout_s=settings.spool_after_s if self._root else settings.produce_timeout_s,
            client_id=f"tracker-endpoint-{settings.process_index}",
            observer=metrics.Producing(),
            rescue=self._rescued if self._root else None,
        )
        self._thread = ThreadPoolExecutor(1, "spool")
        self._folder: Folder | None = None
        self._adopted: Folder | None = None
        """One of a process that is gone, while it is sent."""
        self._spooled: set[Where] = set()
        """Partitions with records in the spool, or about to be: their new ones queue behind."""
        self._group: Group | None = None
        """Collects; the one being written is `_writing`."""
        self._writing: Group | None = None
        self._waiting_bytes = 0
        """Of both."""
        self._written = asyncio.Event()
        self._disk_problem = ""
        self._disk_again_s = 0.0
        self._disk_free = 0
        self._arrived = 0
        """Records that came to the spool since the pace of the replay was last fitted to them."""
        self._refused: set[Where] = set()
        """Partitions with a record among the next ones that Kafka refuses for what it holds."""
        self._topics: Mapping[str, int | None] = {}
        self._started_s = 0.0
        self._stopped = False
        self._lost = asyncio.Event()
        """Something has come to the spool."""
        self._background: list[asyncio.Task[None]] = []
        self._go()

    # -- what HttpIn and the app see

    @property
    def pending_bytes(self) -> int:
        return self._live.pending_bytes + self._waiting_bytes

    def oldest_ms(self) -> int | None:
        """When the oldest event was received, or a little before, that Kafka should have and does not; None: it has all
        but what it was just given."""
        now_ms, early_ms = time.time_ns() // 1_000_000, int(self._settings.spool_after_s * 1000) + EARLY_MS
        found = [folder.oldest_ms - early_ms for folder in (self._folder, self._adopted) if folder and folder.oldest_ms]
        found += [group.opened_ms - early_ms for group in (self._writing, self._group) if group and group.records]
        if (oldest_s := self._live.oldest_s) is not None and (age_s := time.monotonic() - oldest_s) > LATE_S:
            found.append(now_ms - int(age_s * 1000) - EARLY_MS)
        return min(found, default=None)

    def state(self) -> State:
        folder = self._folder
        if folder is None:
            reason = "; ".join(filter(None, (self._live.problem, self._disk_problem)))
            return State("not ready" if self._live.problem else "ready", reason, 0, 0)
        size, free = folder.bytes + self._waiting_bytes, self._free()
        if self._live.misfit:
            return State("not ready", self._live.problem, size, free)
        if not self._live.problem and not self._spooled:
            return State("ready", "", size, free)
        if not self._live.tried and time.monotonic() - self._started_s < self._settings.spool_after_s:
            return State("not ready", self._live.problem, size, free)
        reason = self._live.problem or "Kafka is back and gets what was spooled"
        if self._disk_problem or free < self._settings.max_event_bytes:
            return State("not ready", f"{reason}; {self._disk_problem or 'the spool is full'}", size, free)
        return State("spooling", reason, size, free)

    async def start(self, topics: Mapping[str, int | None]) -> None:
        """Take a folder, and begin to connect to Kafka. `topics`: as KafkaOut's."""
        self._topics = topics
        self._started_s = time.monotonic()
        if self._root is not None:
            try:
                self._folder = await self._in_thread(self._take_folder)
            except OSError as e:
                log.error("spool_dir %s can't be used, so nothing is spooled until the next start: %s", self._root, e)
                self._disk_problem = f"spool_dir can't be used: {e}"
            else:
                self._spooled = set(self._folder.places)
                self._measure()
                if self._folder.records:
                    log.warning("%d events of an earlier run wait in %s", self._folder.records, self._folder.path)
            self._queue()
            self._background = [asyncio.create_task(self._replays()), asyncio.create_task(self._sweep())]
        await self._live.start(topics)

    async def stop(self, timeout_s: float) -> None:
        """Take nothing more; what Kafka has not acked `timeout_s` later is on disk. The rest fails."""
        deadline_s = time.monotonic() + timeout_s
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self._live.stop(timeout_s * 0.7)  # the rest of the time is for the disk
        while self._waiting_bytes and (left_s := deadline_s - time.monotonic()) > 0:
            self._write()
            self._written.clear()
            try:
                async with asyncio.timeout(left_s):
                    await self._written.wait()
            except TimeoutError:
                break
        self._stopped = True
        for group in (self._writing, self._group):
            if group is not None:
                self._settle(group, ProduceError("stopped before Kafka or the disk took it"))
        if self._folder is not None and self._writing is None:
            await self._in_thread(self._folder.close)
        self._thread.shutdown(wait=False)

    def give_up(self, why: str) -> None:
        """No request waits for Kafka any longer: what it has not acked goes to the spool, or fails."""
        self._live.give_up(why)

    # -- the way in

    def _go(self) -> None:
        """Kafka takes everything: callers get its methods, which costs them nothing."""
        self.append, self.extend, self.partition_of = self._live.append, self._live.extend, self._live.partition_of

    def _queue(self) -> None:
        """Each record is asked where it goes."""
        self.append, self.extend, self.partition_of = self._append, self._extend, self._partition_of
        self._lost.set()

    def _partition_of(self, topic: str, key: bytes) -> int:
        """Before the first connection the setting says how many there are."""
        try:
            return partition_of(key, self._live.partitions(topic))
        except KeyError:
            return partition_of(key, self._topics[topic] or 1)

    def _append(
        self, topic: str, key: bytes | None, value: bytes, timestamp_ms: int, partition: int | None = None
    ) -> asyncio.Future[None]:
        where = (topic, self._partition_of(topic, key or b"") if partition is None else partition)
        if where not in self._spooled and self._live.connected.is_set():
            return self._live.append(topic, key, value, timestamp_ms, where[1])
        return self._spool(where, timestamp_ms, ((key, value),))

    def _extend(
        self, topic: str, partition: int, records: Sequence[tuple[bytes | None, bytes]], timestamp_ms: int
    ) -> set[asyncio.Future[None]]:
        where = (topic, partition)
        if where not in self._spooled and self._live.connected.is_set():
            return self._live.extend(topic, partition, records, timestamp_ms)
        return {self._spool(where, timestamp_ms, records)}

    def _spool(
        self, where: Where, timestamp_ms: int, records: Sequence[tuple[bytes | None, bytes]]
    ) -> asyncio.Future[None]:
        folder = self._folder
        if folder is None or self._live.misfit or self._stopped:
            raise ProduceError(self._live.problem or "stopping")
        if self._disk_problem and time.monotonic() < self._disk_again_s:
            raise SpoolFull(self._disk_problem)
        size = (FRAME_OVERHEAD + len(where[0])) * len(records)
        for key, value in records:
            size += len(key or b"") + len(value)
        if self._waiting_bytes + size > self._settings.max_pending_bytes:
            raise Full(f"{self._waiting_bytes} bytes are waiting for the disk")
        if folder.bytes + self._waiting_bytes + size > self._settings.spool_max_bytes:
            raise SpoolFull(f"the spool is full: {folder.bytes} bytes")
        self._arrived += len(records)
        return self._collect([(where, timestamp_ms, records)], len(records), size, [where]).done

    def _collect(self, parts: Iterable[Part], records: int, size: int, places: Iterable[Where]) -> Group:
        """Put it into the group that is written next; what comes of its partitions from now on queues behind."""
        group = self._collecting()
        group.parts += parts
        group.records += records
        group.bytes += size
        self._waiting_bytes += size
        self._spooled.update(places)
        return group

    def _collecting(self) -> Group:
        group = self._group
        if group is None:
            loop = asyncio.get_running_loop()
            group = self._group = Group(loop.create_future(), time.monotonic())
            loop.call_later(self._settings.linger_ms / 1000, self._write)
        return group

    def _rescued(self, batches: list[Batch], why: str) -> None:
        """What Kafka did not ack in time; all of it is older than what still comes of its partitions."""
        folder = self._folder
        self._queue()
        if not batches:
            return
        records, size = sum(batch.events for batch in batches), sum(batch.bytes for batch in batches)
        problem = ""
        if folder is None:
            problem = "there is no spool"
        elif self._disk_problem and time.monotonic() < self._disk_again_s:
            problem = self._disk_problem
        elif folder.bytes + self._waiting_bytes + size > self._settings.spool_max_bytes:
            problem = "the spool is full"
        if problem:
            log.error("%s, and %s: %d events are refused", why, problem, records)
            for batch in batches:
                fail(batch.done, SpoolFull(f"{why}, and {problem}"))
            return
        log.warning("%s: %d events go to the spool", why, records)
        self._collect(batches, records, size, [batch.where for batch in batches])

    # -- to the disk

    def _write(self) -> None:
        """Write what has been collected, unless a write is under way: that goes on with it."""
        group = self._group
        if group is not None and self._writing is None:
            self._group, self._writing = None, group
            self._in_thread(self._write_group, group).add_done_callback(partial(self._wrote, group))

    def _write_group(self, group: Group) -> None:
        assert self._folder is not None
        started_s = time.monotonic()
        try:
            self._folder.append(_frames(group), group.records, group.opened_ms)
        finally:
            self._measure()
        metrics.SPOOL_WRITE_SECONDS.observe(time.monotonic() - started_s)

    def _wrote(self, group: Group, written: asyncio.Future[None]) -> None:
        self._writing = None
        self._waiting_bytes -= group.bytes
        error = None if written.cancelled() else written.exception()
        if error is None:
            self._disk_problem = ""
            metrics.SPOOLED.inc(group.records)
        else:
            problem = f"the spool can't be written: {getattr(error, 'strerror', None) or error!r}"
            if problem != self._disk_problem:
                log.error("%s: %s", self._root, problem)
            self._disk_problem, self._disk_again_s = problem, time.monotonic() + DISK_PAUSE_S
        self._settle(group, SpoolFull(self._disk_problem) if error else None)
        self._written.set()
        self._write()

    @staticmethod
    def _settle(group: Group, error: ProduceError | None) -> None:
        for done in (group.done, *(part.done for part in group.parts if isinstance(part, Batch))):
            if error is not None:
                fail(done, error)
            elif not done.done():
                done.set_result(None)

    async def _flushed(self) -> None:
        """Until all that has been collected so far is on disk, or was refused."""
        waiting = [group.done for group in (self._writing, self._group) if group is not None]
        if waiting:
            await asyncio.wait(waiting)

    # -- back to Kafka

    async def _replays(self) -> None:
        """Whenever Kafka is there, send what is spooled; then let Kafka take all again, and look for orphans."""
        failures, adopt_s = 0, time.monotonic() + self._settings.spool_adopt_s
        while True:
            await self._live.connected.wait()
            self._lost.clear()
            whole = True
            try:
                if self._folder is not None and self._spooled:
                    whole = await self._replay(self._folder, own=True)
                elif time.monotonic() > adopt_s:
                    whole = await self._adopt()
                    adopt_s = time.monotonic() + self._settings.spool_adopt_s
            except (OSError, ProduceError) as e:
                log.error("the spool is not replayed: %s", e)
                whole = False
            except Exception:  # this is the only way out of the spool: nothing may end it
                log.exception("the spool is not replayed")
                whole = False
            if not self._spooled and self._live.connected.is_set():
                self._go()
            if not whole:
                await asyncio.sleep(PAUSES_S[min(failures, len(PAUSES_S) - 1)])
                failures += 1
            elif not self._spooled:
                failures = 0
                with suppress(TimeoutError):
                    async with asyncio.timeout(max(0.1, adopt_s - time.monotonic())):
                        await self._lost.wait()

    async def _adopt(self) -> bool:
        """Replay the folders that no process holds."""
        assert self._root is not None
        whole = True
        for path in sorted(self._root.glob("*")):  # no error if it is gone
            if self._folder is None or path == self._folder.path or not any(path.glob("*.spool")):
                continue
            try:
                folder = await self._in_thread(self._new_folder(path).open)
            except (InUse, OSError):
                continue
            try:
                log.warning("%s belongs to no process: its %d events are sent", path, folder.records)
                self._adopted = folder
                whole &= await self._replay(folder, own=False)
            finally:
                self._adopted = None
                await self._in_thread(folder.close)
        return whole

    async def _replay(self, folder: Folder, own: bool) -> bool:
        """Once from the oldest record to the newest, by a producer of its own. False: some partitions do not take
        theirs."""
        places = self._spooled if own else folder.places
        if not places:
            return True
        out = KafkaOut(
            self._settings.kafka,
            linger_ms=0,
            max_pending_bytes=self._settings.max_pending_bytes,
            produce_timeout_s=self._settings.produce_timeout_s,
            client_id=f"tracker-spool-{self._settings.process_index}",
            observer=metrics.Replaying(),
            ordered=True,
        )
        await out.start(dict.fromkeys([*self._topics, *(topic for topic, _ in places)]))  # more may come meanwhile
        try:
            async with asyncio.timeout(self._settings.produce_timeout_s):
                await out.connected.wait()
            handover = Handover(self._live, self._spooled, folder, self._flushed) if own else None
            return await Replay(folder, out, handover, self._in_thread, self._refused, self._pace).run()
        except TimeoutError:
            log.warning("the spool waits: %s", out.problem)
            return False
        finally:
            await out.stop(0.5)

    def _pace(self, records: int, took_s: float) -> float:
        """s to wait: to leave room for what comes in, but to be faster than it, or the spool would never end."""
        arrived, self._arrived = self._arrived, 0
        rate = max(self._settings.spool_replay_per_s, 2 * arrived / took_s)
        return max(0.0, records / rate - took_s)

    # -- small ones

    async def _sweep(self) -> None:
        """Nobody waits for a disk that hangs; gauges."""
        measured_s = 0.0
        while True:
            await asyncio.sleep(SWEEP_S)
            now_s = time.monotonic()
            for group in (self._writing, self._group):
                if group is not None and now_s - group.opened_s > self._settings.produce_timeout_s:
                    self._disk_problem, self._disk_again_s = "the disk does not answer", now_s + DISK_PAUSE_S
                    self._settle(group, SpoolFull(self._disk_problem))
            if self._disk_problem and now_s >= self._disk_again_s and self._folder is not None:
                self._collecting()  # nobody may send while /readyz says no: nothing is written, as a trial
            if now_s - measured_s > 1 and self._writing is None:
                measured_s = now_s
                self._thread.submit(self._measure)
            if self._folder is not None:
                metrics.SPOOL_BYTES.set(self._folder.bytes)
                metrics.SPOOL_FREE.set(self._free())
                metrics.SPOOL_RECORDS.set(self._folder.records)
                oldest_ms = self._folder.oldest_ms
                metrics.SPOOL_OLDEST.set(max(0.0, time.time() - oldest_ms / 1000) if oldest_ms else 0)

    def _free(self) -> int:
        """Bytes that still go into the spool, by the setting and by the disk."""
        used = self._folder.bytes + self._waiting_bytes if self._folder is not None else 0
        return max(0, min(self._settings.spool_max_bytes - used, self._disk_free))

    def _measure(self) -> None:
        assert self._root is not None
        with suppress(OSError):
            self._disk_free = shutil.disk_usage(self._root).free

    def _take_folder(self) -> Folder:
        assert self._root is not None
        for number in range(self._settings.process_index, MAX_FOLDERS):
            try:
                return self._new_folder(self._root / str(number)).open()
            except InUse:
                continue
        raise OSError(f"{MAX_FOLDERS} processes use it")

    def _new_folder(self, path: Path) -> Folder:
        limit_bytes = self._settings.spool_max_bytes
        return Folder(
            path,
            segment_bytes=min(SEGMENT_BYTES, limit_bytes // 8),
            corrupt_bytes=limit_bytes // 8,
            repaired=lambda kind: metrics.SPOOL_REPAIRED[kind].inc(),
        )

    def _in_thread(self, do: Callable[..., T], *args: Any) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._thread, do, *args)


def _frames(group: Group) -> Iterator[bytes]:
    for part in group.parts:
        if isinstance(part, Batch):
            topic, partition = part.where
            for timestamp_ms, key, value in part.records():
                yield encode(topic.encode(), partition, timestamp_ms, key, value)
        else:
            (topic, partition), timestamp_ms, records = part
            for key, value in records:
                yield encode(topic.encode(), partition, timestamp_ms, key, value)
