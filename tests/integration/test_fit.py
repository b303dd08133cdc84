"""`tracker fit` from profiles in Redis to the parameters in every score: real Redis, Kafka and a worker."""

from __future__ import annotations

import json
import random
from typing import Any

import msgspec
import pytest

from stream.core.cart_state import Line
from stream.core.reorder import Basket, Reorder
from stream.fit.nightly import fit as nightly_fit
from tests.harness import Site, Stack, eventually
from tracker.contract import keys
from tracker.contract.codec import partition_of
from tracker.contract.models import Model, decode_model, field_of
from tracker.contract.redis_url import admin
from tracker.contract.settings import Settings

pytestmark = pytest.mark.integration
DAY = 20_000


def buyers(site: Site, partitions: int, count: int) -> dict[str, str]:
    """Key of a profile -> its purchases, as the signal stores them."""
    draw, found = random.Random(1), {}
    for n in range(count):
        days = sorted({0, *(draw.randrange(1, 200) for _ in range(draw.choice([0, 0, 1, 2, 5])))})
        orders = {
            str(d): {"ms": d, "day": DAY + d, "value": 10_000 * draw.randrange(5, 50), "cur": "VND"} for d in days
        }
        state = {"_v": 2, "days": [DAY + d for d in days], "zero_ms": DAY * 86_400_000, "orders": orders}
        key = keys.profile_key(partition_of(f"b{n}".encode(), partitions), site.name, f"b{n}")
        found[key] = json.dumps(state, separators=(",", ":"))
    return found


DAY_MS = 86_400_000
COFFEE = (Line("coffee", 1.0, 10.0),)
TWICE = msgspec.json.encode(Reorder((Basket(DAY_MS, "x", COFFEE), Basket(22 * DAY_MS, "y", COFFEE)))).decode()
"""Coffee, and again three weeks later."""


async def test_a_fit_reaches_every_partition_and_every_score(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in stack.env.items():
        monkeypatch.setenv(name, value)
    site, settings = stack.site(), stack.settings
    redis: Any = admin(settings.redis)
    states = buyers(site, settings.partitions, 60)
    try:
        for key, state in states.items():
            redis.hset(key, "purchase", state)
            redis.hset(key, "reorder", TWICE)

        def models() -> list[Model]:
            found = (redis.hget(keys.models_key(p), f"{site.name}|purchase") for p in range(settings.partitions))
            return [decode_model(text) for text in found if text is not None]

        # The worker sees that the night's fit is due, and does it in a process of its own.
        redis.hset(keys.fit_key(site.name), "purchase", json.dumps({"at_ms": 86_400_000 * DAY}))
        await eventually(lambda: len(models()) == settings.partitions)
        (model,) = models_by_version(models())
        assert (model.version, model.customers, model.confidence) == (1, 60, "low")
        assert model.value is not None
        assert model.value.currency == "VND"
        assert model.gaps == {"coffee": 21.0}
        assert field_of(model) == f"{site.name}|purchase"
        report = json.loads(redis.hget(keys.fit_key(site.name), "purchase"))
        assert (report["status"], report["customers"]) == ("published", 60)
        await eventually(lambda: not redis.exists(keys.fit_key(site.name) + ":lock"))
        redis.set(keys.identifier_key(site.name, "user_id", "b1"), "b1", ex=60)
        path = f"/api/v1/sites/{site.name}/profiles/user_id/b1"
        _, profile = await stack.request("GET", path, bearer=site.secret_key)
        assert (profile["churn"]["purchase"]["model"], profile["churn"]["purchase"]["confidence"]) == (
            "mbg_nbd:1",
            "low",
        )

        redis.set(keys.fit_key(site.name) + ":lock", "somebody", ex=60)
        assert await run_fit(settings, site.name) == 1  # another fit is under way
        redis.delete(keys.fit_key(site.name) + ":lock")
        assert await run_fit(settings, site.name) == 0
        await eventually(lambda: [m.version for m in models()] == [2] * settings.partitions)
    finally:
        redis.delete(*states) if not settings.redis.startswith("redis+cluster") else None
        redis.close()


async def run_fit(settings: Settings, site: str) -> int | None:
    """As a worker does it at night."""
    return await nightly_fit(site, settings)


def models_by_version(models: list[Model]) -> list[Model]:
    return [msgspec.json.decode(text, type=Model) for text in {msgspec.json.encode(m) for m in models}]
