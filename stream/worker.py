"""The worker process: a Faust app with one agent a hop, and what must run beside it.

`run(settings)` is `tracker worker`. Scale by starting more, each with its own TRACKER_WORKER_ID and port.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from math import inf
from time import monotonic, time
from typing import Any, Final, cast

import uvloop
from aiohttp import web
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import InvalidSessionTimeoutError, KafkaError
from faust.transport.drivers import TRANSPORTS
from faust.types import TP
from prometheus_client import CONTENT_TYPE_LATEST, disable_created_metrics, generate_latest

from stream import metrics
from stream.deadlines import keep_time
from stream.fit.nightly import keep_fitted
from stream.fold import Folder
from stream.lanes import Lanes
from stream.lease import Lease
from stream.medians import keep_medians
from stream.poison import Limits
from stream.profile import ProfileCache
from stream.reach import Reach
from stream.recovery import Recovery, tail_of
from stream.redis_store import RedisError, Store, Unavailable
from stream.resolve import Merged, Resolve
from stream.rollups import keep_rolled
from stream.signals import chosen
from stream.signals_hop import ApplyBound, SignalsHop
from stream.transport import SCHEME, App, ChunkConsumerThread, ChunkSchema, Transport
from stream.watchdog import EX_FATAL, OwnTime, Progress, Watchdog
from tracker.contract.durations import DAY_S
from tracker.contract.producer import KafkaOut
from tracker.contract.reload import Watch, keep_reloading
from tracker.contract.settings import Settings
from tracker.contract.topics import EVENTS, PROFILE_EVENTS, TOPICS

log = logging.getLogger(__name__)

PRODUCER_STOP_S: Final = 1.0
"""What the lanes waited for is acked by then, or given up; the rest are clock records."""
STOP_MARGIN_S: Final = 2.0
"""Beyond drain_s: then the watchdog gives a stop up."""
ENDS_EVERY_S: Final = 5.0
"""How often Kafka is asked for the ends of the logs, beside the consumer, whose view stops with it."""
OWN_NAME: Final = "give each worker a TRACKER_WORKER_ID of its own"
LINGER_MS: Final = 5.0
FLUSH_BYTES: Final = 4 << 20
"""Of all partitions together: what one chunk gives should leave as one batch a partition."""
MAX_PENDING_BYTES: Final = 1 << 30
"""Out of reach: every lane has one chunk under way, so what waits is bounded by what was fetched."""


class NotReady(Exception):
    """The worker can't start: one line on what is missing and the command that helps."""


def make_app(settings: Settings) -> App:
    """The Faust app, without agents."""
    TRANSPORTS.aliases[SCHEME] = "stream.transport:Transport"
    brokers = ";".join(f"{SCHEME}://{server.strip()}" for server in settings.kafka.split(","))
    session = settings.session_timeout_s
    app = App(
        settings.group,
        broker=brokers,
        consumer_group_instance_id=settings.worker_id,
        broker_client_id=settings.worker_id,
        broker_session_timeout=session,
        broker_heartbeat_interval=session / 5,
        broker_max_poll_interval=settings.max_poll_interval_s,
        broker_rebalance_timeout=20.0,
        broker_request_timeout=30.0,
        broker_max_poll_records=settings.max_chunk_records,
        broker_commit_interval=2.8,
        broker_check_crcs=True,
        consumer_max_fetch_size=256 * 1024,
        stream_wait_empty=False,
        stream_buffer_maxsize=16,
        stream_recovery_delay=0.0,
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
        store="memory://",
        worker_redirect_stdouts=False,
    )
    transport = cast(Transport, app.transport)
    transport.fetch_max_wait_ms = settings.fetch_max_wait_ms
    transport.gather_ms = settings.gather_ms
    transport.max_backlog_records = settings.max_backlog_records
    transport.max_backlog_bytes = settings.max_backlog_bytes
    transport.first = PROFILE_EVENTS
    return app


class Worker:
    """Everything of one worker process."""

    def __init__(self, settings: Settings, watch: Watch | None = None) -> None:
        """`watch`: where settings come from anew."""
        self.settings = settings
        self.folder = folder = Folder(chosen(settings), settings)  # first: what is wrong with them is said at once
        self._watch = watch
        self.app = make_app(settings)
        self.store = Store(settings.redis)
        self.lease = Lease(self.store, settings.worker_id)
        self.out = KafkaOut(
            settings.kafka,
            linger_ms=LINGER_MS,
            max_pending_bytes=MAX_PENDING_BYTES,
            produce_timeout_s=settings.produce_timeout_s,
            client_id=f"{settings.worker_id}-out",
            observer=metrics.Producing(),
            ordered=True,
            flush_bytes=FLUSH_BYTES,
        )
        self.offsets = AIOKafkaConsumer(
            bootstrap_servers=settings.kafka,
            client_id=f"{settings.worker_id}-offsets",
            request_timeout_ms=10_000,
        )
        bound = ApplyBound(settings)
        self.cache = ProfileCache(settings.profile_cache_bytes, settings.profile_ttl_d * DAY_S)
        limits = {topic: Limits(topic, settings) for topic in (EVENTS, PROFILE_EVENTS)}
        merged, recovery = Merged(), Recovery(self.store, settings, tail_of(settings))

        def resolve(p: int) -> Resolve:
            return Resolve(p, self.store, self.out, settings, limits[EVENTS], merged, recovery)

        def signals(p: int) -> SignalsHop:
            shared = limits[PROFILE_EVENTS], self.cache, bound, merged.hear
            return SignalsHop(p, self.store, self.out, folder, settings, *shared)

        self.lanes = Lanes(
            self.store,
            self.offsets,
            {EVENTS: ("resolve", resolve), PROFILE_EVENTS: ("signals", signals)},
            self.fatal,
            settings.cut_off_s,
        )
        self.reach = Reach(self.store, settings.partitions, settings.worker_id, settings.cut_off_s, self._takes)
        self.lanes.left_out = lambda: self.reach.why
        self.lanes.recovered = lambda: recovery.read
        self.reason: str | None = None
        self.cut = False
        """A part did not come to its end: the process must not wait for it."""
        self.stopping = asyncio.Event()
        self.watchdog = Watchdog(settings.hang_s, settings.stuck_s, self._turned)
        self._stop_by_s = inf
        for topic in (EVENTS, PROFILE_EVENTS):
            self.app.agent(self.app.topic(topic, schema=ChunkSchema(), allow_empty=True), name=topic, concurrency=1)(
                self._agent
            )
        self.lanes.thread = self.thread
        transport: Any = self.app.transport
        transport.done = self.lanes.done
        transport.on_assigned = self.lanes.on_assigned
        transport.on_out_of_range = lambda e: self.app.loop.call_soon_threadsafe(
            self.fatal,
            f"Kafka no longer has the records to go on from ({e}): retention passed, or a topic was recreated "
            "(then empty Redis, too)",
        )
        transport.on_group_error = lambda e: self.app.loop.call_soon_threadsafe(self.fatal, self._group_error(e))

    async def _agent(self, stream: Any) -> None:
        """Gives chunks to their lanes. It never raises: Faust would go on without them."""
        async for event in stream.noack().events():
            for chunk in event.value.chunks:
                self.lanes.put(chunk)
            event.ack()

    def thread(self) -> ChunkConsumerThread | None:
        consumer: Any = self.app.consumer if self.app.started else None
        return consumer._thread if consumer is not None else None

    def _takes(self) -> bool:
        """Whether this worker can take partitions."""
        thread = self.thread()
        return thread is not None and thread.joined and not self.lanes.cut_off and not self.lanes.outage

    def _turned(self) -> float | None:
        """When the consumer's thread last turned. Asked from the watchdog's thread."""
        thread = self.thread()
        return thread.turned if thread is not None else None

    def fatal(self, reason: str) -> None:
        """End the process with a reason: a supervisor starts it again, from what Redis says."""
        if self.reason is None:
            self.reason = reason
            log.critical("%s", reason)
        self.stopping.set()

    def _group_error(self, e: KafkaError) -> str:
        helps = (
            f": session_timeout_s ({self.settings.session_timeout_s:g} s) must be within the broker's "
            "group.min.session.timeout.ms and group.max.session.timeout.ms"
        )
        text = f"Kafka does not let this worker be in its group {self.settings.group} ({e})"
        return text + (helps if isinstance(e, InvalidSessionTimeoutError) else "")

    def _taken(self, who: str) -> None:
        name = self.settings.worker_id
        self.fatal(f"another worker has taken this one's place under worker_id {name} ({who}): {OWN_NAME}")

    def reconfigure(self, settings: Settings) -> None:
        """Other settings of sites and signals, from the next chunk on."""
        self.settings = settings
        metrics.declare(settings.sites)
        self.folder.reconfigure(settings)
        metrics.CONFIG_LOADED.set_to_current_time()

    # -- beside the app

    async def pulse(self) -> None:
        """Show that the main loop turns, to the consumer thread and the watchdog, and how the partitions get on."""
        progress, time_s = Progress[TP](), OwnTime()
        while True:
            if self.app.crashed:  # Its parts stop then, and nothing else would tell.
                self.fatal(f"Faust crashed: {self.app.crash_reason!r}")
            self.watchdog.pulse = monotonic()
            if (thread := self.thread()) is not None:
                thread.pulse = self.watchdog.pulse
            stalled_s, tp = progress.look(time_s.look(), self.lanes.standings(), self.lanes.outage)
            metrics.STALLED.set(stalled_s)
            self.watchdog.stalled = (stalled_s, f"{tp.topic}[{tp.partition}]" if tp is not None else "")
            await asyncio.sleep(1.0)

    async def ask_ends(self) -> None:
        """For ever: where the logs end, so that a consumer that has stopped fetching is seen to have work."""
        while True:
            await asyncio.sleep(ENDS_EVERY_S)
            try:
                self.lanes.ends = await self.offsets.end_offsets(list(self.lanes.lanes))
            except KafkaError:
                self.lanes.note_outage()

    async def measure(self) -> None:
        """Gauges, every two seconds."""
        shown: set[tuple[str, int]] = set()
        while True:
            await asyncio.sleep(2.0)
            thread = self.thread()
            lanes = self.lanes.lanes
            sums = {(field, site): 0 for field in metrics.GAUGES for site in (*self.settings.sites, metrics.OTHER)}
            clocks: list[int] = []
            lags: set[tuple[str, int]] = set()
            for tp, lane in lanes.items():
                end = thread.end(tp) if thread is not None and thread._consumer is not None else None
                if end is not None:
                    lags.add((tp.topic, tp.partition))
                    metrics.LAG.labels(tp.topic, str(tp.partition)).set(max(0, end - lane.hop.next))
                if isinstance(lane.hop, SignalsHop):
                    clocks.append(lane.hop.clock_ms)
                    for field, n in lane.hop.gauges.items():
                        name, _, site = field.partition("|")
                        key = (name, metrics.site_label(site))
                        sums[key] = sums.get(key, 0) + n
            for topic, partition in shown - lags:
                with contextlib.suppress(KeyError):
                    metrics.LAG.remove(topic, str(partition))
            shown = lags
            for (name, site), n in sums.items():
                if name in metrics.GAUGES:
                    metrics.GAUGES[name].labels(metrics.site_label(site)).set(n)
            metrics.CACHE_BYTES.set(self.cache.bytes)
            metrics.CACHE_PROFILES.set(len(self.cache))
            for topic in (EVENTS, PROFILE_EVENTS):
                metrics.OWNED.labels(topic).set(sum(tp.topic == topic for tp in lanes))
            oldest = min(filter(None, clocks), default=0)  # 0: a new partition, before its first clock record.
            metrics.CLOCK_LAG.set(max(0.0, time() - oldest / 1000) if oldest else 0.0)

    async def check_topics(self) -> None:
        """Raises NotReady when a topic is missing or has another number of partitions than the setting says."""
        cluster = await self.offsets._client.fetch_all_metadata()  # topics() alone knows no partitions
        for topic in TOPICS:
            if topic.name not in cluster.topics():
                raise NotReady(f"Kafka has no topic {topic.name}: run `tracker topics create`")
            have = len(cluster.partitions_for_topic(topic.name) or ())
            want = self.settings.partitions if topic.partitioned else have
            if have != want:
                raise NotReady(
                    f"{topic.name} has {have} partitions, the setting says {want}: state lives by partition, "
                    f"so set TRACKER_PARTITIONS={have}"
                )

    async def ready(self) -> str | None:
        """None when ready, else what is missing."""
        if self.stopping.is_set():
            return "stopping"
        try:
            async with asyncio.timeout(2.0):
                await self.store.ping()
        except (RedisError, *Unavailable, TimeoutError):
            return "Redis does not answer"
        if (why := self.store.refusing()) is not None:
            return why
        thread = self.thread()
        if thread is None or not thread.joined or self.app.rebalancing:
            return "no partitions assigned yet"
        if missing := self.lanes._missing():
            return f"{len(missing)} partitions not claimed yet"
        return None

    @contextlib.asynccontextmanager
    async def web(self) -> AsyncIterator[None]:
        """/metrics, /livez, /readyz."""

        async def show_metrics(_: web.Request) -> web.Response:
            return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

        async def livez(_: web.Request) -> web.Response:
            stalled_s, where = self.watchdog.stalled
            alive = stalled_s <= self.settings.stuck_s
            body = {"status": "ok" if alive else "stuck", "stalled_s": round(stalled_s, 1)}
            return web.json_response(body if alive else body | {"partition": where}, status=200 if alive else 503)

        async def readyz(_: web.Request) -> web.Response:
            missing = await self.ready()
            body = {"status": "ok"} if missing is None else {"status": "not ready", "reason": missing}
            return web.json_response(body, status=200 if missing is None else 503)

        app = web.Application()
        app.add_routes([web.get("/metrics", show_metrics), web.get("/livez", livez), web.get("/readyz", readyz)])
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await runner.setup()
        try:
            try:
                await web.TCPSite(runner, self.settings.worker_host, self.settings.worker_port).start()
            except OSError:
                raise NotReady(
                    f"port {self.settings.worker_port} can't be used: set TRACKER_WORKER_PORT to a free one"
                ) from None
            yield
        finally:
            await runner.cleanup()

    async def main(self) -> int:
        """Run until a signal or a fatal error; the exit code."""
        loop = asyncio.get_running_loop()
        for s in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(s, self.stopping.set)
        disable_created_metrics()  # type: ignore[no-untyped-call]
        metrics.declare(self.settings.sites)
        metrics.CONFIG_LOADED.set_to_current_time()
        self.watchdog.start()
        async with contextlib.AsyncExitStack() as stack:
            starting = asyncio.create_task(self._start(stack))
            stopping = asyncio.create_task(self.stopping.wait())
            await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                self._stop_begins()
                starting.cancel()
                await asyncio.wait((starting,))
                return 0
            stopping.cancel()
            await starting
            beside = [
                asyncio.create_task(self.pulse()),
                asyncio.create_task(self.measure()),
                asyncio.create_task(self.ask_ends()),
                asyncio.create_task(self.lanes.keep()),
                asyncio.create_task(self.lease.keep(self._taken)),
                asyncio.create_task(
                    keep_time(
                        lambda: TP(EVENTS, 0) in self.lanes.lanes,
                        self.store,
                        self.offsets,
                        self.out,
                        self.settings.partitions,
                    )
                ),
                asyncio.create_task(
                    keep_medians(lambda: TP(PROFILE_EVENTS, 0) in self.lanes.lanes, self.store, lambda: self.settings)
                ),
                asyncio.create_task(
                    keep_rolled(lambda: TP(PROFILE_EVENTS, 0) in self.lanes.lanes, self.store, lambda: self.settings)
                ),
                asyncio.create_task(
                    keep_fitted(lambda: TP(PROFILE_EVENTS, 0) in self.lanes.lanes, self.store, lambda: self.settings)
                ),
            ]
            if self.store.cluster:
                beside.append(asyncio.create_task(self.reach.keep()))
            if self._watch is not None:
                failed = metrics.CONFIG_FAILURES.inc
                keep = keep_reloading(self._watch, lambda: self.settings, self.reconfigure, failed)
                beside.append(asyncio.create_task(keep))
            for task in beside:
                task.add_done_callback(self._ended)
            app = asyncio.create_task(self.app.start())
            app.add_done_callback(self._ended)
            await self.stopping.wait()
            self._stop_begins()
            for task in beside:
                task.cancel()
            await self.lanes.finish(self.settings.drain_s / 2)
            await self._within("Faust", self.app.stop)
            app.cancel()
        return 0 if self.reason is None else EX_FATAL

    def _stop_begins(self) -> None:
        self._stop_by_s = monotonic() + self.settings.drain_s
        self.watchdog.stop(self.settings.drain_s + STOP_MARGIN_S)

    async def _within(self, what: str, stop: Callable[[], Awaitable[object]]) -> None:
        """Stop a part within what is left of drain_s. What does not come to its end is left as it is: the effects of
        chunks are in Redis or not, whole, and another worker goes on from there."""
        task = asyncio.ensure_future(stop())
        await asyncio.wait((task,), timeout=max(0.1, min(self._stop_by_s - monotonic(), self.settings.drain_s)))
        if not task.done():
            self.cut = True
            log.warning("%s did not stop within drain_s", what)
            task.cancel()
        elif not task.cancelled() and (e := task.exception()) is not None:
            log.warning("%s stopped with %s: %s", what, type(e).__name__, e)

    async def _start(self, stack: contextlib.AsyncExitStack) -> None:
        """Connect everything, check that it fits. Raises NotReady."""
        stack.push_async_callback(self._within, "The Redis client", self.store.stop)
        stack.push_async_callback(self._within, "The Kafka client", self.offsets.stop)
        try:
            await self.store.start()
            policy = await self.store.evicts()
        except (RedisError, *Unavailable) as e:
            raise NotReady(
                f"Redis does not answer at the setting `redis` ({type(e).__name__}): run `tracker doctor`"
            ) from None
        if policy is not None:
            raise NotReady(
                f"Redis may evict state (maxmemory-policy {policy}): CONFIG SET maxmemory-policy noeviction, "
                "and in its redis.conf"
            )
        library = logging.getLogger("aiokafka")
        level = library.level
        library.setLevel(logging.CRITICAL)  # It tells the same in several lines.
        try:
            await self.offsets.start()
            await self.check_topics()
        except KafkaError as e:
            raise NotReady(f"Kafka does not answer at {self.settings.kafka} ({e}): run `tracker doctor`") from None
        finally:
            library.setLevel(level)
        await self.out.start({t.name: None for t in TOPICS})
        stack.push_async_callback(self._within, "The Kafka producer", lambda: self.out.stop(PRODUCER_STOP_S))
        with contextlib.suppress(RedisError, *Unavailable):
            if (who := await self.lease.take()) is not None:
                name = self.settings.worker_id
                raise NotReady(f"a worker runs under worker_id {name} already ({who}): {OWN_NAME}")
        stack.push_async_callback(self._within, "The lease", self.lease.let_go)
        await stack.enter_async_context(self.web())

    def _ended(self, task: asyncio.Task[Any]) -> None:
        if task.cancelled():
            if not self.stopping.is_set():  # What it waited for was: it would be missing, unseen.
                self.fatal("a part of the worker was cancelled")
        elif (e := task.exception()) is not None:
            log.critical("A part of the worker failed", exc_info=e)
            self.fatal(f"{type(e).__name__}: {e}")


def run(settings: Settings, watch: Watch | None = None) -> int:
    """`tracker worker`: the exit code. Logs go to stderr."""

    async def main() -> int:
        worker = Worker(settings, watch)
        code = await worker.main()
        if worker.cut:
            logging.shutdown()
            os._exit(code)  # Else Python would wait for its thread.
        return code

    # Chunks make thousands of short-lived objects and no cycles: Python's default (700) looks at them all the time.
    gc.set_threshold(50_000, 20, 20)
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())  # for the consumer's thread too
    try:
        return asyncio.run(main())
    except NotReady as e:
        print(f"tracker worker: {e}", file=sys.stderr)
        return 1
