"""Hop 1: whose event is it? tracker.events.v1 -> tracker.profile-events.v1, keyed by profile.

A chunk's decisions (profile ids) are stored before it is published and its head moves after Kafka's ack. So when it is
delivered again after a crash it is published with the same decisions, each record to the same partition as before, and
the signals hop drops what it has applied by (partition, offset, index). Decisions that Redis has lost are taken from
the log (stream/recovery.py).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from time import monotonic, time
from typing import Any, Final

from aiokafka.errors import KafkaError
from msgspec import UNSET

from stream import merges, metrics
from stream.core.identity import LINKING, identifiers, routes
from stream.core.parts import UNREADABLE
from stream.kafka_out import acked, dead_letter
from stream.packing import binary, packb, unpackb
from stream.poison import Limits, Verdict
from stream.recovery import Logged, Recovery, item_of, rules_of
from stream.redis_store import Head, Lost, Store
from stream.seen import Seen
from stream.transport import Chunk
from tracker.contract import codec, keys
from tracker.contract.durations import HOUR_MS, HOUR_S
from tracker.contract.events import (
    LEFT,
    ROUTED,
    VERIFIED,
    EventHead,
    Received,
    decode_event_head,
    profile_prefix,
    with_profile,
    without_ours,
)
from tracker.contract.ids import Identifier
from tracker.contract.producer import KafkaOut
from tracker.contract.settings import Settings
from tracker.contract.topics import EVENTS, MAX_RECORD_BYTES, PROFILE_EVENTS

DROPPED: Final = bytes(16)
"""The decision on a record that is not passed on: a repeat, or poison."""
CACHE_ENTRIES: Final = 20_000
CACHE_S: Final = 30.0
"""How long a profile id is believed without asking Redis: a link made by another worker is seen after that."""
MAX_HOURS: Final = 24 * 14
"""Beyond it no hashes are kept: twice the longest retention of events."""
ASKS_AT_ONCE: Final = 200
"""What one call of identify.lua may cost, an event with one id 1: 2 ms or so."""
MERGE_COST: Final = 9
"""Of each further id: profiles of 50 ids may be merged by it."""
MAX_MERGED: Final = 4096

PLAIN: Final = frozenset(("user_id", "anonymous_id"))

_Who = tuple[str, str | None, str | None, tuple[Identifier, ...]]
"""(site, anonymous id, user id, what names its purchase) of an event."""


class Merged:
    """Merges that this worker's partitions made, or saw in the log: what a cache still knows under the loser is the
    winner.

    The latest MAX_MERGED: of one that is forgotten too soon, events are sent on by the loser's owner.
    """

    def __init__(self) -> None:
        self._winners: OrderedDict[bytes, bytes] = OrderedDict()

    def note(self, loser: bytes, winner: bytes) -> None:
        self._winners.pop(loser, None)
        self._winners[loser] = winner
        self._winners.pop(winner, None)  # It is alive: after a rollback of Redis it may have been a loser before.
        if len(self._winners) > MAX_MERGED:
            self._winners.popitem(last=False)

    def hear(self, loser: str, winner: str) -> None:
        """A merge that another worker may have made passes in the log."""
        with contextlib.suppress(ValueError):  # no id of ours
            self.note(codec.uuid_bytes(loser), codec.uuid_bytes(winner))

    def __bool__(self) -> bool:
        return bool(self._winners)

    def follow(self, id: bytes) -> bytes:
        while (winner := self._winners.get(id)) is not None:
            id = winner
        return id


class Resolve:
    """The resolve hop of one partition of events, while this worker owns it."""

    def __init__(
        self,
        partition: int,
        store: Store,
        out: KafkaOut,
        settings: Settings,
        limits: Limits | None = None,
        merged: Merged | None = None,
        recovery: Recovery | None = None,
    ) -> None:
        self.partition = partition
        self.head_key = keys.events_tag(partition) + ":head"
        self._store = store
        self._out = out
        self._settings = settings
        self._limits = limits or Limits(EVENTS, settings)
        self._head = Head(store, self.head_key)
        self.next = 0
        self._received_at_ms = 0
        self._decided: tuple[int, bytes, list[merges.Made]] | None = None
        """(offset after the last decided record, 16 bytes a record from `next` on, merges that were made by them)."""
        self._seen = Seen(settings.dedupe_window_h)
        self._ids = Ids(store, settings)
        self._cache: OrderedDict[_Who, tuple[bytes, float]] = OrderedDict()
        """Who -> (profile id, believed until)."""
        self._merged = Merged() if merged is None else merged
        self._recovery = recovery or Recovery(store, settings)
        self._logged: Logged | None = None
        """Decisions on records from `next` on that Redis had lost."""
        self._looked_at: set[str] = set()
        """Sites whose waiting merges were published since the claim: those of a chunk that a crash cut off."""

    async def claim(self, first: int | None) -> int | None:
        """Take the partition over and load its memory: the offset to go on at; None = there is none, say `first`."""
        store = self._store
        next = await self._head.claim(first, self._recovery.epochs.get(self.partition, 0))
        if next is None:
            return None
        self.next = next
        if not self._head.settled:
            self._logged = await self._recovery.lost(self.partition, self._head.run)
            await self._settle()
        tag = keys.events_tag(self.partition)
        received_at_ms, decided = await asyncio.gather(
            store.run("HGET", self.head_key, "received_at_ms"), store.run("GET", f"{tag}:decided")
        )
        self._received_at_ms = int(received_at_ms or 0)
        if decided is not None:
            base, end, ids, made = unpackb(decided)
            if base == next:
                self._decided = (end, ids, [tuple(merge) for merge in made])
        # The window goes by receivedAt: of a backlog that is long ago, of an endpoint with a fast clock the next hour.
        hour = int(time() * 1000) // HOUR_MS
        first_hour = min(hour, self._received_at_ms // HOUR_MS or hour) - self._settings.dedupe_window_h
        hours = range(max(first_hour, hour - MAX_HOURS), hour + 2)
        seen = await asyncio.gather(*(store.run("GET", f"{tag}:seen:{h}") for h in hours))
        for h, hashes in zip(hours, seen, strict=True):
            if hashes:
                self._seen.load(h, hashes)
                await asyncio.sleep(0)  # 20 ms for an hour of 50,000: the loop has other things to do.
        return self.next

    async def process(self, chunk: Chunk) -> int:
        """Pass a chunk on: how many events it gave. Raises Lost, Unavailable, ProduceError: drop it, claim again.
        Raises TooMuchPoison: stop."""
        records = chunk.records
        heads = _heads([r.value for r in records])
        tally = self._limits.check(self.partition, len(heads), _verdicts(records, heads))
        hashes = [0 if isinstance(h, str) else codec.message_hash(h.site, h.message_id) for h in heads]
        sites = {h.site for h in heads if not isinstance(h, str)} - self._looked_at
        passed = 0
        if self._decided is not None:
            # Chunks may be cut differently this time: the decided records first, then the rest.
            end, ids, made = self._decided
            n = min(sum(r.offset < end for r in records), len(ids) // 16)
            if n:
                await self._publish_merges(sites, made)
                next = records[n - 1].offset + 1
                passed = await self._pass_on(records[:n], heads[:n], hashes[:n], ids, next, end, made)
            else:
                self._decided = None
            records, heads, hashes = records[n:], heads[n:], hashes[n:]
        if records:
            ids, made = await self._decide([r.value for r in records], heads, hashes, [r.offset for r in records])
            end = records[-1].offset + 1
            stored = binary(packb([self.next, end, ids, made]))
            await self._head.write("decide", [self._head.epoch, self._head.seq, self.next, stored])
            self._decided = (end, ids, made)
            await self._publish_merges(sites, made)
            passed += await self._pass_on(records, heads, hashes, ids, end, end, made)
        self._limits.keep(tally)
        return passed

    async def _settle(self) -> None:
        """Once the head is past all that was lost, there is nothing more to be taken from the log."""
        if not self._head.settled and (self._logged is None or self.next > self._logged.last):
            await self._head.settle()
            self._logged = None

    async def _publish_merges(self, sites: set[str], made: Sequence[merges.Made]) -> None:
        """Before the head passes the events that made them, so that no clock record later than these overtakes them."""
        for site in sites | {merge[0] for merge in made}:
            of_site = [merge for merge in made if merge[0] == site]
            await merges.publish(site, self._store, self._out, self._settings, of_site)
        self._looked_at |= sites

    async def _decide(
        self,
        values: Sequence[bytes],
        heads: Sequence[Received | str],
        hashes: Sequence[int],
        offsets: Sequence[int] = (),
    ) -> tuple[bytes, list[merges.Made]]:
        """16 bytes a record: the profile id, or DROPPED; and the merges that were made."""
        known_to_log = self._logged.decided if self._logged is not None else {}
        now = monotonic()
        ids: list[bytes] = [DROPPED] * len(heads)
        asks: dict[str, Asks] = {}
        repeated = self._seen.among(hashes)
        cache, merged, country = self._cache, self._merged, self._settings.phone_country
        routed = ROUTED if self._settings.route_ttl_d else frozenset[str]()
        for i, head in enumerate(heads):
            if isinstance(head, str):
                continue
            h = hashes[i]
            if h in repeated:
                continue
            repeated.add(h)
            if known_to_log and (decided := known_to_log.get(offsets[i])) is not None:
                ids[i] = decided[0]
                asks.setdefault(head.site, Asks())  # whoever was the owner before asks no more
                continue
            purchase = routes(values[i], head) if head.event in routed else ()
            who: _Who = (head.site, head.anonymous_id, head.user_id, purchase)
            known = cache.get(who)
            if (
                known is not None and known[1] > now
                and head.type not in LINKING and head.event not in VERIFIED
            ):  # fmt: skip
                ids[i] = known[0] if not merged else merged.follow(known[0])
                if asks and (asked := asks.get(head.site)) is not None:
                    asked.known.append((i, len(asked.items)))
                continue
            found = identifiers(values[i], head, country)
            if found:
                asks.setdefault(head.site, Asks()).add(i, head, found, who)
        rows: list[merges.Made] = []
        for site, asked in asks.items():
            answers, made, why = await self._ask(site, asked.items)
            for who, n in asked.whos.items():
                cache[who] = (answers[n], now + CACHE_S)
                if len(cache) > CACHE_ENTRIES:
                    cache.popitem(last=False)
            for i, n, until in asked.events:
                ids[i] = _after(made, answers[n], n, until)
            if made:
                rows += why
                for i, until in asked.known:
                    ids[i] = _after(made, ids[i], -1, until)
                for _, loser, winner in made:
                    self._merged.note(loser, winner)
        return b"".join(ids), rows

    async def _ask(
        self, site: str, items: Sequence[Item]
    ) -> tuple[list[bytes], list[tuple[int, bytes, bytes]], list[merges.Made]]:
        """As Ids.ask: a site that a restarted server has not all of is made whole first, and of a later owner's epoch
        the next claim knows."""
        owner = self.partition, self._head.epoch
        try:
            try:
                return await self._ids.ask(site, items, owner)
            except Restarted as e:
                await self._make_whole(site, e.run)
                return await self._ids.ask(site, items, owner)
        except Fenced as e:
            self._recovery.epochs[self.partition] = e.epoch
            raise

    async def _make_whole(self, site: str, run: str) -> None:
        try:
            await self._recovery.make_whole(site, run)
        except KafkaError as e:
            raise Lost(f"the log can't be read: {type(e).__name__}: {e}") from None

    async def _pass_on(
        self,
        records: Sequence[Any],
        heads: Sequence[Received | str],
        hashes: Sequence[int],
        ids: bytes,
        next: int,
        end: int,
        made: list[merges.Made],
    ) -> int:
        """Publish records as decided, then move the head to `next`. `ids` go up to `end`: the rest stays decided."""
        partitions, logged = self._settings.partitions, self._logged
        profiles: dict[bytes, tuple[bytes, bytes, list[tuple[bytes | None, bytes]]]] = {}
        out: dict[int, list[tuple[bytes | None, bytes]]] = {}
        acks: set[asyncio.Future[None]] = set()
        hours: dict[int, list[int]] = {}
        received_at_ms = self._received_at_ms
        last_hour = int(time() * 1000) // HOUR_MS + 1  # an endpoint's clock may be ahead, and no later one is loaded
        duplicates = passed = 0
        each_id = [ids[at : at + 16] for at in range(0, 16 * len(records), 16)]
        for record, head, hash, id in zip(records, heads, hashes, each_id, strict=True):
            if isinstance(head, str):
                acks.add(self._dead_letter(record, "not_an_event", head))
                continue
            received_at_ms = head.received_at_ms
            if id == DROPPED:
                if not identifiers(record.value, head, self._settings.phone_country):
                    acks.add(self._dead_letter(record, "no_identity", "no usable userId or anonymousId"))
                else:
                    duplicates += 1
                continue
            value = record.value
            if not (head.profile_id is head.src is head.counted is head.hops is UNSET):
                try:
                    value = without_ours(value)
                except UNREADABLE as e:
                    acks.add(self._dead_letter(record, "not_an_event", str(e)))
                    continue
            hour = received_at_ms // HOUR_MS
            hours.setdefault(hour if hour < last_hour else last_hour, []).append(hash)
            known = profiles.get(id)
            if known is None:
                key = codec.uuid_text(id).encode()
                batch = out.setdefault(codec.partition_of(key, partitions), [])
                known = profiles[id] = (key, profile_prefix(key, self.partition), batch)
            key, prefix, batch = known
            if logged is not None and logged.is_left(record.offset, codec.partition_of(key, partitions)):
                prefix = profile_prefix(key, LEFT + self.partition)
            batch.append((key, with_profile(value, prefix, record.offset, 0)))
            passed += 1
        for partition, batch in out.items():
            acks |= self._out.extend(PROFILE_EVENTS, partition, batch)
        await acked(acks)
        kept = [[hour, binary(b"".join(h.to_bytes(8, "big") for h in each))] for hour, each in hours.items()]
        seen_ttl_s = (self._settings.dedupe_window_h + 1) * HOUR_S
        ids = ids[len(records) * 16 :] if next < end else b""
        rest = binary(packb([next, end, ids, made])) if ids else False
        argument = [self._head.epoch, self._head.seq, self.next, next, received_at_ms, kept, seen_ttl_s, rest]
        await self._head.write("advance", argument)
        self.next = next
        self._received_at_ms = received_at_ms
        self._decided = (end, ids, made) if ids else None
        await self._settle()
        for hour, each in hours.items():
            self._seen.add(hour, *each)
        if duplicates:
            metrics.DUPLICATES.inc(duplicates)
        return passed

    def _dead_letter(self, record: Any, reason: str, detail: str) -> asyncio.Future[None]:
        metrics.DEAD_LETTERS.labels(reason).inc()
        return dead_letter(self._out, "resolve", EVENTS, self.partition, record, reason, detail)


Item = tuple[EventHead, tuple[Identifier, ...], tuple[Identifier, ...]]
"""An event, its identifiers, what names its purchase."""


class Asks:
    """What a chunk asks of one site, in order. Events in a row with the same ids ask once."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.events: list[tuple[int, int, int]] = []
        """(index of the record, index of the item that answers it, number of items before the record)."""
        self.known: list[tuple[int, int]] = []
        """Records that the cache answered: (index, number of items before it)."""
        self.whos: dict[_Who, int] = {}
        """Who -> item that answers for whoever has just these ids."""
        self._latest: dict[Identifier, int] = {}
        """What was asked last of an identifier: an event asks anew when another came between."""

    def add(self, i: int, head: EventHead, found: tuple[Identifier, ...], who: _Who) -> None:
        latest = self._latest
        n = latest.get(found[0], -1)
        if n < 0 or self.items[n][1] != found or self.items[n][2] != who[3] or any(latest[id] != n for id in found):
            n = len(self.items)
            self.items.append((head, found, who[3]))
            for id in found:
                latest[id] = n
        if head.type != "alias" and all(type in PLAIN for type, _ in found):
            self.whos[who] = n
        self.events.append((i, n, len(self.items)))


class Restarted(Lost):
    """The server was restarted, and the site has not been made whole since: nothing was done."""

    def __init__(self, run: str) -> None:
        super().__init__(f"Redis was restarted: run {run}")
        self.run = run


class Fenced(Lost):
    """A later owner of the partition has asked already: nothing was done."""

    def __init__(self, epoch: int) -> None:
        super().__init__(f"epoch: a later owner, {epoch}, has decided")
        self.epoch = epoch


class Ids:
    """Asks identify.lua."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._rules = rules_of(settings)

    async def ask(
        self, site: str, items: Sequence[Item], owner: tuple[int, int] | None = None
    ) -> tuple[list[bytes], list[tuple[int, bytes, bytes]], list[merges.Made]]:
        """Profile id of each item, asked in this order: an earlier link counts later; the merges that were made, (index
        of the item, loser, winner), and what is told of them. `owner`: (partition of events, epoch) of who asks. Raises
        Restarted, Fenced."""
        key = keys.identifiers_key(site)
        arguments = [item_of(site, head, found, purchase) for head, found, purchase in items]
        calls = [
            self._store.call("identify", key, [*self._rules, arguments[first:last], False, owner or False])
            for first, last in list(in_calls([1 + MERGE_COST * (len(found) - 1) for _, found, _ in items])) or [(0, 0)]
        ]
        profiles: list[bytes] = []
        made: list[tuple[int, bytes, bytes]] = []
        rows: list[merges.Made] = []
        links = dropped = 0
        for answer in await asyncio.gather(*calls):  # One pipeline, in order.
            told = unpackb(answer)
            if len(told) == 1:
                raise Fenced(int(told[0])) if isinstance(told[0], int | float) else Restarted(told[0])
            answers, merged = told
            for n, loser, winner, rule in merged:
                n += len(profiles)
                made.append((n, codec.uuid_bytes(loser), codec.uuid_bytes(winner)))
                head = items[n][0]
                rows.append((site, winner, loser, rule, head.message_id, head.received_at_ms))
            for profile, linked, given_way in answers:
                profiles.append(codec.uuid_bytes(profile))
                links += linked
                dropped += given_way
        if links:
            metrics.LINKS.inc(links)
        if dropped:
            metrics.NOT_LINKED.inc(dropped)
        return profiles, made, rows


def in_calls(costs: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(first, last + 1) of items that one call each answers: of ASKS_AT_ONCE together, or one that costs more."""
    first = cost = 0
    for i, more in enumerate(costs):
        if cost and cost + more > ASKS_AT_ONCE:
            yield first, i
            first = i
            cost = 0
        cost += more
    if costs:
        yield first, len(costs)


def _after(made: Sequence[tuple[int, bytes, bytes]], id: bytes, n: int, until: int) -> bytes:
    """The id that an answer to item n has become by the items between it and `until`."""
    for index, loser, winner in made:
        if n < index < until and loser == id:
            id = winner
    return id


def _verdicts(records: Sequence[Any], heads: Sequence[Received | str]) -> list[Verdict]:
    """For the limits of poison; [] where there is none."""
    if str not in map(type, heads):
        return []
    return [
        Verdict(record.offset, "not_an_event" if isinstance(head, str) else None)
        for record, head in zip(records, heads, strict=True)
    ]


def _heads(values: list[bytes | None]) -> list[Received | str]:
    """The fields the hop reads of each record, or what is wrong with it."""
    try:  # A try a chunk, not a record: there is poison in next to none.
        if max(map(len, values), default=0) > MAX_RECORD_BYTES:  # type: ignore[arg-type]  # None: see below
            raise ValueError
        return [decode_event_head(value) for value in values]  # type: ignore[arg-type]
    except Exception:
        return [_head(value) for value in values]


def _head(value: bytes | None) -> Received | str:
    """The fields the hop reads, or what is wrong with the record."""
    if not value:
        return "the record has no value"
    if len(value) > MAX_RECORD_BYTES:
        return f"the record has {len(value)} bytes, at most {MAX_RECORD_BYTES} are passed on"
    try:
        return decode_event_head(value)
    except UNREADABLE as e:
        return str(e)
