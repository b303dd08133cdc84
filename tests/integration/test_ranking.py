"""Scores over the real stack: ranks in the chunk's step, read merged, and made anew when weights change."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from faust.types import TP
from msgspec.structs import replace
from redis.asyncio import Redis

from stream.fold import Folder
from stream.medians import find_median
from stream.redis_store import Store
from stream.signals import SIGNALS
from stream.signals_hop import RANKED_AT_ONCE, SignalsHop
from stream.transport import Chunk
from tests.harness import Site, Stack, eventually, request
from tests.integration.hops import redis_and_kafka
from tracker.contract import keys
from tracker.contract.events import encode_clock
from tracker.contract.loading import load
from tracker.contract.producer import KafkaOut
from tracker.contract.scoring import ScoreRules
from tracker.contract.settings import Settings
from tracker.contract.topics import PROFILE_EVENTS
from tracker.contract.triggers import rfc3339

pytestmark = pytest.mark.integration


async def get(stack: Stack, site: Site, path: str) -> Any:
    status, answer = await stack.request("GET", f"/api/v1/sites/{site.name}{path}", bearer=site.secret_key)
    assert status == 200, answer
    return answer


def track(who: str, event: str, n: int = 0) -> dict[str, Any]:
    return {"type": "track", "event": event, "anonymousId": who, "messageId": f"{who}-{event}-{n}", "properties": {}}


async def test_the_most_engaged_come_first_with_what_their_score_is_made_of(stack: Stack) -> None:
    site = stack.site()
    people = {
        "reader": [track("reader", "Product Viewed", n) for n in range(3)],
        "fan": [track("fan", "Referral Converted"), track("fan", "Product Reviewed")],
        "angry": [track("angry", "Referral Converted"), track("angry", "Email Marked as Spam")],
        "lead": [track("lead", "Form Submitted")],
    }
    await stack.send(site, *(message for messages in people.values() for message in messages))
    await stack.send(site, {"type": "track", "event": "Nothing", "anonymousId": "silent", "messageId": "silent"})

    async def ranked() -> Any:
        answer = await get(stack, site, "/ranking?limit=10")
        engagement = await get(stack, site, "/engagement?window=1h")
        assert (len(answer["ranking"]), engagement["known"]) == (4, 5)
        return answer

    answer = await eventually(ranked)
    assert [round(entry["score"]) for entry in answer["ranking"]] == [42, 10, 6, 0]
    assert [entry["rank"] for entry in answer["ranking"]] == [1, 2, 3, 4]
    assert answer["exact"] is True
    assert answer["settled"] is True
    first = answer["ranking"][0]
    assert first["contributions"] == pytest.approx({"referral_converted": 30 / 42, "review": 12 / 42}, rel=1e-3)
    assert answer["ranking"][1]["stage"] == "lead"

    # With one place only, the angry one's bound of 30 must not hide who is really second; and by a least score.
    assert [e["rank"] for e in (await get(stack, site, "/ranking?limit=1"))["ranking"]] == [1]
    second = (await get(stack, site, "/ranking?limit=2"))["ranking"][1]
    assert second["profile_id"] == answer["ranking"][1]["profile_id"]
    assert len((await get(stack, site, "/ranking?at_least=8"))["ranking"]) == 2

    engagement = await get(stack, site, "/engagement?window=1h")
    assert (engagement["engaged"], engagement["known"]) == (4, 5)
    assert engagement["rate"] == pytest.approx(0.8)
    assert engagement["mean_score"] == pytest.approx((42 + 10 + 6 + 0) / 5, rel=1e-3)

    store = Store(stack.settings.redis)
    await store.start()
    try:
        now_ms = int(time.time() * 1000)
        config = stack.settings.sites[site.name]
        median = await find_median(store, stack.settings.partitions, site.name, config, now_ms)
        assert median == pytest.approx(30, rel=1e-3), "of the bounds 42, 30, 10 and 6, the higher in the middle"
    finally:
        await store.stop()
    profile = await get(stack, site, "/profiles/anonymous_id/reader")
    engaged = profile["engagement"]
    assert engaged["display"] == pytest.approx(100 * (1 - 2 ** (-6 / 30)), rel=1e-3)
    assert (engaged["rank"], engaged["active"], engaged["percentile"]) == (4, 4, 0)
    assert engaged["change_7d"] == pytest.approx(6, rel=1e-3)
    assert (await get(stack, site, "/profiles/anonymous_id/silent"))["engagement"] is None

    # Of two orders the earlier comes later: the other was not the first after all.
    for n, ago_d in enumerate((0, 7)):
        order = track("buyer", "Order Completed", n) | {"timestamp": rfc3339(now_ms - ago_d * 86_400_000)}
        batch = {"batch": [order | {"properties": {"order_id": f"o{n}"}}]}  # by a server: old times are believed
        assert (await stack.request("POST", "/v1/batch", batch, key=site.secret_key))[0] == 200

    async def both_orders() -> bool:
        engagement = await get(stack, site, "/engagement?window=1h")
        assert engagement["mean_score"] == pytest.approx((42 + 10 + 6 + 0 + 20 / 2 + 30) / 6, rel=1e-3)
        return True

    await eventually(both_orders)


async def test_a_site_without_visitors_has_no_rate_and_an_empty_ranking(stack: Stack) -> None:
    site = stack.site()
    answer = await get(stack, site, "/engagement?window=7d")
    assert (answer["engaged"], answer["known"], answer["rate"], answer["mean_score"]) == (0, 0, None, None)
    assert (await get(stack, site, "/ranking"))["ranking"] == []
    for bad in ("/ranking?limit=0", "/ranking?limit=501", "/ranking?at_least=-1", "/engagement?window=2d"):
        status, _ = await stack.request("GET", f"/api/v1/sites/{site.name}{bad}", bearer=site.secret_key)
        assert status == 400, bad


T0 = 1_795_000_000_000
PARTITION = 1001  # of no other: the worker of `stack` has the first few


class Partition:
    """One partition's hop, driven chunk by chunk."""

    def __init__(self, store: Store, out: KafkaOut, settings: Settings) -> None:
        self.folder = Folder(SIGNALS, settings)
        self.made_of = (PARTITION, store, out, self.folder, settings)
        self.offset = 0

    def chunk(self, *values: bytes) -> Chunk:
        records = [SimpleNamespace(offset=self.offset + i, value=v) for i, v in enumerate(values)]
        chunk = Chunk(TP(PROFILE_EVENTS, PARTITION), 1, self.offset, records)
        self.offset = chunk.next
        return chunk


@pytest.fixture
async def partition(stack: Stack) -> AsyncIterator[Partition]:
    settings = load(stack.env)
    async with redis_and_kafka(settings) as (store, out):
        yield Partition(store, out, settings)


def page(site: str, n: int) -> bytes:
    event = {
        "profileId": f"p{n}", "src": [3, n, 0], "site": site, "type": "page", "messageId": f"m{n}", "timestampMs": T0,
        "receivedAtMs": T0, "channel": "site", "anonymousId": f"a{n}",
    }  # fmt: skip
    return json.dumps(event).encode()


async def ranks(redis: Redis, site: str) -> dict[bytes, float]:
    found: Any = await redis.zrange(keys.rank_key(PARTITION, site), 0, -1, withscores=True)
    return dict(found)


async def test_other_weights_rank_everybody_anew_a_part_with_each_chunk(stack: Stack, partition: Partition) -> None:
    site, n = stack.site().name, 3 * RANKED_AT_ONCE
    settings = partition.folder.settings
    # Only this site: the others would be looked at first.
    partition.folder.reconfigure(replace(settings, sites={site: settings.sites[site]}))
    hop = SignalsHop(*partition.made_of)
    await hop.claim(None)
    await hop.claim(0)
    await hop.process(partition.chunk(*(page(site, i) for i in range(n)), encode_clock(T0)))
    redis = Redis.from_url(stack.settings.redis)
    try:
        before = await ranks(redis, site)
        assert len(before) == n
        await redis.delete(keys.profile_key(PARTITION, site, "p7"))  # one that was forgotten since
        heavier = replace(settings.sites[site], score=ScoreRules(weights={"page": 8}))
        partition.folder.reconfigure(replace(settings, sites={site: heavier}))
        hop = SignalsHop(*partition.made_of)  # another owner, in the middle of it
        await hop.claim(None)
        await hop.process(partition.chunk(encode_clock(T0 + 2000)))
        half = await ranks(redis, site)
        assert 0 < sum(half[id] == rank for id, rank in before.items() if id in half) < n
        for i in range(30):
            await hop.process(partition.chunk(encode_clock(T0 + 3000 + i)))
        after = await ranks(redis, site)
        assert after == {id: pytest.approx(rank + 3, abs=1e-9) for id, rank in before.items() if id != b"p7"}
        rules = await redis.hget(keys.ranked_key(PARTITION), site)
        assert rules == partition.folder.rank_rules[site].encode()
    finally:
        await redis.aclose()


async def test_a_changed_file_has_its_effect_on_a_running_worker_and_endpoint(stack: Stack) -> None:
    site = stack.site()
    text = stack.config.read_text("utf-8")

    async def told(url: str, metric: str) -> float:
        _, page = await asyncio.to_thread(request, "GET", url)
        return float(next(line for line in page.splitlines() if line.startswith(f"{metric} ")).split()[1])

    async def failures() -> tuple[float, float]:
        return (
            await told(f"{stack.http}/metrics", "tracker_config_reload_failures_total"),
            await told(f"{stack.worker_http}/metrics", "stream_config_reload_failures_total"),
        )

    async def failed() -> bool:
        return await failures() == (before[0] + 1, before[1] + 1)

    async def heavier() -> bool:
        status, profile = await stack.request(
            "GET", f"/api/v1/sites/{site.name}/profiles/anonymous_id/a", bearer=site.secret_key
        )
        return status == 200 and profile["engagement"]["score"] > 69

    async def worker_loaded() -> bool:
        metric = "stream_config_last_reload_success_timestamp_seconds"
        return await told(f"{stack.worker_http}/metrics", metric) > changed_s

    before = await failures()
    await stack.send(site, track("a", "Product Viewed"))
    try:
        stack.config.write_text("this is no toml", "utf-8")
        await eventually(failed)
        changed_s = time.time()
        stack.config.write_text(f"{text}[sites.{site.name}.score]\nweights = {{ product_view = 70 }}\n", "utf-8")
        await eventually(heavier)
        await eventually(worker_loaded)
        await stack.send(site, track("a", "Form Submitted"))
        stages = await stack.consume("tracker.triggers.lead_stage.v1", 2, site=site)
        assert [trigger["data"]["stage"] for trigger in stages] == ["lead", "mql"], "10 + 70 points by the new weight"
    finally:
        stack.config.write_text(text, "utf-8")
