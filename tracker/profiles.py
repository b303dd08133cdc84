"""Reading one profile: by any of its ids, with the score as it is now and, if asked, an explanation of every signal.

The read API and `tracker profile show|why` both come through here.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Final, cast

import msgspec
from redis.asyncio import Redis

from stream.explain import EXPLAINED, Asked, churn, explain
from tracker.contract import keys, models
from tracker.contract.codec import partition_of
from tracker.contract.ids import ID_TYPES, normal
from tracker.contract.models import Models
from tracker.contract.settings import Settings
from tracker.scores import read_score

ID_KINDS: Final = (*(t.name for t in ID_TYPES), "profile_id")
MAX_MERGES: Final = 64
"""Longest chain of merges that is followed."""


async def read_profile(
    redis: Redis, settings: Settings, site: str, id_type: str, value: str, now_ms: int, *, explained: bool = False
) -> dict[str, Any] | None:
    """The answer of .../profiles/..., or None. Raises RedisError."""
    profile_id = await find(redis, settings, site, id_type, value)
    if profile_id is None:
        return None
    partition = partition_of(profile_id.encode(), settings.partitions)
    stored = await cast("Awaitable[dict[bytes, bytes]]", redis.hgetall(keys.profile_key(partition, site, profile_id)))
    if not stored:
        return None
    fields = {_text(name): _text(state) for name, state in stored.items()}
    parts = {name: msgspec.json.decode(state) for name, state in fields.items()}
    about = parts.pop("about", {})
    found = {"profile_id": profile_id, "site": site, "about": about, "signals": shown(parts)}
    found["engagement"] = await read_score(redis, settings, site, found, now_ms)
    modelled = not fields.keys().isdisjoint(models.SIGNALS)
    parameters = await _models(redis, partition, site) if explained or modelled else {}
    asked = Asked(
        settings=settings, site=site, profile_id=profile_id, about=about, fields=fields, models=parameters
    )  # fmt: skip
    found["churn"] = churn(asked, now_ms)
    if explained:
        found["explained"] = explain(asked, now_ms, (found["engagement"] or {}).get("e50"))
    return found


def shown(parts: dict[str, Any]) -> dict[str, Any]:
    """Signal -> its state as it is stored, in the terms that people go by."""
    return {
        name: EXPLAINED[name].shown(state) if name in EXPLAINED and isinstance(state, dict) else state
        for name, state in sorted(parts.items())
    }


async def find(redis: Redis, settings: Settings, site: str, id_type: str, value: str) -> str | None:
    """The profile's own id, of the one that it is now. Raises RedisError."""
    if id_type != "profile_id":
        known = normal(id_type, value, settings.phone_country)
        found = await redis.get(keys.identifier_key(site, id_type, known)) if known is not None else None
        return _text(found) if found is not None else None
    profile_id = value
    for _ in range(MAX_MERGES):
        if (winner := await redis.get(keys.merged_key(site, profile_id))) is None:
            break
        profile_id = _text(winner)
    return profile_id


async def _models(redis: Redis, partition: int, site: str) -> Models:
    """The site's parameters, as the partition's owner folds with."""
    names = [f"{site}|{signal}" for signal in models.SIGNALS]
    stored = await cast("Awaitable[list[Any]]", redis.hmget(keys.models_key(partition), names))
    found = [models.decode_model(text) for text in stored if text is not None]
    return {(model.site, model.signal): model for model in found}


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
