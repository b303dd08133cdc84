"""Hop 1: whose event is it? tracker.events.v1 -> tracker.profile-events.v1, keyed by profile.

A chunk's decisions (profile ids) are stored before it is published and its head moves after Kafka's ack. So when it is
delivered again after a crash it is published with the same decisions, each record to the same partition as before, and
the signals hop drops what it has applied by (partition, offset, index).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Collection, Sequence
from time import monotonic, time
from typing import Any, Final
from uuid import UUID

import msgspec

from stream import metrics
from stream.core.identity import usable
from stream.poison import Limits, Verdict
from stream.redis_store import Head, Store, binary, packb, unpackb
from stream.seen import Seen
from stream.transport import Chunk
from tracker.contract import codec, keys
from tracker.contract.events import EventHead, decode_event_head, profile_prefix, with_profile
from tracker.contract.producer import KafkaOut
from tracker.contract.settings import Settings
from tracker.contract.topics import DEAD_LETTERS, EVENTS, PROFILE_EVENTS, DeadLetter

DROPPED: Final = bytes(16)
"""The decision on a record that is not passed on: a repeat, or poison."""
CACHE_ENTRIES: Final = 20_000
CACHE_S: Final = 30.0
"""How long a profile id is believed without asking Redis: a link made by another worker is seen after that."""
HOUR_MS: Final = 3_600_000
MAX_HOURS: Final = 24 * 14
"""Beyond it no hashes are kept: twice the longest retention of events."""
PROFILE_TTL_MS: Final = 86_400_000

_encode = msgspec.json.Encoder().encode


_Who = tuple[str, str | None, str | None]


class Resolve:
    """The resolve hop of one partition of events, while this worker owns it."""

    def __init__(
        self, partition: int, store: Store, out: KafkaOut, settings: Settings, limits: Limits | None = None
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
        self._decided: tuple[int, bytes] | None = None
        """(offset after the last decided record, 16 bytes a record from `next` on)."""
        self._seen = Seen(settings.dedupe_window_h)
        self._cache: OrderedDict[_Who, tuple[str | None, bytes, float]] = OrderedDict()
        """Anonymous id, else user id -> (the user it came with last, profile id, believed until)."""

    async def claim(self, first: int | None) -> int | None:
        """Take the partition over and load its memory: the offset to go on at; None = there is none, say `first`."""
        store = self._store
        next = await self._head.claim(first)
        if next is None:
            return None
        self.next = next
        tag = keys.events_tag(self.partition)
        received_at_ms, decided = await asyncio.gather(
            store.run("HGET", self.head_key, "received_at_ms"), store.run("GET", f"{tag}:decided")
        )
        self._received_at_ms = int(received_at_ms or 0)
        if decided is not None:
            base, end, ids = unpackb(decided)
            if base == next:
                self._decided = (end, ids)
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
        passed = 0
        if self._decided is not None:
            # Chunks may be cut differently this time: the decided records first, then the rest.
            end, ids = self._decided
            n = min(sum(r.offset < end for r in records), len(ids) // 16)
            if n:
                passed = await self._pass_on(records[:n], heads[:n], hashes[:n], ids, records[n - 1].offset + 1, end)
            else:
                self._decided = None
            records, heads, hashes = records[n:], heads[n:], hashes[n:]
        if records:
            ids, end = await self._decide(heads, hashes), records[-1].offset + 1
            stored = binary(packb([self.next, end, ids]))
            await self._head.write("decide", [self._head.epoch, self._head.seq, self.next, stored])
            self._decided = (end, ids)
            passed += await self._pass_on(records, heads, hashes, ids, end, end)
        self._limits.keep(tally)
        return passed

    async def _decide(self, heads: Sequence[EventHead | str], hashes: Sequence[int]) -> bytes:
        """16 bytes a record: the profile id, or DROPPED."""
        now = monotonic()
        ids: list[bytes] = [DROPPED] * len(heads)
        asked: dict[str, list[tuple[str | None, str | None]]] = {}
        waiting: list[tuple[int, str, int]] = []  # (index of the record, site, index in what is asked of the site)
        latest: dict[_Who, tuple[str | None, int]] = {}  # what this chunk asks last of an id: later events follow it
        fresh: set[int] = set()
        for i, head in enumerate(heads):
            if isinstance(head, str):
                continue
            h = hashes[i]
            if h in fresh or h in self._seen:
                continue
            fresh.add(h)
            anonymous, user = head.anonymous_id, head.user_id
            who: _Who = (head.site, anonymous, None) if anonymous is not None else (head.site, None, user)
            known = self._cache.get(who)
            if (
                known is not None and known[2] > now and (user is None or user == known[0])
                and who not in latest and head.type != "alias"
            ):  # fmt: skip
                ids[i] = known[1]
                continue
            anonymous, user = identifiers(head)
            if anonymous is None and user is None:
                continue
            who = _who(head.site, anonymous, user)
            last = latest.get(who)
            if last is None or (user is not None and user != last[0]):
                pairs = asked.setdefault(head.site, [])
                last = latest[who] = (user, len(pairs))
                pairs.append((anonymous, user))
            waiting.append((i, head.site, last[1]))
        found = {site: await self._identify(site, pairs, now) for site, pairs in asked.items()}
        for i, site, index in waiting:
            ids[i] = found[site][index]
        return b"".join(ids)

    async def _identify(self, site: str, pairs: list[tuple[str | None, str | None]], now: float) -> list[bytes]:
        """Profile ids of (anonymous id, user id) pairs, asked of Redis in this order: an earlier link counts later."""
        items = [
            [
                keys.id_part(anonymous) if anonymous is not None else False,
                keys.id_part(user) if user is not None else False,
                codec.new_profile_id(site, "anonymous_id", anonymous) if anonymous is not None else False,
                codec.new_profile_id(site, "user_id", user) if user is not None else False,
            ]
            for anonymous, user in pairs
        ]
        ttl_ms = self._settings.profile_ttl_d * PROFILE_TTL_MS
        answer = unpackb(await self._store.call("identify", f"{{s:{site}}}:id", [ttl_ms, items]))
        found = []
        for (anonymous, user), (profile, linked) in zip(pairs, answer, strict=True):
            id = UUID(profile).bytes
            found.append(id)
            if linked:
                metrics.LINKS.inc()
            self._cache[_who(site, anonymous, user)] = (user, id, now + CACHE_S)
            if len(self._cache) > CACHE_ENTRIES:
                self._cache.popitem(last=False)
        return found

    async def _pass_on(
        self,
        records: Sequence[Any],
        heads: Sequence[EventHead | str],
        hashes: Sequence[int],
        ids: bytes,
        next: int,
        end: int,
    ) -> int:
        """Publish records as decided, then move the head to `next`. `ids` go up to `end`: the rest stays decided."""
        partitions = self._settings.partitions
        profiles: dict[bytes, tuple[bytes, bytes, list[tuple[bytes | None, bytes]]]] = {}
        out: dict[int, list[tuple[bytes | None, bytes]]] = {}
        acks: set[asyncio.Future[None]] = set()
        hours: dict[int, list[int]] = {}
        received_at_ms = self._received_at_ms
        duplicates = passed = 0
        for i, (record, head) in enumerate(zip(records, heads, strict=True)):
            if isinstance(head, str):
                acks.add(self._dead_letter(record, "not_an_event", head))
                continue
            received_at_ms = head.received_at_ms
            id = ids[i * 16 : i * 16 + 16]
            if id == DROPPED:
                if identifiers(head) == (None, None):
                    acks.add(self._dead_letter(record, "no_identity", "no usable userId or anonymousId"))
                else:
                    duplicates += 1
                continue
            hours.setdefault(received_at_ms // HOUR_MS, []).append(hashes[i])
            known = profiles.get(id)
            if known is None:
                key = str(UUID(bytes=id)).encode()
                batch = out.setdefault(codec.partition_of(key, partitions), [])
                known = profiles[id] = (key, profile_prefix(key, self.partition), batch)
            key, prefix, batch = known
            batch.append((key, with_profile(record.value, prefix, record.offset, 0)))
            passed += 1
        for partition, batch in out.items():
            acks |= self._out.extend(PROFILE_EVENTS, partition, batch)
        await acked(acks)
        kept = [[hour, binary(b"".join(h.to_bytes(8, "big") for h in each))] for hour, each in hours.items()]
        seen_ttl_s = (self._settings.dedupe_window_h + 1) * 3600
        ids = ids[len(records) * 16 :] if next < end else b""
        rest = binary(packb([next, end, ids])) if ids else False
        argument = [self._head.epoch, self._head.seq, self.next, next, received_at_ms, kept, seen_ttl_s, rest]
        await self._head.write("advance", argument)
        self.next = next
        self._received_at_ms = received_at_ms
        self._decided = (end, ids) if ids else None
        for hour, each in hours.items():
            self._seen.add(hour, *each)
        if duplicates:
            metrics.DUPLICATES.inc(duplicates)
        return passed

    def _dead_letter(self, record: Any, reason: str, detail: str) -> asyncio.Future[None]:
        metrics.DEAD_LETTERS.labels(reason).inc()
        return dead_letter(self._out, "resolve", EVENTS, self.partition, record, reason, detail)


async def acked(acks: Collection[asyncio.Future[None]]) -> None:
    """Wait for all of them. Raises ProduceError when one failed; the others are shared, and go on."""
    waiting = [ack for ack in acks if not ack.done()]
    if waiting:
        await asyncio.wait(waiting)
    for ack in acks:
        ack.result()


def dead_letter(
    out: KafkaOut, stage: str, topic: str, partition: int, record: Any, reason: str, detail: str
) -> asyncio.Future[None]:
    """Give a record that could not be used to tracker.dead-letters.v1."""
    letter = DeadLetter(
        reason=reason, detail=detail, stage=stage, at_ms=int(time() * 1000), original=record.value or b"",
        topic=topic, partition=partition, offset=record.offset, key=record.key,
    )  # fmt: skip
    return out.append(DEAD_LETTERS, None, _encode(letter), None, 0)


def _who(site: str, anonymous: str | None, user: str | None) -> _Who:
    """What an event goes by: its anonymous id where it has one, whoever is logged in there."""
    return (site, anonymous, None) if anonymous is not None else (site, None, user)


def identifiers(head: EventHead) -> tuple[str | None, str | None]:
    """(anonymous id, user id) that an event means. An alias call says that previousId is the same person as userId."""
    anonymous, user = usable(head.anonymous_id), usable(head.user_id)
    if head.type == "alias" and anonymous is None:
        anonymous = usable(head.previous_id)
    return anonymous, user


def _verdicts(records: Sequence[Any], heads: Sequence[EventHead | str]) -> list[Verdict]:
    """For the limits of poison; [] where there is none."""
    if str not in map(type, heads):
        return []
    return [
        Verdict(record.offset, "not_an_event" if isinstance(head, str) else None)
        for record, head in zip(records, heads, strict=True)
    ]


def _heads(values: list[bytes | None]) -> list[EventHead | str]:
    """The fields the hop reads of each record, or what is wrong with it."""
    try:  # A try a chunk, not a record: there is poison in next to none.
        return [decode_event_head(value) for value in values]  # type: ignore[arg-type]
    except Exception:
        return [_head(value) for value in values]


def _head(value: bytes | None) -> EventHead | str:
    """The fields the hop reads, or what is wrong with the record."""
    if not value:
        return "the record has no value"
    try:
        return decode_event_head(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        return str(e)
