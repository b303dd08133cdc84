"""Counters and visitors in the real Redis: what the signals hop writes, what is rolled up, what the API reads."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import pytest
from faust.types import TP
from msgspec.structs import replace
from redis.asyncio import Redis

from stream import blob, records
from stream.fold import Folder
from stream.fold_merges import take_visits
from stream.profile import Profile
from stream.redis_store import Store
from stream.rollups import roll
from stream.signals import SIGNALS, chosen
from stream.signals_hop import SignalsHop
from stream.transport import Chunk
from tracker.contract import keys
from tracker.contract.codec import new_profile_id
from tracker.contract.loading import load
from tracker.contract.settings import Settings
from tracker.contract.topics import PROFILE_EVENTS
from tracker.contract.windows import Zone
from tracker.counters import read_carts, read_counters, read_visitors
from tracker.reports.feedback import read_feedback
from tracker.reports.messages import read_messages
from tracker.reports.retention import read_retention
from tracker.reports.sales import read_sales
from tracker.reports.steps import read_steps
from tracker.reports.usage import read_usage

pytestmark = pytest.mark.integration
VN = ZoneInfo("Asia/Ho_Chi_Minh")
ZONE = Zone("Asia/Ho_Chi_Minh")
NOW_MS = 1_795_580_407_000
NOW_S = NOW_MS // 1000
DAY_MS = 86_400_000
PAGES = ("/", "/a", "/b?x=1", "https://shop.example/a/")

COUNTING = ("cart", "purchase", "reorder", "score", "usage")
"""Signals that count something here."""


class Bench:
    """Hops of made-up partitions over one Redis; no triggers come of what is on, so no Kafka."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self.store, self.settings = store, settings
        off = (s.name for s in SIGNALS if s.tells and s.name not in COUNTING)
        self.folder = Folder(chosen(replace(settings, signals_off=",".join(off))), settings)
        self.hops: dict[int, SignalsHop] = {}
        self.n = time.time_ns() // 1000  # places in the log of events, above those of earlier tests

    async def hop(self, partition: int) -> SignalsHop:
        hop = self.hops.get(partition)
        if hop is None:
            out: Any = None
            hop = self.hops[partition] = SignalsHop(partition, self.store, out, self.folder, self.settings)
            assert await hop.claim(0) is not None  # at 0, or where an earlier test left it
        return hop

    async def take(self, partition: int, events: Iterable[dict[str, Any]]) -> None:
        hop = await self.hop(partition)
        records: list[Any] = []
        for event in events:
            self.n += 1
            body = {"src": [0, self.n, 0], "messageId": f"m{self.n}", "channel": "site", "type": "track", **event}
            body.setdefault("receivedAtMs", max(NOW_MS, body["timestampMs"]))
            records.append(SimpleNamespace(offset=hop.next + len(records), value=json.dumps(body).encode()))
        await hop.process(Chunk(TP(PROFILE_EVENTS, partition), 1, hop.next, records))


@pytest.fixture
def own_db(redis_url: str) -> str:
    """A database that no worker writes to: these tests take the partitions 0 to 3."""
    return urlsplit(redis_url)._replace(path="/9").geturl()


@pytest.fixture
async def redis(own_db: str) -> AsyncIterator[Redis]:
    client = Redis.from_url(own_db, decode_responses=True)
    try:
        yield client
    finally:
        await client.aclose()


@pytest.fixture
async def bench(own_db: str) -> AsyncIterator[Bench]:
    settings = load({"TRACKER_DEMO": "1"}, redis=own_db, partitions=4)
    store = Store(settings.redis)
    await store.start()
    made = Bench(store, settings)
    try:
        yield made
    finally:
        await store.stop()


def visitor(site: str, n: int) -> str:
    return new_profile_id(site, "anonymous_id", f"v{n}")


def page(site: str, at_ms: int, path: str) -> dict[str, Any]:
    about = {"site": site, "profileId": visitor(site, 1), "type": "page", "timestampMs": at_ms}
    return about | {"properties": {"path": path}}


def new_site() -> str:
    return f"c{random.randrange(10**12)}"


def some_events(site: str, count: int, seed: int) -> list[dict[str, Any]]:
    """Page views, products and orders of some visitors, some of them very late."""
    draw = random.Random(seed)
    made = []
    for _ in range(count):
        late_ms = draw.choice([0, 0, 40_000, 4_000_000, DAY_MS, 20 * DAY_MS, 89 * DAY_MS])
        at_ms, channel = NOW_MS - draw.randrange(120_000) - late_ms, draw.choice(["site", "email", "?"])
        event = {"site": site, "profileId": visitor(site, draw.randrange(12)), "channel": channel, "timestampMs": at_ms}
        kind = draw.randrange(3)
        if kind == 0:
            event |= {"type": "page", "properties": {"path": draw.choice(PAGES)}}
        else:
            event |= {"event": "Product Viewed", "properties": {"product_id": f"p{draw.randrange(4)}"}}
        if kind == 2:
            event["campaign"] = {"name": draw.choice(["tet", "he"]), "source": "fb"}
        made.append(event)
    return made


def naive(events: list[dict[str, Any]]) -> dict[tuple[str, str, int], Counter[str]]:
    """(family, tier, bucket) -> field -> n, by the calendar; without buckets that no window reads any more."""
    found: dict[tuple[str, str, int], Counter[str]] = {}
    for event in events:
        second = event["timestampMs"] // 1000
        local = datetime.fromtimestamp(second, VN)
        date = datetime(local.year, local.month, local.day, tzinfo=UTC)
        channel = event["channel"] if event["channel"] != "?" else "other"
        properties = event["properties"]
        fields = {"site": ["total", f"channel|{channel}", f"event|{event.get('event', 'page')}"]}
        if event.get("type") == "page":
            path = {"/b?x=1": "/b", "https://shop.example/a/": "/a"}.get(properties["path"], properties["path"])
            fields["content"] = [f"page|{path}"]
        else:
            fields["content"] = [f"product|viewed|{properties['product_id']}"]
        if "campaign" in event:
            fields["campaign"] = [f"campaign|{event['campaign']['name']}"]
        for family, names in fields.items():
            for tier, bucket in (
                ("m", second // 60 * 60), ("h", second // 3600 * 3600), ("d", int(date.timestamp()))
            ):  # fmt: skip
                if NOW_S - second // 60 * 60 > keys.TIERS[tier][1]:
                    continue
                found.setdefault((family, tier, bucket), Counter()).update(dict.fromkeys((*names, "sum"), 1))
                if len(names) > 1:
                    found[family, tier, bucket]["sum"] += len(names) - 1
    return found


async def stored(redis: Redis, partition: int, site: str) -> dict[tuple[str, str, int], Counter[str]]:
    """Of the families that events are counted in as they are."""
    found: dict[tuple[str, str, int], Counter[str]] = {}
    async for key in redis.scan_iter(f"{{p{partition}}}:c:{site}:*", count=1000):
        *_, family, tier, bucket = str(key).split(":")
        if family not in ("site", "campaign", "content"):
            continue
        found[family, tier, int(bucket)] = Counter({str(f): int(n) for f, n in (await redis.hgetall(key)).items()})
        assert 0 < await redis.ttl(key) <= keys.TIERS[tier][1]
    return found


@pytest.mark.parametrize("seed", range(4))
async def test_every_bucket_of_every_tier_is_what_a_calendar_says_however_late_and_in_whatever_chunks(
    bench: Bench, redis: Redis, seed: int
) -> None:
    site, partition = new_site(), random.randrange(1000, 10**6)
    events = some_events(site, 400, seed)
    draw, left = random.Random(seed), events
    while left:
        n = draw.randrange(1, 120)
        await bench.take(partition, left[:n])
        left = left[n:]
    assert await stored(redis, partition, site) == naive(events)
    # Visitors: the latest minute of each in each channel. A day's HyperLogLog takes two for one in a run of 250.
    for channel in ("all", "site", "email", "other", "sms"):
        of = [e for e in events if channel in ("all", {"?": "other"}.get(e["channel"], e["channel"]))]
        last: dict[str, float] = {}
        dates: dict[int, set[str]] = {}
        for e in of:
            minute = e["timestampMs"] // 60_000
            last[e["profileId"]] = max(minute, last.get(e["profileId"], 0))
            dates.setdefault(ZONE.day(minute * 60), set()).add(e["profileId"])
        kept: Any = await redis.zrange(keys.visitors_key(partition, site, channel), 0, -1, withscores=True)
        assert dict(kept) == last
        for day, ids in dates.items():
            counted = await redis.pfcount(keys.visitor_day_key(partition, site, channel, day))
            assert len(ids) - 1 <= counted <= len(ids)


async def test_large_chunks_and_large_buckets_are_added_up_exactly(bench: Bench, redis: Redis) -> None:
    """More new fields than Redis's Lua can pass at once, and buckets beyond the small form of a hash."""
    site, partition = new_site(), random.randrange(1000, 10**6)
    for _ in range(2):
        (await bench.hop(partition))._bound.records = 3000
        await bench.take(
            partition,
            [
                {"site": site, "profileId": visitor(site, n), "event": f"E{n % 1900}", "timestampMs": NOW_MS}
                for n in range(3000)
            ],
        )
    (day,) = [
        c for (family, tier, _), c in (await stored(redis, partition, site)).items() if (family, tier) == ("site", "d")
    ]
    assert day == {f"event|E{n}": 4 if n < 1100 else 2 for n in range(1900)} | {
        "total": 6000, "channel|site": 6000, "sum": 18_000
    }  # fmt: skip
    assert await redis.zcard(keys.visitors_key(partition, site, "all")) == 3000


async def test_names_beyond_a_buckets_limit_are_counted_under_no_name_and_nothing_is_lost(
    bench: Bench, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blob, "_CAPS", {**blob._CAPS, "campaign": [9] * 3, "content": [4] * 3})
    site = new_site()
    for names in (("/a", "/b"), ("/c", "/d", "/a"), ("/e", "/f", "/b")):
        await bench.take(
            0,
            [page(site, NOW_MS, path) for path in names],
        )
    answer = await read_counters(redis, bench.settings, site, "page", "5m", NOW_MS)
    named = {group["key"]: group["count"] for group in answer["groups"]}
    assert named == {"/a": 2, "/b": 2, "/c": 1}
    assert (answer["unnamed"], answer["other"]) == (3, 0)
    answer = await read_counters(redis, bench.settings, site, "content", "24h", NOW_MS, limit=1)
    assert answer["groups"] == [{"key": "page|/a", "count": 2}]
    assert (answer["unnamed"], answer["other"]) == (3, 3)


@pytest.mark.parametrize("seed", range(3))
async def test_long_windows_are_the_same_before_and_after_the_days_are_rolled_up_and_with_late_events(
    bench: Bench, redis: Redis, seed: int
) -> None:
    site = new_site()
    events = some_events(site, 300, seed)
    draw = random.Random(seed)

    async def answers() -> dict[tuple[str, str], Any]:
        found = {}
        for by in ("event", "channel", "content", "campaign"):
            for window in ("24h", "7d", "30d", "90d"):
                answer = await read_counters(redis, bench.settings, site, by, window, NOW_MS)
                found[by, window] = {group["key"]: group["count"] for group in answer["groups"]}
        return found

    def expected(since_ms: int) -> int:
        return sum(e["timestampMs"] >= since_ms for e in events)

    for start in range(0, 300, 60):
        await bench.take(draw.randrange(4), events[start : start + 60])
    before = await answers()
    for window, days in (("7d", 7), ("30d", 30), ("90d", 90)):
        assert sum(before["event", window].values()) == expected(NOW_MS - days * DAY_MS)
        assert sum(before["channel", window].values()) == sum(before["content", window].values())
    assert await roll(bench.store, bench.settings, site, ZONE, NOW_S, 90 * 86400) > 5
    assert await roll(bench.store, bench.settings, site, ZONE, NOW_S, 90 * 86400) == 0
    assert await answers() == before
    late = some_events(site, 40, seed + 100)
    events += late
    await bench.take(draw.randrange(4), late)
    after = await answers()
    assert sum(after["event", "90d"].values()) == expected(NOW_MS - 90 * DAY_MS)
    assert await roll(bench.store, bench.settings, site, ZONE, NOW_S, 90 * 86400) > 0
    assert await answers() == after


async def test_a_bucket_is_kept_from_its_first_count_on_and_longer_than_any_window_needs_it(
    bench: Bench, redis: Redis
) -> None:
    site = new_site()
    await bench.take(0, [page(site, NOW_MS, "/a")])
    kept = {}
    for tier, bucket in zip(keys.TIERS, ZONE.buckets(NOW_S), strict=True):
        key = keys.counter_key(0, site, "content", tier, bucket)
        kept[tier] = await redis.ttl(key)
        await redis.expire(key, 1000)
    assert kept["m"] > 86400 + 60
    assert kept["h"] > 90 * 86400 + 3600
    await bench.take(0, [page(site, NOW_MS, "/a")])
    assert await redis.ttl(key) <= 1000


async def test_rolled_up_days_are_what_is_read(bench: Bench, redis: Redis) -> None:
    """As long as their sum is the partitions' one: this one was tampered with, and nobody can know."""
    site, day = new_site(), ZONE.day(NOW_S - 3 * 86400)
    await bench.take(
        1, [{"site": site, "profileId": visitor(site, 1), "type": "page", "timestampMs": NOW_MS - 3 * DAY_MS}]
    )
    assert await roll(bench.store, bench.settings, site, ZONE, NOW_S, 7 * 86400) == 2  # the site's, and its steps
    key = keys.rollup_key(site, "site", day)
    assert 0 < await redis.ttl(key) <= keys.ROLLUP_KEPT_S
    await redis.hset(key, "event|page", 77)
    answer = await read_counters(redis, bench.settings, site, "event", "7d", NOW_MS)
    assert answer["groups"] == [{"key": "page", "count": 77}]


async def test_carts_are_read_by_when_they_were_opened(bench: Bench, redis: Redis) -> None:
    """Opened 3 days ago in two partitions; one is bought, then a late order shows the other to be bought, too."""
    site, at_ms = new_site(), NOW_MS - 3 * DAY_MS

    def cart(partition: int, name: str, after_ms: int, **properties: object) -> dict[str, Any]:
        """Received now: too late for triggers, for there is no Kafka here."""
        about = {"product_id": "A", "price": 10, **properties}
        profile = visitor(site, partition)
        return {"site": site, "profileId": profile, "event": name, "timestampMs": at_ms + after_ms, "properties": about}

    recovered = cart(0, "Order Completed", 7_200_000, order_id="o0", revenue=20, currency="VND")
    await bench.take(0, [cart(0, "Product Added", 0), recovered])
    await bench.take(1, [cart(1, "Product Added", 0), cart(1, "Product Added", 7_200_000)])
    await roll(bench.store, bench.settings, site, ZONE, NOW_S, 7 * 86400)
    answer = await read_carts(redis, bench.settings, site, "7d", "resolved", NOW_MS)
    assert (answer["opened"], answer["abandoned"], answer["recovered"]) == (2, 2, 1)
    assert answer["recovered_revenue"] == [{"currency": "VND", "campaign": "organic", "minor": 20}]
    assert (await read_carts(redis, bench.settings, site, "24h", "resolved", NOW_MS))["opened"] == 0
    await bench.take(1, [cart(1, "Order Completed", 60_000, order_id="o1")])
    answer = await read_carts(redis, bench.settings, site, "7d", "resolved", NOW_MS)
    # Bought after a minute, so what was added two hours later is another cart: nothing has become of that.
    assert (answer["opened"], answer["open"], answer["abandoned"], answer["converted"]) == (3, 1, 1, 1)
    assert answer["abandonment_rate"] == 0.5


async def test_reports_are_read_of_all_partitions_before_and_after_the_days_are_rolled_up(
    bench: Bench, redis: Redis
) -> None:
    """Two weeks of four visitors, one a partition. Without Redis: tests/unit/test_reports.py and its neighbours."""
    site, week_ms, settings = new_site(), 7 * DAY_MS, bench.settings

    def event(partition: int, name: str, weeks_ago: float = 0, **properties: object) -> dict[str, Any]:
        about = {
            "site": site,
            "profileId": visitor(site, partition),
            "timestampMs": NOW_MS - round(weeks_ago * week_ms),
        }
        about["channel"] = "email" if name.startswith("Email") else "site"
        return {**about, "event": name, "properties": properties, "campaign": {"name": "tet"}}

    for p in range(4):
        events = [event(p, "Email Delivered", 1, campaign_id="c1"), event(p, "Products Searched", 1)]
        events += [event(p, "Survey Response Received", 1, type="nps", score=(10, 9, 7, 0)[p], reason="price")]
        events += [event(p, "Product Added", 1, product_id="A"), event(p, "Feature Used", 1)]
        if p < 3:
            events += [event(p, "Product Viewed"), event(p, "Product Reviewed", rating=5 - p % 2)]
        events += [event(p, "Subscription Renewed" if p else "Subscription Cancelled", 1.001)]
        if p == 0:
            events += [event(p, "Email Unsubscribed", campaign_id="c1", reason="Too many"), event(p, "Feature Used")]
        await bench.take(p, events)

    async def answers() -> list[dict[str, Any]]:
        return [
            await read_messages(redis, settings, site, "campaign", "30d", 10, NOW_MS),
            await read_feedback(redis, settings, site, "channel", "30d", 10, NOW_MS),
            await read_steps(redis, settings, site, "30d", NOW_MS),
            await read_retention(redis, settings, site, 3, NOW_MS),
            await read_usage(redis, settings, site, "30d", NOW_MS),
            await read_carts(redis, settings, site, "30d", "resolved", NOW_MS, "campaign"),
            await read_carts(redis, settings, site, "30d", "resolved", NOW_MS, "product"),
            await read_sales(redis, settings, site, "30d", NOW_MS),
        ]

    found = await answers()
    messages, feedback, steps, retention, usage, carts, products, sales = found
    assert [(g["key"], g["unsubscribe_rate"]) for g in messages["groups"]] == [("c1", 0.25)]
    assert messages["reasons"][0] == {"channel": "email", "key": "too many", "count": 1, "share": 1.0}
    assert (feedback["total"]["nps"]["nps"], feedback["total"]["rating"]["mean"]) == (25.0, pytest.approx(14 / 3))
    assert feedback["reasons"] == [{"survey": "nps", "key": "price", "count": 4, "share": 1.0}]
    moves = {(m["from"], m["to"]): (m["count"], m["median_s"]) for m in steps["moves"]}
    assert moves["search", "first_use"][0] == 4
    assert moves["first_use", "learn"] == (3, pytest.approx(week_ms / 1000, rel=0.09))
    assert [(c["size"], [p["active"] for p in c["periods"]]) for c in retention["cohorts"]] == [
        (0, [0, 0]), (4, [3]), (0, []),
    ]  # fmt: skip
    assert (usage["dau"], usage["wau"], usage["mau"], usage["stickiness"]) == (1, 4, 4, 0.25)
    assert usage["active_minutes"] == 2.5
    assert [(g["key"], g["opened"], g["abandoned"]) for g in carts["groups"]] == [("tet", 4, 3)]
    assert [(g["key"], g["abandoned"], g["abandonment_rate"]) for g in products["groups"]] == [("A", 3, 1.0)]
    assert (sales["due"], sales["renewal_rate"]) == (4, 0.75)
    await roll(bench.store, settings, site, ZONE, NOW_S, 30 * 86400)
    assert await answers() == found


async def test_an_older_reading_of_a_day_never_takes_the_place_of_a_later_one(bench: Bench, redis: Redis) -> None:
    """A worker that was frozen between reading and writing, after another has taken over."""
    key = keys.rollup_key(new_site(), "site", 0)
    assert await bench.store.call("roll", key, [12, 100, ["event|a", 12]]) == 1
    assert await bench.store.call("roll", key, [11, 100, ["event|a", 10, "event|b", 1]]) == 0
    assert await redis.hgetall(key) == {"event|a": "12", "sum": "12"}


async def test_a_rollup_keeps_the_largest_names(bench: Bench, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "MAX_ROLLED_FIELDS", 2)
    site, day = new_site(), ZONE.day(NOW_S - 86400)
    at_ms = NOW_MS - DAY_MS
    for partition, names in ((0, "aab"), (1, "abcd")):
        await bench.take(
            partition,
            [page(site, at_ms, f"/{c}") for c in names],
        )
    await roll(bench.store, bench.settings, site, ZONE, NOW_S, 2 * 86400)
    assert await redis.hgetall(keys.rollup_key(site, "content", day)) == {
        "page|/a": "3", "page|/b": "2", "page|": "2", "sum": "7"
    }  # fmt: skip


async def test_visitors_are_counted_once_in_every_window_and_channel(bench: Bench, redis: Redis) -> None:
    site = new_site()
    for partition in range(4):
        events = []
        for days, channel, who in ((0, "site", 1), (0, "email", 1), (2, "site", 2), (2, "site", 1), (50, "sms", 3)):
            profile = visitor(site, 100 * partition + who)
            events.append(
                {"site": site, "profileId": profile, "channel": channel, "timestampMs": NOW_MS - days * DAY_MS}
            )
        await bench.take(partition, [e | {"type": "page"} for e in events])

    async def visitors(window: str) -> Any:
        answer = await read_visitors(redis, bench.settings, site, window, NOW_MS)
        assert answer["exact"] is True
        return answer["visitors"], {group["key"]: group["count"] for group in answer["groups"]}

    assert await visitors("1m") == (4, {"site": 4, "email": 4})
    assert await visitors("24h") == (4, {"site": 4, "email": 4})
    assert await visitors("7d") == (8, {"site": 8, "email": 4})
    assert await visitors("90d") == (12, {"site": 8, "email": 4, "sms": 4})


async def test_beyond_the_visitors_that_are_kept_the_days_are_asked(
    bench: Bench, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "MAX_VISITORS", 300)
    site = new_site()
    for days_ago in (5, 4, 0):  # 400 people, 200 of whom come on two days
        people = {5: range(200), 4: range(400), 0: range(100)}[days_ago]
        at_ms = NOW_MS - days_ago * DAY_MS
        await bench.take(
            0, [{"site": site, "profileId": visitor(site, n), "type": "page", "timestampMs": at_ms} for n in people]
        )
    answer = await read_visitors(redis, bench.settings, site, "24h", NOW_MS)
    assert (answer["visitors"], answer["exact"]) == (100, True)
    answer = await read_visitors(redis, bench.settings, site, "7d", NOW_MS)
    assert answer["exact"] is False
    assert answer["visitors"] == pytest.approx(400, rel=0.03)
    assert await redis.zcard(keys.visitors_key(0, site, "all")) == 300


async def test_a_merge_makes_two_visitors_one(bench: Bench, redis: Redis) -> None:
    site, winner, loser = new_site(), visitor("x", 1), visitor("x", 2)
    at = {winner: NOW_MS - 10 * DAY_MS, loser: NOW_MS - 3_600_000}
    await bench.take(0, [{"site": site, "profileId": winner, "type": "page", "timestampMs": at[winner]}])
    await bench.take(
        1, [{"site": site, "profileId": loser, "type": "page", "timestampMs": at[loser], "channel": "sms"}]
    )
    assert (await read_visitors(redis, bench.settings, site, "30d", NOW_MS))["visitors"] == 2

    async def known(partition: int, id: str) -> Profile:
        flat = [x for pair in (await redis.hgetall(keys.profile_key(partition, site, id))).items() for x in pair]
        return bench.folder.codec.decode(site, id, [str(x) for x in flat])

    for partition, profile in ((1, loser), (0, winner)):  # as the two owners do
        hop = await bench.hop(partition)
        fx = bench.folder.fold(records.decode([]), {}, (), {}, 0)
        other = await known(1, loser)
        if profile == loser:
            fx.visits.leave(site, loser)
        else:
            assert other.about is not None
            mine = await known(0, winner)
            take_visits(mine, other.about.channels, bench.folder.zone(site), fx)
            fx.touched[site, winner] = mine
        blob = bench.folder.blob(fx, epoch=hop._head.epoch, seq=hop._head.seq, base=hop.next, next=hop.next)
        await hop._head.write("apply", blob)
    for window, count in (("24h", {"sms": 1}), ("30d", {"site": 1, "sms": 1})):
        answer = await read_visitors(redis, bench.settings, site, window, NOW_MS)
        assert answer["visitors"] == 1
        assert {group["key"]: group["count"] for group in answer["groups"]} == count
    about: Any = await redis.hget(keys.profile_key(0, site, winner), "about")
    assert json.loads(about)["channels"] == {"site": at[winner] // 60_000, "sms": at[loser] // 60_000}


async def test_months_of_64_partitions_are_read_at_the_price_of_a_day(bench: Bench, redis: Redis) -> None:
    site, settings = new_site(), load({"TRACKER_DEMO": "1"}, redis=bench.settings.redis, partitions=64)
    fields: Any = {f"page|/p{n}": 1 for n in range(100)} | {"sum": 100}
    for partition in range(64):
        pipe = redis.pipeline(transaction=False)
        for day in range(92):
            pipe.hset(keys.counter_key(partition, site, "content", "d", ZONE.day(NOW_S) - day * 86400), mapping=fields)
        for hour in range(48):
            at = ZONE.hour(NOW_S - 30 * 86400) + (hour - 24) * 3600
            pipe.hset(keys.counter_key(partition, site, "content", "h", at), mapping=fields)
        await pipe.execute()

    async def took_ms(window: str) -> tuple[float, Any]:
        took = []
        for _ in range(5):
            started_s = time.perf_counter()
            answer = await read_counters(redis, settings, site, "page", window, NOW_MS)
            took.append((time.perf_counter() - started_s) * 1000)
        return min(took), answer

    slow_ms, before = await took_ms("30d")
    assert await roll(bench.store, settings, site, ZONE, NOW_S, 90 * 86400) == 90
    fast_ms, after = await took_ms("30d")
    print(f"30 days of 64 partitions, 100 names: {slow_ms:.0f} ms from the partitions, {fast_ms:.0f} ms rolled up")
    assert after == before
    assert len(after["groups"]) == 100
    assert fast_ms < slow_ms
