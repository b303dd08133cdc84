"""The read API, with a site's secret key as Bearer token: counters of a window, and one profile.

A rolling window is a sum of tumbling buckets: whole hours, and minutes at its two ends. The oldest and the newest
minute are counted whole, so a window holds up to a minute more than its name says, never less.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable
from typing import Annotated, Any, Final, cast

import msgspec
from fastapi import APIRouter, Depends, Query, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from redis.asyncio import Redis
from redis.exceptions import RedisError

from tracker import metrics
from tracker.contract import keys
from tracker.contract.codec import partition_of
from tracker.contract.events import MAX_ID_CHARS
from tracker.contract.settings import Settings
from tracker.contract.triggers import rfc3339
from tracker.keys import Keys
from tracker.limits import Guard
from tracker.rejections import INVALID_KEY, Refusal, refuse

WINDOWS: Final[dict[str, int]] = {"1m": 60, "5m": 300, "1h": 3600, "24h": 86400}
"""Window -> its length, s."""
GROUPS: Final[dict[str, str]] = {
    "event": keys.event_field(""),
    "channel": keys.channel_field(""),
    "popup": "popup|",
    "message": "message|",
}
"""What counters can be grouped by -> how the fields begin that are counted; the rest of the field is the group's key:
an event's name, a channel, 'action|popup id', 'channel|action'."""
_BEARER: Final = Security(HTTPBearer(auto_error=False, description="The site's secret key."))
ID_TYPES: Final = ("user_id", "anonymous_id", "profile_id")

SUM: Final = """
-- One partition's part of a window. KEYS: counter hashes, all of one partition; ARGV[1]: how the fields begin.
-- Returns field, sum, field, sum, ...: one reply of a few fields instead of one a bucket.
local prefix, sums, fields = ARGV[1], {}, {}
for _, key in ipairs(KEYS) do
  local flat = redis.call('HGETALL', key)
  for i = 1, #flat, 2 do
    local field = flat[i]
    if string.sub(field, 1, #prefix) == prefix then
      if not sums[field] then sums[field] = 0; fields[#fields + 1] = field end
      sums[field] = sums[field] + tonumber(flat[i + 1])
    end
  end
end
local reply = {}
for _, field in ipairs(fields) do
  reply[#reply + 1] = field
  reply[#reply + 1] = string.format('%.0f', sums[field])
end
return reply
"""


class ApiError(Exception):
    """An answer other than 200; tracker/app.py makes the JSON of it."""

    def __init__(self, status: int, code: str, message: str, hint: str, retry_after_s: int = 0) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.hint = status, code, message, hint
        self.retry_after_s = retry_after_s
        """0: the setting retry_after_s, where the status asks to try again."""


def buckets(now_s: int, window_s: int) -> list[tuple[str, int]]:
    """(tier, start) of the tumbling buckets that make a rolling window: at most a minute too much at its old end."""
    at, end = (now_s - window_s) // 60 * 60, now_s // 60 * 60 + 60
    found = []
    while at < end:
        tier = "h" if at % 3600 == 0 and at + 3600 <= end else "m"
        found.append((tier, at))
        at += keys.TIERS[tier][0]
    return found


async def read_counters(
    redis: Redis, settings: Settings, site: str, by: str, window: str, now_ms: int
) -> dict[str, Any]:
    """The answer of .../counters. Raises RedisError.

    `complete_until`: the moment up to which every event is counted, or None before each partition has had a clock
    record.
    """
    wanted, prefix = buckets(now_ms // 1000, WINDOWS[window]), GROUPS[by]
    script = redis.register_script(SUM)
    pipe = redis.pipeline(transaction=False)
    for p in range(settings.partitions):
        await script(keys=[keys.counter_key(p, site, tier, at) for tier, at in wanted], args=[prefix], client=pipe)
    for p in range(settings.partitions):
        pipe.hget(keys.profiles_tag(p) + ":head", "clock_ms")
    replies = await pipe.execute()
    sums: dict[str, int] = {}
    for flat in replies[: settings.partitions]:
        for field, count in zip(flat[::2], flat[1::2], strict=True):
            key = _text(field)[len(prefix) :]
            sums[key] = sums.get(key, 0) + int(count)
    clocks = [int(clock) for clock in replies[settings.partitions :] if clock is not None]
    return {
        "window": window,
        "groups": [{"key": k, "count": n} for k, n in sorted(sums.items(), key=lambda item: (-item[1], item[0]))],
        "complete_until": rfc3339(min(clocks)) if len(clocks) == settings.partitions else None,
    }


async def read_profile(redis: Redis, settings: Settings, site: str, id_type: str, value: str) -> dict[str, Any] | None:
    """The answer of .../profiles/..., or None. Raises RedisError."""
    if id_type == "profile_id":
        profile_id = value
    else:
        found = await redis.get(keys.identifier_key(site, id_type, value))
        if found is None:
            return None
        profile_id = _text(found)
    partition = partition_of(profile_id.encode(), settings.partitions)
    fields = await cast("Awaitable[dict[bytes, bytes]]", redis.hgetall(keys.profile_key(partition, site, profile_id)))
    if not fields:
        return None
    parts = {_text(name): msgspec.json.decode(state) for name, state in fields.items()}
    about = parts.pop("about", {})
    return {"profile_id": profile_id, "site": site, "about": about, "signals": dict(sorted(parts.items()))}


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def router(settings: Settings, redis: Redis, keys: Keys, guard: Guard) -> APIRouter:
    def authorize(site: str, request: Request, found: Annotated[HTTPAuthorizationCredentials | None, _BEARER]) -> None:
        if found is None:
            raise ApiError(
                401, "missing_key", "There is no secret key.", "Send Authorization: Bearer <the site's secret key>."
            )
        ip = guard.sender(request.scope)[1]
        owner = guard.limits.guess(keys.find(found.credentials) or refuse(INVALID_KEY), ip, time.perf_counter())
        if isinstance(owner, Refusal):
            row = owner.rejection
            metrics.REJECTED[row.name].inc()
            raise ApiError(row.status, row.name, row.message, row.hint, owner.retry_after_s)
        if owner.source == "client":
            raise ApiError(403, "write_key", "A write key can only send events.", "Use the site's secret key.")
        if owner.site != site:
            raise ApiError(403, "other_site", "The key is of another site.", "Use the secret key of this site.")

    routes = APIRouter(prefix="/api/v1/sites/{site}", tags=["read"], dependencies=[Depends(authorize)])

    @routes.get("/counters")
    async def counters(
        site: str,
        by: Annotated[str, Query(description="event, channel, popup or message")] = "event",
        window: Annotated[str, Query(description="1m, 5m, 1h or 24h")] = "1h",
    ) -> dict[str, Any]:
        """Counts of a rolling window, largest first."""
        for name, value, allowed in (("by", by, GROUPS), ("window", window, WINDOWS)):
            if value not in allowed:
                raise ApiError(
                    400, f"bad_{name}", f"`{name}` has an unknown value.", f"Use one of: {', '.join(allowed)}."
                )
        try:
            return await read_counters(redis, settings, site, by, window, time.time_ns() // 1_000_000)
        except RedisError as e:
            raise _unavailable(e) from None

    @routes.get("/profiles/{id_type}/{value:path}")
    async def profile(site: str, id_type: str, value: str) -> dict[str, Any]:
        """One profile: its ids and traits, and the state of every signal."""
        if id_type not in ID_TYPES:
            raise ApiError(400, "bad_id_type", "Unknown kind of id.", f"Use one of: {', '.join(ID_TYPES)}.")
        if len(value) > MAX_ID_CHARS:
            raise ApiError(400, "bad_id", "The id is too long.", f"Ids have at most {MAX_ID_CHARS} characters.")
        try:
            found = await read_profile(redis, settings, site, id_type, value)
        except RedisError as e:
            raise _unavailable(e) from None
        if found is None:
            raise ApiError(
                404,
                "unknown_profile",
                "No profile has this id.",
                "New ids are there a few seconds after their first event.",
            )
        return found

    return routes


def _unavailable(error: RedisError) -> ApiError:
    metrics.REDIS_ERRORS.inc()
    return ApiError(503, "redis_unavailable", "Redis does not answer.", f"Try again later ({type(error).__name__}).")
