"""Hop 2: fold a chunk of tracker.profile-events.v1 into Redis, then publish the triggers that it gave.

All effects of a chunk and the offset after it are one script call (apply.lua). Triggers go into the outbox with it, to
Kafka right after it, and out of the outbox when Kafka has acked: after a crash in between they are published again with
the same ids.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from time import time
from typing import Any, Final

from stream import metrics
from stream.effects import MOVED, Effects, Outgoing, unpack_outgoing
from stream.fold import Folder
from stream.kafka_out import acked, dead_letter
from stream.packing import unpackb
from stream.poison import Limits, TooMuchPoison, Verdict
from stream.profile import Profile, ProfileCache
from stream.records import Decoded, Poison, decode
from stream.recovery import split
from stream.redis_store import Head, Lost, RedisError, Store, Unavailable
from stream.stored import StateError
from stream.transport import Chunk
from tracker.contract import keys
from tracker.contract.codec import partition_of
from tracker.contract.events import ProfileEvent
from tracker.contract.merges import Handover, Merge
from tracker.contract.models import Model, Models, decode_model
from tracker.contract.producer import KafkaOut, ProduceError
from tracker.contract.settings import Settings
from tracker.contract.topics import PROFILE_EVENTS
from tracker.contract.triggers import HEADERS

log = logging.getLogger(__name__)

DUE_LIMIT: Final = 128
"""Most timers that one apply fires besides those of the chunk's own profiles; more are fired in several applies."""
FIRST_APPLY_RECORDS: Final = 1000
MIN_APPLY_RECORDS: Final = 250
APPLY_BYTES: Final = 1 << 20
"""States and triggers that one apply should write at most: 2 ms or so. Of records that write much there may be fewer
than MIN_APPLY_RECORDS."""
MOST_APPLY_BYTES: Final = 2 * APPLY_BYTES
"""What one apply writes at most, if it has more than one record: else the halves are folded anew."""
LOAD_AT_ONCE: Final = 64
"""Profiles that one call of load.lua reads: 1 ms or so. What is read need not be of one moment, for nobody else writes
it."""
AVERAGED_CALLS: Final = 8
MAX_JUMP: Final = 4.0
"""How many times the average one call may count."""
MARGIN_MS: Final = 2_000
"""A timer fires this long after its due time at the earliest: the clock in the log runs so far behind."""
RANKED_AT_ONCE: Final = 128
"""After a change of weights: profiles that are ranked anew with each chunk, and there is one a second at least."""
MOVES_AT_ONCE: Final = 32
"""Most merges and parts of merged profiles in one apply: each may send or write up to 256 KB."""


MENDED_ELSEWHERE: Final = (Lost, ProduceError, RedisError, TooMuchPoison, StateError, *Unavailable)
"""No record's fault: stream/lanes.py says what becomes of the partition."""


class TooMuch(Exception):
    """The effects are too large for one apply."""


class ApplyBound:
    """How many records one call of apply.lua may carry: Redis does nothing else meanwhile, so it follows from what a
    record took it lately. Where a chunk is cut changes nothing of its effect. Of all partitions of a worker together.

    An average, and single calls count with a bounded weight: on a machine that is short of CPU a call is long because
    Redis had to wait, and smaller steps would only cost more of what is short.
    """

    def __init__(self, settings: Settings) -> None:
        self._target_us = settings.apply_target_ms * 1000
        self._most = settings.max_chunk_records
        self.records = min(FIRST_APPLY_RECORDS, self._most)
        self._us_a_record = self._target_us / self.records
        self._bytes_a_record = 0.0

    def took(self, records: int, us: int, size: int = 0) -> None:
        """A call with so many records took so long (0: it was not made), and wrote so much."""
        if records:
            self._bytes_a_record += (size / records - self._bytes_a_record) * min(1.0, records / self.records) / 2
        if us and records >= MIN_APPLY_RECORDS:  # Else it says more of the call than of the records.
            sample = min(us / records, MAX_JUMP * self._us_a_record)
            self._us_a_record += (sample - self._us_a_record) / AVERAGED_CALLS
        fitting = max(MIN_APPLY_RECORDS, min(self._most, int(self._target_us / max(self._us_a_record, 0.1))))
        self.records = max(1, min(fitting, int(APPLY_BYTES / max(self._bytes_a_record, 1.0))))


class SignalsHop:
    """The signals hop of one partition of profile-events, while this worker owns it."""

    def __init__(
        self,
        partition: int,
        store: Store,
        out: KafkaOut,
        folder: Folder,
        settings: Settings,
        limits: Limits | None = None,
        cache: ProfileCache | None = None,
        bound: ApplyBound | None = None,
        on_merge: Callable[[str, str], None] | None = None,
    ) -> None:
        """`on_merge`: hears of the merges that pass, (loser, winner); they have been made, by whatever worker."""
        self.partition = partition
        self.tag = keys.profiles_tag(partition)
        self.head_key = self.tag + ":head"
        self._store = store
        self._out = out
        self._folder = folder
        self._settings = settings
        self._limits = limits or Limits(PROFILE_EVENTS, settings)
        self._head = Head(store, self.head_key)
        self.next = 0
        self.clock_ms = 0
        self.gauges: dict[str, int] = {}
        self.models: Models = {}
        self._src: dict[int, tuple[int, int]] = {}
        self._ranked: dict[str, str] = {}
        """Site -> the rules by which all of its ranks are."""
        self._scan = ("", "", 0)
        """(site, rules, cursor) of ranks that are being made anew."""
        self._outbox: list[Outgoing] = []
        self._on_merge = on_merge
        self._bound = bound or ApplyBound(settings)
        self._kept = (cache or ProfileCache(settings.profile_cache_bytes)).view()
        self._profiles: dict[tuple[str, str], Profile] = {}
        """Those of the chunk under way: changed in place, so they go back to `_kept` when Redis has the changes."""

    async def claim(self, first: int | None) -> int | None:
        """Take the partition over and load its memory: the offset to go on at; None = there is none, say `first`."""
        store = self._store
        next = await self._head.claim(first)
        if next is None:
            return None
        self.next = next
        clock, src, gauges, models, ranked, out = await asyncio.gather(
            store.run("HGET", self.head_key, "clock_ms"),
            store.run("HGETALL", f"{self.tag}:src"),
            store.run("HGETALL", keys.gauges_key(self.partition)),
            store.run("HVALS", f"{self.tag}:models"),
            store.run("HGETALL", keys.ranked_key(self.partition)),
            store.run("LRANGE", f"{self.tag}:out", 0, -1),
        )
        self.clock_ms = int(clock or 0)
        for partition, place in src.items():
            offset, sub = place.split(b":")
            self._src[int(partition)] = (int(offset), int(sub))
        self.gauges = {field.decode(): int(n) for field, n in gauges.items()}
        self.models = _by_signal(map(decode_model, models))
        self._ranked = {site.decode(): rules.decode() for site, rules in ranked.items()}
        self._outbox = [unpack_outgoing(o) for o in out]
        return self.next

    async def process(self, chunk: Chunk) -> int:
        """Fold and apply a chunk; how many events it had. Raises Lost, Unavailable, ProduceError: then drop
        this (folding has changed its memory) and claim again."""
        await self._publish()
        applied, done = 0, 0
        while done < len(chunk.records):
            records = chunk.records[done : done + self._bound.records]
            decoded = self._decode(records)
            if decoded.moves > MOVES_AT_ONCE:
                moves = [index for index, item in decoded.items if isinstance(item, Merge | Handover)]
                records = records[: moves[MOVES_AT_ONCE]]
                decoded = self._decode(records)
            done += len(records)
            if decoded.moves and self._on_merge is not None:
                for _, item in decoded.items:
                    if isinstance(item, Merge):
                        self._on_merge(item.loser, item.winner)
            for unmerge in decoded.unmerges:
                await split(self._store, unmerge, self._settings)
            applied += await self._take_in(records, decoded)
        await self._rank_again()
        return applied

    async def _take_in(self, records: Sequence[Any], decoded: Decoded) -> int:
        """Load what the records are about, fold and apply them."""
        due = await self._load(decoded.profiles, decoded.clock_ms)
        if self._too_many(due, decoded):
            return await self._process_in_parts(records, decoded)
        return await self._apply(records, decoded, due, records[-1].offset + 1)

    async def _rank_again(self) -> None:
        """The rules of scores were changed: rank some more profiles by them. Again from the start after a crash."""
        rules = self._folder.rank_rules
        site = next((site for site, now in rules.items() if self._ranked.get(site, now) != now), None)
        if site is None:
            return
        if self._scan[:2] != (site, rules[site]):
            self._scan = (site, rules[site], 0)
        zset = keys.rank_key(self.partition, site)
        cursor, places = await self._store.run("ZSCAN", zset, self._scan[2], "COUNT", RANKED_AT_ONCE)
        wanted = {(site, id.decode()) for id, _ in places}
        await self._load(wanted, None)
        fx = self._folder.rank_again([self._profiles[key] for key in sorted(wanted)], self.clock_ms)
        if int(cursor) == 0:
            fx.ranked[site] = rules[site]
        await self._write(fx, self.next)
        self._scan = (site, rules[site], int(cursor))
        self._took(fx)

    async def _write(self, fx: Effects, next: int, records: int = 0) -> None:
        """Effects -> Redis. Raises TooMuch, before anything is written, where they are of several records."""
        blob = self._folder.blob(fx, epoch=self._head.epoch, seq=self._head.seq, base=self.next, next=next)
        size = sum(sum(map(len, fields[1::2])) for _, fields in blob["writes"]) + sum(map(len, blob["out"]))
        if size > MOST_APPLY_BYTES and records > 1:
            self._bound.took(records, 0, size)
            raise TooMuch
        took_us = await self._head.write("apply", blob)
        self._ranked.update(fx.ranked)
        metrics.APPLY_BYTES.observe(size)
        metrics.APPLY_SECONDS.observe(took_us / 1e6)
        self._bound.took(records, took_us, size)

    def _took(self, fx: Effects) -> None:
        """The effects are in Redis: so they are in memory."""
        for field, difference in fx.gauges.items():
            self.gauges[field] = self.gauges.get(field, 0) + difference
        self._kept.keep(self._profiles.values())
        self._profiles = {}

    def _decode(self, records: Sequence[Any]) -> Decoded:
        return decode([r.value for r in records], self.partition, [r.offset for r in records])

    async def _process_in_parts(self, records: Sequence[Any], decoded: Decoded) -> int:
        """Very many timers are due: everything before the first clock record, then its timers in several applies, then
        the rest. The same effects, in the same order, as if one apply could be as large as it liked."""
        first = next(index for index, item in decoded.items if isinstance(item, int))
        applied = 0
        if first:
            part = self._decode(records[:first])
            await self._load(part.profiles, None)
            applied = await self._apply(records[:first], part, (), records[first].offset)
        clock = self._decode([records[first]])
        while self._too_many(due := await self._load(set(), clock.clock_ms), clock):
            # The head stays before the clock record until its last timers have fired.
            await self._apply([], clock, due, self.next, clock_ms=self.clock_ms)
        await self._apply([records[first]], clock, due, records[first].offset + 1)
        rest = records[first + 1 :]
        if rest:
            applied += await self._take_in(rest, self._decode(rest))
        return applied

    def _too_many(self, due: Sequence[tuple[str, str]], decoded: Decoded) -> bool:
        """Whether there may be more timers to fire than `due`. A clock record behind the clock (written by a former
        owner of partition 0) fires none, so none would ever become fewer by it."""
        return len(due) >= DUE_LIMIT and decoded.clock_ms is not None and decoded.clock_ms > self.clock_ms

    async def _load(self, profiles: Iterable[tuple[str, str]], clock_ms: int | None) -> list[tuple[str, str]]:
        """Bring profiles into the chunk; which ones have a timer due <= clock_ms (these too), at most DUE_LIMIT."""
        due: list[tuple[str, str]] = []
        missing = self._take(profiles)
        if missing or clock_ms is not None:
            due = await self._fetch(missing, clock_ms)
            await self._fetch(self._take(due), None)
            for key in due:
                profile = self._profiles[key]
                if clock_ms is not None and (profile.stored_due_ms is None or profile.stored_due_ms > clock_ms):
                    profile.stored_due_ms = -1  # The index says otherwise: it is to be written.
        return due

    def _take(self, keys: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        """Bring profiles from memory into the chunk; which ones are not there."""
        missing = []
        for key in keys:
            if key not in self._profiles:
                profile = self._kept.get(key)
                if profile is None:
                    missing.append(key)
                else:
                    self._profiles[key] = profile
        metrics.PROFILES_READ.inc(len(missing))
        return missing

    async def _fetch(self, wanted: Sequence[tuple[str, str]], clock_ms: int | None) -> list[tuple[str, str]]:
        if not wanted and clock_ms is None:
            return []
        due: list[tuple[str, str]] = []
        parts = [wanted[first : first + LOAD_AT_ONCE] for first in range(0, len(wanted) or 1, LOAD_AT_ONCE)]
        answers = await asyncio.gather(*(
            self._store.call(
                "load",
                self.head_key,
                [[f"{site}:{id}" for site, id in part], False if i or clock_ms is None else clock_ms, DUE_LIMIT],
            )
            for i, part in enumerate(parts)
        ))  # fmt: skip
        for part, answer in zip(parts, answers, strict=True):
            found, members, took_us = unpackb(answer)
            metrics.LOAD_SECONDS.observe(took_us / 1e6)
            for (site, id), fields in zip(part, found, strict=True):
                self._profiles[site, id] = self._folder.codec.decode(site, id, fields)
            due += [tuple(member.split("|", 1)) for member in members]
        return due

    async def _apply(
        self,
        records: Sequence[Any],
        decoded: Decoded,
        due: Sequence[tuple[str, str]],
        next: int,
        clock_ms: int | None = None,
    ) -> int:
        """Fold, apply, publish. `clock_ms` given: the head's clock stays there.

        One record never stops a partition: of a chunk whose effects can't be written, the halves are tried, down to the
        record that is to blame, which becomes a dead letter. Where it is the clock, or a timer that was due before the
        event, it is the timers' fault: they are put aside, down to the profile to blame, and it goes on."""
        try:
            return await self._step(records, decoded, due, next, clock_ms)
        except MENDED_ELSEWHERE:
            raise
        except Exception as e:
            self._forget()
            if len(records) <= 1 and await self._fire_apart(decoded, due):
                await self._load(decoded.profiles, None)
                return await self._apply(records, decoded, (), next, clock_ms)
            if not records or (len(records) == 1 and (decoded.poison or decoded.clock_ms is not None)):
                raise  # no record's fault
            if len(records) == 1:  # not TooMuch: that is of several
                log.exception("%s[%d]: offset %d", PROFILE_EVENTS, self.partition, records[0].offset)
                bad = Poison(0, "fold_failed", f"{type(e).__name__}: {e}")
                return await self._step(records, Decoded([], set(), None, [bad]), (), next, clock_ms)
        middle = len(records) // 2
        applied = await self._take_in(records[:middle], self._decode(records[:middle]))
        return applied + await self._take_in(records[middle:], self._decode(records[middle:]))

    def _forget(self) -> None:
        """What the fold made of the chunk's profiles is not in Redis."""
        self._kept.forget(self._profiles.values())
        self._profiles = {}

    async def _fire_apart(self, decoded: Decoded, due: Sequence[tuple[str, str]]) -> bool:
        """Fire the timers of one record, whose effects can't be written, before it and apart: whether there are any."""
        if due and decoded.clock_ms is not None:
            await self._fire_some(decoded.clock_ms, due)
            return True
        for _, item in decoded.items:
            if isinstance(item, ProfileEvent):
                key = (item.site, item.profile_id)
                await self._load([key], None)
                due_ms = self._profiles[key].due_ms
                if due_ms is not None and due_ms <= item.timestamp_ms:
                    await self._put_aside(key, item.timestamp_ms)
                    return True
        return False

    async def _fire_some(self, clock_ms: int, due: Sequence[tuple[str, str]]) -> None:
        """Fire the profiles' timers; of those that can't be fired together the halves, down to the one to blame, which
        is put aside. The head stays before the clock record."""
        await self._load(due, None)
        for key in due:
            self._profiles[key].stored_due_ms = -1  # The index may say otherwise: it is to be written.
        try:
            await self._step([], Decoded([(0, clock_ms)], set(), clock_ms, []), due, self.next, self.clock_ms)
        except MENDED_ELSEWHERE:
            raise
        except Exception:
            self._forget()
            middle = len(due) // 2
            if not middle:
                log.exception("The timers of profile %s:%s can't be fired", *due[0])
                await self._put_aside(due[0], clock_ms)
                return
            await self._fire_some(clock_ms, due[:middle])
            await self._fire_some(clock_ms, due[middle:])

    async def _put_aside(self, key: tuple[str, str], until_ms: int) -> None:
        """Timers of a profile due <= until_ms are tried again later; its state stays as it is."""
        await self._load([key], None)
        fx = self._folder.timers.put_aside(self._profiles[key], until_ms, self.clock_ms)
        self._profiles[key].stored_due_ms = -1
        await self._write(fx, self.next)
        self._measure(Decoded([], set(), None, []), fx)
        self._took(fx)

    async def _step(
        self,
        records: Sequence[Any],
        decoded: Decoded,
        due: Sequence[tuple[str, str]],
        next: int,
        clock_ms: int | None,
    ) -> int:
        fx = self._folder.fold(decoded, self._profiles, due, self._src, self.clock_ms, self.models)
        if clock_ms is not None:
            fx.clock_ms = clock_ms
        tally = self._limits.check(self.partition, *_verdicts(records, decoded, fx))
        letters = [
            dead_letter(self._out, "signals", PROFILE_EVENTS, self.partition, records[p.index], p.reason, p.detail)
            for p in (*decoded.poison, *fx.poison)
        ]
        await acked(letters)
        for site in {site for site, _ in fx.touched} - self._ranked.keys():
            fx.ranked[site] = self._folder.rank_rules.get(site, "")  # its first ones here
        await self._write(fx, next, len(records))
        self._limits.keep(tally)
        self.next = next
        self.clock_ms = fx.clock_ms
        self._src.update(fx.src)
        if fx.models:
            self.models = {**self.models, **_by_signal(fx.models)}
            metrics.MODELS.inc(len(fx.models))
        self._outbox.extend(fx.triggers)
        self._measure(decoded, fx)
        self._took(fx)
        await self._publish()
        return len(fx.received)

    async def _publish(self) -> None:
        """Outbox -> Kafka, then out of the outbox."""
        if not self._outbox:
            return
        await acked({self._send(t) for t in self._outbox})
        await self._head.write("trim", [self._head.epoch, self._head.seq, len(self._outbox)])
        now_ms = time() * 1000
        for t in self._outbox:
            if t.kind == MOVED:
                metrics.MOVED.inc()
                continue
            metrics.FIRED.labels(t.kind).inc()
            metrics.TRIGGER_DELAY.labels(t.kind).observe(max(0.0, (now_ms - t.at_ms - MARGIN_MS) / 1000))
        self._outbox = []

    def _send(self, t: Outgoing) -> asyncio.Future[None]:
        if t.kind == MOVED:
            return self._out.append(t.topic, t.key, t.value, None, partition_of(t.key, self._settings.partitions))
        return self._out.append(t.topic, t.key, t.value, None, 0, HEADERS)

    def _measure(self, decoded: Decoded, fx: Effects) -> None:
        now_ms = time() * 1000
        for received_at_ms in fx.received[:: max(1, len(fx.received) // 20)]:
            metrics.E2E_SECONDS.observe(max(0.0, (now_ms - received_at_ms) / 1000))
        for name_labels, n in fx.metrics.items():
            metrics.count(*name_labels, n)
        for kind, reason in fx.suppressed:
            metrics.SUPPRESSIONS.labels(kind, reason).inc()
        for poison in (*decoded.poison, *fx.poison):
            metrics.DEAD_LETTERS.labels(poison.reason).inc()
        if fx.taken_over:
            metrics.TAKEN_OVER.inc(fx.taken_over)
        if fx.repeats:
            metrics.REPEATS.inc(fx.repeats)


def _by_signal(models: Iterable[Model]) -> Models:
    return {(m.site, m.signal): m for m in models}


def _verdicts(records: Sequence[Any], decoded: Decoded, fx: Effects) -> tuple[int, list[Verdict]]:
    """For the limits of poison: how many of the records are events, or should be, and what became of them."""
    poison = {p.index: p.reason for p in (*decoded.poison, *fx.poison)}
    if not poison:
        return len(fx.received) + fx.repeats, []
    events = sorted({*poison, *(index for index, item in decoded.items if not isinstance(item, int | Model))})
    return len(events), [Verdict(records[index].offset, poison.get(index)) for index in events]
