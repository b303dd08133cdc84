"""What Redis lost of hop 1 with its last second comes back from the log.

Hop 1 stores its decisions and publishes them; a Redis that is killed, or a replica that takes over, may not have the
last of them, while Kafka does. Decided anew they could turn out otherwise: who is who depends on the order in which
partitions are read. So whoever finds that a server was restarted reads the end of profile-events first:

    claim.lua      says whether hop 1 has settled with this run of the server (its run id is in the head)
    identify.lua   refuses, decide.lua too, when the server was restarted since: no decision rests on what was lost
    this file      reads the log from the last thing that the server still knows: events' decisions, links, merges
    identify.lua   makes the merges again and links what nobody has (`restore`); then the site is whole
    resolve.py     publishes what is in the log with the same decision, and decides only on what is not

What the log does not have, nobody has seen: it is decided as if it came now. Where a later event of its partition of
events is in its profile's partition already, hop 2 would take it for a repeat: it goes by a source of its own (LEFT).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from time import monotonic
from typing import Any, Final

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from msgspec import Struct

from stream import metrics
from stream.core.identity import identifiers, routes
from stream.core.parts import UNREADABLE
from stream.redis_store import Store
from tracker.contract import keys
from tracker.contract.codec import new_profile_id, uuid_bytes, uuid_text
from tracker.contract.durations import DAY_MS
from tracker.contract.events import EVENT_PREFIX, LEFT, REPLAYS, EventHead, Place
from tracker.contract.ids import PRIORITY, Identifier, limits
from tracker.contract.merges import MERGE_PREFIX, UNMERGE_PREFIX, Unmerge, decode_merge, decode_unmerge
from tracker.contract.settings import Settings
from tracker.contract.topics import MERGES, PROFILE_EVENTS

log = logging.getLogger(__name__)

SKEW_MS: Final = 10_000
"""How far the clocks of workers may differ, and how far Redis's may jump ahead between two claims: so much more of the
log is read. By how much it was ahead at claims is known (ahead_ms)."""
SETTLE_S: Final = 1.0
"""What was decided before the crash, and is on its way to Kafka, is there after this."""
AT_ONCE: Final = 200
"""Events that one call of identify.lua restores: 2 ms or so."""
MERGES_AT_ONCE: Final = 20
"""Each may move 50 ids."""
MAX_ROUTED: Final = 4
"""Other profiles whose events an order_id, checkout_id or cart_id leads to the one that carried it first: a browser, a
server, a provider report an order. What more of them carry is a constant, or a mistake."""
MAX_TOLD: Final = 100_000

Records = Sequence[tuple[str, int, bytes]]
"""(topic, partition, value)."""
Tail = Callable[[int], AsyncIterator[Records]]
"""Reads merges.v1, then profile-events, from a time on (ms), to where they end now."""


class Decided(EventHead):
    """An event of profile-events."""

    profile_id: str = ""
    src: tuple[Place, Place, Place] = (REPLAYS, 0, 0)


_decided: Final = msgspec.json.Decoder(Decided)


class Logged:
    """What the log says of events from `next` of their partition on, whose decisions Redis does not have."""

    def __init__(self, next: int) -> None:
        self.next = next
        self.decided: dict[int, tuple[bytes, bool]] = {}
        """Offset -> (profile id, whether it was published by LEFT)."""
        self.ends: dict[int, int] = {}
        """Partition of profile-events -> the latest offset that is there."""
        self.last = -1

    def is_left(self, offset: int, to: int) -> bool:
        """Whether an event for partition `to` of profile-events has to go by LEFT."""
        known = self.decided.get(offset)
        return known[1] if known is not None else self.ends.get(to, -1) > offset

    def add(self, event: Decided, left: bool, to: int) -> None:
        offset = event.src[1]
        self.decided.setdefault(offset, (uuid_bytes(event.profile_id), left))
        self.last = max(self.last, offset)
        if not left and offset > self.ends.get(to, -1):
            self.ends[to] = offset


class Head(Struct):
    """What a partition's head says of the run of its server."""

    partition: int | None
    """Of events; None: one of profile-events."""
    next: int
    run: str
    settled: str
    at_ms: int
    back_ms: int
    owes: bool
    ahead_ms: int
    """Of events: by how much the server's clock was ahead of the owners' at most, since it has settled last."""

    def since_ms(self, run: str) -> int:
        """What the server lost when this run of it began is later than this."""
        return self.back_ms if self.run == run else self.at_ms


class Recovery:
    """Of a worker: each server's loss is looked for once in a run of the server."""

    def __init__(self, store: Store, settings: Settings, tail: Tail | None = None) -> None:
        """`tail` None: there is no log."""
        self._store = store
        self._settings = settings
        self._tail = tail
        self._rules = rules_of(settings)
        self._reading: dict[Hashable, tuple[str, asyncio.Task[dict[int, Logged]]]] = {}
        """Server -> (its run, what is found)."""
        self.epochs: dict[int, int] = {}
        """Partition of events -> an epoch of it that a site knows, and its head perhaps not."""
        self.read = 0
        """Records of the log so far: claims that wait for them get on."""

    async def lost(self, partition: int, run: str) -> Logged | None:
        """Of a partition of events whose head has not settled with this run of its server. All sites on that server are
        whole after it. Raises KafkaError, Unavailable."""
        return (await self._read(self._store.place(keys.events_tag(partition)), run)).get(partition)

    async def make_whole(self, site: str, run: str) -> None:
        """After identify.lua has refused: restore what there is of the site. Raises KafkaError, Unavailable."""
        place = self._store.place(keys.identifiers_key(site))
        if not any(head.settled == run for head in await self._heads(place)):
            await self._read(place, run)  # Else somebody has read the log for this server: the site is new.
        await self._restore(site, run, [], [], whole=True)

    async def _read(self, place: Hashable, run: str) -> dict[int, Logged]:
        of, task = self._reading.get(place, ("", None))
        if task is None or of != run or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = asyncio.create_task(self._take(place, run))
            self._reading[place] = run, task
        return await asyncio.shield(task)  # A claim waits for some seconds only; the next one goes on waiting.

    async def _heads(self, place: Hashable) -> list[Head]:
        """All heads on a server."""
        partitions = range(self._settings.partitions)
        tags: list[tuple[int | None, str]] = [(p, keys.events_tag(p)) for p in partitions]
        tags += [(None, keys.profiles_tag(p)) for p in partitions]
        names = [(p, tag) for p, tag in tags if self._store.place(tag) == place]
        fields = ("next", "run", "settled", "at_ms", "back_ms", "owes", "ahead_ms")
        found = await asyncio.gather(*(self._store.run("HMGET", f"{tag}:head", *fields) for _, tag in names))
        return [
            Head(
                p, int(next or 0), _text(run), _text(settled), int(at_ms or 0), int(back_ms or 0), owes is not None,
                int(ahead_ms or 0),
            )
            for (p, _), (next, run, settled, at_ms, back_ms, owes, ahead_ms) in zip(names, found, strict=True)
        ]  # fmt: skip

    async def _take(self, place: Hashable, run: str) -> dict[int, Logged]:
        """Read the log from the last thing that the server knows, and restore its sites."""
        began_s = monotonic()
        heads = await self._heads(place)
        lost = {
            head.partition: Logged(head.next) for head in heads if head.partition is not None and head.settled != run
        }
        sites = {site for site in self._settings.sites if self._store.place(keys.identifiers_key(site)) == place}
        since_ms = max((head.since_ms(run) for head in heads if not head.owes), default=0)
        since_ms = min((since_ms, *(head.back_ms for head in heads if head.owes and head.settled != run)))
        if since_ms and self._tail is not None:
            await asyncio.sleep(SETTLE_S)
        n = 0
        if self._tail is not None:
            waiting: dict[str, tuple[list[Any], list[Any]]] = {}
            told: set[Any] = set()
            ahead_ms = max((head.ahead_ms for head in heads), default=0)
            async for records in self._tail(since_ms - ahead_ms - SKEW_MS):
                for topic, partition, value in records:
                    n += 1
                    self.read += 1
                    if n % AT_ONCE == 0:
                        await asyncio.sleep(0)
                    if topic == MERGES and value.startswith(UNMERGE_PREFIX):
                        while waiting:  # merges before it, which may be of the same profile
                            of_site, before = waiting.popitem()
                            await self._restore(of_site, run, *before)
                        await self._split(value, place)
                        continue
                    site = self._note(topic, partition, value, lost, told, waiting)
                    if site is not None and self._store.place(keys.identifiers_key(site)) != place:
                        del waiting[site]
                    elif site is not None and _is_enough(*waiting[site]):
                        await self._restore(site, run, *waiting.pop(site))
                if len(told) > MAX_TOLD:
                    told.clear()
            sites |= waiting.keys()
            for site, (merges, items) in waiting.items():
                await self._restore(site, run, merges, items)
        for site in sites:
            await self._restore(site, run, [], [], whole=True)
        found = sum(len(each.decided) for each in lost.values())
        metrics.RECOVERED.inc(found)
        log.info(
            "Redis was started: %d decisions that it does not have are in the last %d records of the log (%.1f s)",
            found, n, monotonic() - began_s,
        )  # fmt: skip
        return {p: each for p, each in lost.items() if each.decided}

    async def _split(self, value: bytes, place: Hashable) -> None:
        """An unmerge: before any link, for who was taken off a profile then is the new one's since."""
        try:
            unmerge = decode_unmerge(value)
        except UNREADABLE:
            return
        if self._store.place(keys.identifiers_key(unmerge.site)) == place:
            await split(self._store, unmerge, self._settings)

    def _note(
        self,
        topic: str,
        partition: int,
        value: bytes,
        lost: dict[int, Logged],
        told: set[Any],
        waiting: dict[str, tuple[list[Any], list[Any]]],
    ) -> str | None:
        """One record: the site that it leaves something to be restored of."""
        if topic == MERGES or value.startswith(MERGE_PREFIX):
            try:
                merge = decode_merge(value)
            except UNREADABLE:
                return None
            if merge.hops or merge.merge_id in told or not (_is_id(merge.winner) and _is_id(merge.loser)):
                return None
            told.add(merge.merge_id)
            row = [merge.winner, merge.loser, merge.rule, merge.message_id, merge.at_ms]
            waiting.setdefault(merge.site, ([], []))[0].append(row)
            return merge.site
        if not value.startswith(EVENT_PREFIX):
            return None
        try:
            event = _decided.decode(value)
        except UNREADABLE:
            return None
        if not _is_id(event.profile_id):
            return None
        source, offset, _ = event.src
        left = source >= LEFT
        source -= LEFT if left else 0
        if source >= REPLAYS:
            return None
        if (of := lost.get(source)) is not None and offset >= of.next:
            of.add(event, left, partition)
        ids = identifiers(value, event, self._settings.phone_country)
        purchase = routes(value, event) if self._settings.route_ttl_d else ()
        what = (event.site, event.profile_id, ids, purchase)
        if not ids or what in told:
            return None
        told.add(what)
        row = [*item_of(event.site, event, ids, purchase), event.profile_id]
        waiting.setdefault(event.site, ([], []))[1].append(row)
        return event.site

    async def _restore(self, site: str, run: str, merges: list[Any], items: list[Any], *, whole: bool = False) -> None:
        """`whole`: that is all that there is."""
        await self._store.call("identify", keys.identifiers_key(site), [*self._rules, items, [merges, run, whole]])


def _is_enough(merges: Sequence[Any], items: Sequence[Any]) -> bool:
    """For one call."""
    return len(merges) >= MERGES_AT_ONCE or len(items) >= AT_ONCE


def _is_id(profile_id: str) -> bool:
    """Whether it is a profile's id as hop 1 makes them: any other would end in Redis, and hop 1 could not read it."""
    try:
        return uuid_text(uuid_bytes(profile_id)) == profile_id
    except ValueError:
        return False


def _text(value: bytes | None) -> str:
    return (value or b"").decode()


async def split(store: Store, unmerge: Unmerge, settings: Settings) -> None:
    """Make an unmerge's identifiers the new profile's; once, however often the record comes. Nothing where that is no
    profile's id. Raises Unavailable."""
    if not _is_id(unmerge.new_profile_id):
        return
    fields = [f"{type}:{keys.id_part(value)}" for type, value in unmerge.ids]
    ttl_ms = settings.profile_ttl_d * DAY_MS
    argument = [ttl_ms, unmerge.profile_id, unmerge.new_profile_id, fields, unmerge.at_ms]
    await store.call("split", keys.identifiers_key(unmerge.site), argument)


def rules_of(settings: Settings) -> list[Any]:
    """What identify.lua is told before the items."""
    route_ttl_ms = int(settings.route_ttl_d * DAY_MS)
    return [settings.profile_ttl_d * DAY_MS, settings.id_limit_all, limits(settings), [route_ttl_ms, MAX_ROUTED]]


def item_of(site: str, head: EventHead, ids: Sequence[Identifier], purchase: Sequence[Identifier]) -> list[Any]:
    """What identify.lua is told of an event."""
    return [
        head.received_at_ms,
        head.timestamp_ms or head.received_at_ms,
        head.message_id,
        new_profile_id(site, *ids[0]),
        [(PRIORITY[type], keys.id_part(value)) for type, value in ids],
        [f"{name}:{keys.id_part(value)}" for name, value in purchase],
    ]


def tail_of(settings: Settings) -> Tail:
    """The ends of the logs in Kafka."""

    async def read(since_ms: int) -> AsyncIterator[Records]:
        merges = [TopicPartition(MERGES, 0)]
        profiles = [TopicPartition(PROFILE_EVENTS, p) for p in range(settings.partitions)]
        async with AIOKafkaConsumer(
            bootstrap_servers=settings.kafka,
            client_id=f"{settings.worker_id}-recovery",
            enable_auto_commit=False,
            request_timeout_ms=10_000,
            fetch_max_wait_ms=50,
            max_partition_fetch_bytes=256 * 1024,
        ) as consumer:
            for tps in (merges, profiles):
                first = await consumer.beginning_offsets(tps)
                ends = await consumer.end_offsets(tps)
                at = await consumer.offsets_for_times(dict.fromkeys(tps, max(0, since_ms)))
                most = settings.recover_max_records // len(tps)
                starts = {tp: max(first[tp], ends[tp] - most, at[tp].offset if at[tp] else ends[tp]) for tp in tps}
                left = {tp for tp in tps if starts[tp] < ends[tp]}
                consumer.assign(list(left))
                for tp in left:
                    consumer.seek(tp, starts[tp])
                while left:
                    for tp, records in (await consumer.getmany(timeout_ms=500)).items():
                        yield [(tp.topic, tp.partition, r.value) for r in records if r.offset < ends[tp] and r.value]
                    left = {tp for tp in left if await consumer.position(tp) < ends[tp]}

    return read
