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
from stream.redis_store import Store, binary, packb, unpackb
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
PROFILE_TTL_MS: Final = 86_400_000

_encode = msgspec.json.Encoder().encode


class Resolve:
    """The resolve hop of one partition of events, while this worker owns it."""

    def __init__(self, partition: int, store: Store, out: KafkaOut, settings: Settings) -> None:
        self.partition = partition
        self.head_key = keys.events_tag(partition) + ":head"
        self._store = store
        self._out = out
        self._settings = settings
        self._epoch = 0
        self._seq = 0
        self.next = 0
        self._received_at_ms = 0
        self._decided: tuple[int, bytes] | None = None
        """(offset after the last decided record, 16 bytes a record from `next` on)."""
        self._seen = Seen(settings.dedupe_window_h)
        self._cache: OrderedDict[tuple[str, str | None, str | None], tuple[bytes, float]] = OrderedDict()

    async def claim(self, first: int | None) -> int | None:
        """Take the partition over and load its memory: the offset to go on at; None = there is none, say `first`."""
        store = self._store
        epoch, seq, next = unpackb(await store.call("claim", self.head_key, [False if first is None else first]))
        if next < 0:
            return None
        self._epoch, self._seq, self.next = epoch, seq, next
        tag = keys.events_tag(self.partition)
        hour = int(time() * 1000) // HOUR_MS
        hours = range(hour - self._settings.dedupe_window_h, hour + 1)
        received_at_ms, decided, *seen = await asyncio.gather(
            store.run("HGET", self.head_key, "received_at_ms"),
            store.run("GET", f"{tag}:decided"),
            *(store.run("GET", f"{tag}:seen:{h}") for h in hours),
        )
        self._received_at_ms = int(received_at_ms or 0)
        if decided is not None:
            base, end, ids = unpackb(decided)
            if base == next:
                self._decided = (end, ids)
        for h, hashes in zip(hours, seen, strict=True):
            if hashes:
                self._seen.load(h, hashes)
        return self.next

    async def process(self, chunk: Chunk) -> int:
        """Pass a chunk on: how many events it gave. Raises Lost, Unavailable, ProduceError: drop it, claim again."""
        records = chunk.records
        heads = _heads([r.value for r in records])
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
            await self._store.write("decide", self.head_key, [self._epoch, self._seq, self.next, stored])
            self._seq += 1
            self._decided = (end, ids)
            passed += await self._pass_on(records, heads, hashes, ids, end, end)
        return passed

    async def _decide(self, heads: Sequence[EventHead | str], hashes: Sequence[int]) -> bytes:
        """16 bytes a record: the profile id, or DROPPED."""
        now = monotonic()
        ids: list[bytes] = [DROPPED] * len(heads)
        unknown: dict[str, list[tuple[int, str | None, str | None]]] = {}
        fresh: set[int] = set()
        for i, head in enumerate(heads):
            if isinstance(head, str):
                continue
            h = hashes[i]
            if h in fresh or h in self._seen:
                continue
            fresh.add(h)
            known = self._cache.get((head.site, head.anonymous_id, head.user_id))
            if known is not None and known[1] > now and head.type != "alias":
                ids[i] = known[0]
                continue
            anonymous, user = identifiers(head)
            if anonymous is not None or user is not None:
                unknown.setdefault(head.site, []).append((i, anonymous, user))
        for site, asked in unknown.items():
            await self._identify(site, asked, ids, now)
        return b"".join(ids)

    async def _identify(
        self, site: str, asked: list[tuple[int, str | None, str | None]], ids: list[bytes], now: float
    ) -> None:
        distinct = list(dict.fromkeys((anonymous, user) for _, anonymous, user in asked))
        items = [
            [
                keys.id_part(anonymous) if anonymous is not None else False,
                keys.id_part(user) if user is not None else False,
                codec.new_profile_id(site, "anonymous_id", anonymous) if anonymous is not None else False,
                codec.new_profile_id(site, "user_id", user) if user is not None else False,
            ]
            for anonymous, user in distinct
        ]
        ttl_ms = self._settings.profile_ttl_d * PROFILE_TTL_MS
        answer = unpackb(await self._store.call("identify", f"{{s:{site}}}:id", [ttl_ms, items]))
        found: dict[tuple[str | None, str | None], bytes] = {}
        for pair, (profile, linked) in zip(distinct, answer, strict=True):
            found[pair] = id = bytes.fromhex(profile.replace("-", ""))
            anonymous, user = pair
            if linked:
                metrics.LINKS.inc()
            if anonymous is not None and user is not None:
                self._cache.pop((site, anonymous, None), None)  # It means the user from now on.
            self._cache[site, anonymous, user] = (id, now + CACHE_S)
            if len(self._cache) > CACHE_ENTRIES:
                self._cache.popitem(last=False)
        for i, anonymous, user in asked:
            ids[i] = found[anonymous, user]

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
        argument = [self._epoch, self._seq, self.next, next, received_at_ms, kept, seen_ttl_s, rest]
        await self._store.write("advance", self.head_key, argument)
        self._seq += 1
        self.next = next
        self._received_at_ms = received_at_ms
        self._decided = (end, ids) if ids else None
        for hour, each in hours.items():
            for h in each:
                self._seen.add(hour, h)
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
        topic=topic, partition=partition, offset=record.offset,
    )  # fmt: skip
    return out.append(DEAD_LETTERS, None, _encode(letter), None, 0)


def identifiers(head: EventHead) -> tuple[str | None, str | None]:
    """(anonymous id, user id) that an event means. An alias call says that previousId is the same person as userId."""
    anonymous, user = usable(head.anonymous_id), usable(head.user_id)
    if head.type == "alias" and anonymous is None:
        anonymous = usable(head.previous_id)
    return anonymous, user


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
