"""The hops over a real Redis, chunk by chunk, without Kafka."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import pytest

from stream import metrics, signals_hop
from stream.deadlines import OwnClock, Spooled, clock_ms
from stream.fold import Folder
from stream.recovery import Logged, Records, Recovery, split
from stream.redis_store import Lost, Store
from stream.resolve import Merged, Resolve, _heads
from stream.signals import SIGNALS
from stream.signals_hop import MARGIN_MS, SignalsHop
from stream.transport import Chunk
from tests.harness import embedded_redis
from tracker.contract import codec, keys
from tracker.contract.durations import HOUR_MS
from tracker.contract.events import decode_profile_event, encode_clock
from tracker.contract.ids import Identifier
from tracker.contract.loading import load
from tracker.contract.merges import Merge, Unmerge, encode_merge, split_profile_id
from tracker.contract.producer import KafkaOut
from tracker.contract.topics import DEAD_LETTERS, EVENTS, MERGES, PROFILE_EVENTS

pytestmark = pytest.mark.integration
T0 = 1_795_000_000_000
SETTINGS = load({"TRACKER_DEMO": "1", "TRACKER_PARTITIONS": "8"})


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    url, child = await asyncio.to_thread(embedded_redis, tmp_path)
    store = Store(url)
    try:
        await store.start()
        yield store
    finally:
        await store.stop()
        child.stop()


class Log:
    """Kafka, as far as hop 1 and its recovery see it: acks at once."""

    def __init__(self) -> None:
        self.records: list[tuple[str, int, bytes]] = []
        self.reads = 0
        self.since_ms = 0
        """Of the last read."""

    def append(self, topic: str, key: bytes, value: bytes, _: Any, partition: int) -> asyncio.Future[None]:
        self.records.append((topic, partition, value))
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    def extend(self, topic: str, partition: int, records: list[tuple[bytes, bytes]]) -> set[asyncio.Future[None]]:
        return {self.append(topic, key, value, None, partition) for key, value in records}

    async def tail(self, since_ms: int) -> AsyncIterator[Records]:
        self.reads += 1
        self.since_ms = since_ms
        for topic in (MERGES, PROFILE_EVENTS):
            yield [r for r in self.records if r[0] == topic]

    def events(self, since: int = 0) -> list[tuple[str, tuple[int, int]]]:
        """(profile id, (source, offset)) of what was published from the record `since` on."""
        found = [json.loads(value) for topic, _, value in self.records[since:] if topic == PROFILE_EVENTS]
        return [(e["profileId"], (e["src"][0], e["src"][1])) for e in found if "src" in e]

    def merges(self) -> set[tuple[str, str]]:
        return {(m["loser"], m["winner"]) for topic, _, value in self.records if topic == MERGES
                for m in [json.loads(value)]}  # fmt: skip


def no_kafka() -> KafkaOut:
    """A producer that was never started: these tests' chunks give it nothing."""
    return KafkaOut(
        "", linger_ms=1, max_pending_bytes=1, produce_timeout_s=1, client_id="t", observer=metrics.Producing()
    )


def chunk(topic: str, base: int, *values: bytes) -> Chunk:
    records = [SimpleNamespace(offset=base + n, key=None, value=value) for n, value in enumerate(values)]
    return Chunk(SimpleNamespace(topic=topic, partition=0), 1, base, records)  # type: ignore[arg-type]


def added(n: int, ts: int = T0) -> bytes:
    """Somebody of their own puts something into a cart."""
    return json.dumps(
        {
            "profileId": f"p{n}", "src": [3, n, 0], "site": "demo", "type": "track", "event": "Product Added",
            "messageId": f"m{n}", "timestampMs": ts, "receivedAtMs": T0, "channel": "site", "anonymousId": f"a{n}",
            "properties": {"product_id": "x", "price": 1},
        }
    ).encode()  # fmt: skip


async def signals(store: Store, monkeypatch: pytest.MonkeyPatch) -> SignalsHop:
    monkeypatch.setattr(signals_hop, "DUE_LIMIT", 4)
    hop = SignalsHop(0, store, no_kafka(), Folder(SIGNALS, SETTINGS), SETTINGS)
    await hop.claim(0)
    return hop


async def test_timers_of_profiles_that_are_gone_leave_the_index_and_hold_nothing_up(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    hop = await signals(store, monkeypatch)
    await hop.process(chunk(PROFILE_EVENTS, 0, *(added(n) for n in range(9))))
    for n in range(9):
        await store.run("DEL", f"{{p0}}:v:demo:p{n}")
    hop = await signals(store, monkeypatch)  # another worker, with nothing in its cache
    async with asyncio.timeout(10):
        await hop.process(chunk(PROFILE_EVENTS, 9, encode_clock(T0 + 10**9)))
    assert hop.next == 10
    assert await store.run("ZCARD", "{p0}:due") == 0


async def test_a_clock_record_behind_the_clock_passes_while_many_late_timers_are_due(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    hop = await signals(store, monkeypatch)
    await hop.process(chunk(PROFILE_EVENTS, 0, encode_clock(T0)))
    past = T0 - 23 * HOUR_MS // 2
    await hop.process(chunk(PROFILE_EVENTS, 1, *(added(n, past) for n in range(9))))
    async with asyncio.timeout(10):  # A former owner of partition 0 wrote it.
        await hop.process(chunk(PROFILE_EVENTS, 10, encode_clock(T0 - 1)))
    assert (hop.next, hop.clock_ms) == (11, T0)
    assert await store.run("ZCARD", "{p0}:due") == 9


def event(n: int, **ids: str) -> bytes:
    return json.dumps(
        {
            "site": "demo", "type": "page", "messageId": f"m{n}", "timestampMs": T0 + n, "receivedAtMs": T0 + n,
            "channel": "site", **ids,
        }
    ).encode()  # fmt: skip


async def decisions(store: Store, site: str, chunks: list[list[dict[str, str]]]) -> list[str]:
    """The profile ids that a new owner gives to events with these identifiers."""
    hop = Resolve(0, store, no_kafka(), SETTINGS)
    await hop.claim(0)
    found: list[str] = []
    n = 0
    for ids in chunks:
        values = [event(n + i, **each).replace(b'"demo"', f'"{site}"'.encode()) for i, each in enumerate(ids)]
        n += len(values)
        heads = _heads([*values])
        hashes = [codec.message_hash(site, f"m{n - len(values) + i}") for i in range(len(values))]
        decided, _ = await hop._decide(values, heads, hashes)
        found += [decided[i : i + 16].hex() for i in range(0, len(decided), 16)]
    return found


async def test_who_an_event_is_from_does_not_depend_on_where_chunks_are_cut(store: Store) -> None:
    rng = random.Random(7)
    for round in range(40):
        ids = []
        for _ in range(12):
            some = {"anonymousId": rng.choice(["a", "b"]), "userId": rng.choice(["u", "v"])}
            for name in rng.sample(list(some), rng.choice([0, 1])):
                del some[name]
            ids.append(some)
        results = []
        for cut in (1, 3, 12):
            got = await decisions(store, f"s{round}-{cut}", [ids[i : i + cut] for i in range(0, 12, cut)])
            first: dict[str, int] = {}  # Profile ids of different sites differ: compare who is who.
            results.append([first.setdefault(id, len(first)) for id in got])
        assert results[0] == results[1] == results[2], ids


async def test_a_merge_that_one_partition_makes_is_known_to_all_of_the_worker_at_once(store: Store) -> None:
    merged = Merged()
    device, user = (Resolve(p, store, no_kafka(), SETTINGS, None, merged) for p in range(2))
    values = [
        event(0, anonymousId="a"),
        event(1, userId="u"),
        event(2, anonymousId="a", userId="u"),
        event(3, userId="u"),
    ]

    async def decided(hop: Resolve, n: int) -> bytes:
        return (await hop._decide([values[n]], _heads([values[n]]), [n]))[0]

    first, other = await decided(device, 0), await decided(user, 1)
    assert first != other
    assert await decided(device, 2) == first
    assert await decided(user, 3) == first  # from its cache, where it is still the other
    assert merged.follow(other) == first


async def test_a_merge_that_another_worker_made_is_known_when_it_passes_in_the_log(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    merged, winner, loser = Merged(), *(codec.new_profile_id("demo", "user_id", id) for id in "uv")
    hop = SignalsHop(0, store, no_kafka(), Folder(SIGNALS, SETTINGS), SETTINGS, None, None, None, merged.hear)
    await hop.claim(0)
    merge = Merge(merge_id="1", site="demo", winner=winner, loser=loser, rule="r", message_id="m", at_ms=T0)
    odd = Merge(merge_id="2", site="demo", winner="p2", loser="p1", rule="r", message_id="m", at_ms=T0)
    await hop.process(chunk(PROFILE_EVENTS, 0, encode_merge(merge), encode_merge(odd)))
    assert merged.follow(UUID(loser).bytes) == UUID(winner).bytes
    assert hop.next == 2


@pytest.mark.parametrize(
    ("of_head_h", "of_repeat_h"),
    [(-40, -60), (0, 1)],
    ids=["of a backlog that is caught up with", "of an endpoint whose clock is ahead"],
)
async def test_the_dedupe_window_is_loaded_by_the_time_of_receipt(
    store: Store, of_head_h: int, of_repeat_h: int
) -> None:
    hour = int(time.time() * 1000) // HOUR_MS
    await Resolve(0, store, no_kafka(), SETTINGS).claim(0)
    repeat = codec.message_hash("demo", "m1")
    await store.run("APPEND", f"{{e0}}:seen:{hour + of_repeat_h}", repeat.to_bytes(8, "big"))
    await store.run("HSET", "{e0}:head", "received_at_ms", (hour + of_head_h) * HOUR_MS)
    owner = Resolve(0, store, no_kafka(), SETTINGS)
    await owner.claim(None)
    assert owner._seen.among([repeat])


async def test_an_endpoint_whose_clock_is_years_ahead_makes_nobody_forget_what_was_seen(store: Store) -> None:
    log = Log()
    hop = Resolve(0, store, cast(Any, log), SETTINGS)
    await hop.claim(0)
    now_ms = int(time.time() * 1000)
    first, ahead = (
        json.dumps(json.loads(event(n, anonymousId="a")) | {"receivedAtMs": ms, "timestampMs": ms}).encode()
        for n, ms in ((1, now_ms), (2, now_ms + 2 * 366 * 24 * HOUR_MS))
    )
    await hop.process(chunk(EVENTS, 0, first, ahead))
    await hop.process(chunk(EVENTS, 2, first, ahead))
    after = Resolve(0, store, cast(Any, log), SETTINGS)
    await after.claim(None)
    await after.process(chunk(EVENTS, 4, first, ahead))
    assert [e["messageId"] for _, _, value in log.records for e in [json.loads(value)]] == ["m1", "m2"]


class Ends:
    """Of empty partitions."""

    async def end_offsets(self, tps: list[Any]) -> dict[Any, int]:
        return dict.fromkeys(tps, 0)


@pytest.mark.parametrize(("ahead_s", "taken_s"), [(3600, 0.0), (2, 0.0), (0.5, 0.5), (0, 0.0), (-3600, -3600.0)])
async def test_a_machine_whose_clock_runs_ahead_makes_nothing_due_before_its_time(
    store: Store, caplog: pytest.LogCaptureFixture, ahead_s: float, taken_s: float
) -> None:
    began_ms = time.time() * 1000
    own = OwnClock(lambda: time.time() + ahead_s)
    for _ in range(2):
        t = await clock_ms(store, cast(Any, Ends()), 8, Spooled(None), own)
        assert t is not None
        assert began_ms - 1 <= t + MARGIN_MS - taken_s * 1000 <= time.time() * 1000
    assert metrics.CLOCK_AHEAD._value.get() == pytest.approx(max(0.0, ahead_s), abs=0.4)
    told = [record.getMessage() for record in caplog.records if "ahead of Redis" in record.getMessage()]
    assert len(told) == (ahead_s > 1)


async def test_the_clock_removes_what_processes_said_that_were_killed_long_ago(store: Store) -> None:
    now_ms = int(time.time() * 1000)
    live = b"%d:%d" % (now_ms - 5000, now_ms + 90_000)
    await store.run("HSET", keys.WAITS_KEY, "live", live, "killed", f"1:{now_ms - 2 * HOUR_MS}", "odd", "\0:")
    assert await clock_ms(store, cast(Any, Ends()), 8, Spooled(None)) == now_ms - 5000
    assert await store.run("HGETALL", keys.WAITS_KEY) == {b"live": live}


async def owner_of(store: Store, id: Identifier) -> str | None:
    found = await store.run("GET", keys.identifier_key("demo", *id))
    return found.decode() if found else None


async def unmerged(store: Store, profile: str, *ids: Identifier) -> str:
    """The new profile's id."""
    new = split_profile_id("demo", "1")
    await split(
        store,
        Unmerge(unmerge_id="1", site="demo", profile_id=profile, new_profile_id=new, ids=list(ids), at_ms=T0),
        SETTINGS,
    )
    return new


@pytest.mark.parametrize("asked_of_the_log", [False, True])
async def test_who_has_lost_a_partition_links_nobody_again_that_was_taken_apart(
    store: Store, asked_of_the_log: bool
) -> None:
    """It was stopped with a chunk in its hands, which the new owner has passed on meanwhile; then came an unmerge."""
    log = Log()
    old, new = (Resolve(0, store, cast(Any, log), SETTINGS) for _ in range(2))
    await old.claim(0)
    both = event(0, anonymousId="a", userId="u")
    await old.process(chunk(EVENTS, 0, event(9, anonymousId="a")))
    await new.claim(None)
    if asked_of_the_log:  # Redis had lost the decision
        profile = codec.new_profile_id("demo", "anonymous_id", "a")
        await store.run("SET", keys.identifier_key("demo", "user_id", "u"), profile)
        await store.run("HSET", f"{{s:demo}}:ids:{profile}", "user_id:u", T0)
        new._logged = Logged(1)
        new._logged.decided[1] = (UUID(profile).bytes, False)
    await new.process(chunk(EVENTS, 1, both))
    profile = cast(str, await owner_of(store, ("anonymous_id", "a")))
    other = await unmerged(store, profile, ("user_id", "u"))
    with pytest.raises(Lost):
        await old.process(chunk(EVENTS, 1, both))
    assert await owner_of(store, ("anonymous_id", "a")) == profile
    assert await owner_of(store, ("user_id", "u")) == other
    assert log.merges() == set()
    assert await store.run("LLEN", keys.merges_key("demo")) == 0


async def test_an_epoch_that_only_a_site_remembers_is_passed_by_the_next_claim(store: Store) -> None:
    """As when one node of a cluster lost its last second, and its replica's clock is behind."""
    log, recovery = Log(), Recovery(store, SETTINGS)

    def owner() -> Resolve:
        return Resolve(0, store, cast(Any, log), SETTINGS, recovery=recovery)

    await owner().claim(0)
    ahead = int(time.time() * 1e6) + 60 * 10**6
    await store.run("HSET", "{s:demo}:epochs", 0, ahead)
    hop = owner()
    await hop.claim(None)
    with pytest.raises(Lost, match="epoch"):
        await hop.process(chunk(EVENTS, 0, event(0, anonymousId="a")))
    hop = owner()
    await hop.claim(None)
    assert await hop.process(chunk(EVENTS, 0, event(0, anonymousId="a"))) == 1
    assert int(await store.run("HGET", "{e0}:head", "epoch")) > ahead


async def test_what_only_the_stream_may_say_of_an_event_is_ours_whatever_its_record_says(store: Store) -> None:
    """Somebody who can write to Kafka, or another version, has written it."""
    foreign = [
        b'"profileId":"%s"' % codec.new_profile_id("demo", "user_id", "other").encode(), b'"src":[0,0,0]',
        b'"profile\\u0049d":"p"', b'"hops":64,"counted":true', b'"src":null,"counted":null', b'"hops":{},"src":1',
        b'"\xff":1,"src":[0,0,0]',
    ]  # fmt: skip
    log = Log()
    hop = Resolve(0, store, cast(Any, log), SETTINGS)
    await hop.claim(0)
    plain = [event(n, anonymousId="a") for n in range(len(foreign))]
    records = [value[:-1] + b"," + more + b"}" for value, more in zip(plain, foreign, strict=True)]
    await hop.process(chunk(EVENTS, 7, *records))
    assert [json.loads(value)["offset"] for topic, _, value in log.records if topic == DEAD_LETTERS] == [13]
    passed = [record for record in log.records if record[0] == PROFILE_EVENTS]
    profile = codec.new_profile_id("demo", "anonymous_id", "a")
    decoded = [decode_profile_event(value) for _, _, value in passed]
    assert [(e.profile_id, e.src, e.counted, e.hops) for e in decoded] == [
        (profile, (0, 7 + n, 0), False, 0) for n in range(len(foreign) - 1)
    ]
    assert [json.loads(value) for _, _, value in passed] == [
        {"profileId": profile, "src": [0, 7 + n, 0], **json.loads(plain[n])} for n in range(len(foreign) - 1)
    ]


async def test_effects_that_are_too_large_for_one_step_are_written_in_several(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signals_hop, "APPLY_BYTES", 2_000)
    monkeypatch.setattr(signals_hop, "MOST_APPLY_BYTES", 3_000)
    monkeypatch.setattr(signals_hop, "LOAD_AT_ONCE", 3)
    hop = SignalsHop(0, store, no_kafka(), Folder(SIGNALS, SETTINGS), SETTINGS)
    await hop.claim(0)
    written: list[int] = []
    monkeypatch.setattr(metrics.APPLY_BYTES, "observe", written.append)
    twice = [added(n) for n in range(40)] + [
        json.dumps(json.loads(added(n)) | {"messageId": f"again{n}", "src": [3, 100 + n, 0]}).encode()
        for n in range(40)
    ]
    await hop.process(chunk(PROFILE_EVENTS, 0, *twice, encode_clock(T0 + 1)))
    assert (hop.next, hop.clock_ms) == (81, T0 + 1)
    assert len(written) > 10
    assert max(written) <= 3_000
    assert hop._bound.records < 10
    after = SignalsHop(0, store, no_kafka(), Folder(SIGNALS, SETTINGS), SETTINGS)
    await after.claim(None)
    assert after.gauges == hop.gauges
    assert (hop.gauges["carts_open|demo"], hop.gauges["profiles_known|demo"]) == (40, 40)
    assert await store.run("HGET", f"{{p0}}:c:demo:site:m:{T0 // 60_000 * 60}", "total") == b"80"
