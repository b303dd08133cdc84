"""The read API, with a site's secret key as Bearer token: counters and visitors of a window, engagement, a profile."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Annotated, Any, Final, TypeVar

import msgspec
from fastapi import APIRouter, Depends, Query, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from redis.asyncio import Redis
from redis.exceptions import RedisError

from tracker import metrics
from tracker.contract import keys as contract_keys
from tracker.contract.events import MAX_ID_CHARS
from tracker.contract.settings import Settings
from tracker.contract.windows import WINDOWS
from tracker.counters import BASES, CARTS_BY, DEFAULT_LIMIT, GROUPS, MAX_LIMIT, read_carts, read_counters, read_visitors
from tracker.keys import Keys
from tracker.limits import Guard
from tracker.profiles import ID_KINDS, read_profile
from tracker.rejections import INVALID_KEY, Refusal, refuse
from tracker.reports.feedback import BY as FEEDBACK_BY
from tracker.reports.feedback import read_feedback
from tracker.reports.messages import BY as MESSAGES_BY
from tracker.reports.messages import read_messages
from tracker.reports.retention import DEFAULT_WEEKS, MAX_COHORTS, read_retention
from tracker.reports.sales import read_sales
from tracker.reports.steps import read_steps
from tracker.reports.usage import read_usage
from tracker.scores import DEFAULT_RANKING, MAX_RANKING, read_engagement, read_ranking

_BEARER: Final = Security(HTTPBearer(auto_error=False, description="The site's secret key."))
EXPLAIN: Final = {"0": False, "false": False, "1": True, "true": True}
T = TypeVar("T")


def _one_of(values: Iterable[str]) -> str:
    return "One of: " + ", ".join(values)


Window = Annotated[str, Query(description=_one_of(WINDOWS))]
MostGroups = Annotated[str, Query(description=f"Most groups, 1 to {MAX_LIMIT}")]


class ApiError(Exception):
    """An answer other than 200; tracker/app.py makes the JSON of it."""

    def __init__(self, status: int, code: str, message: str, hint: str, retry_after_s: int = 0) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.hint = status, code, message, hint
        self.retry_after_s = retry_after_s
        """0: the setting retry_after_s, where the status asks to try again."""


async def read_segments(redis: Redis, settings: Settings, site: str) -> list[dict[str, Any]]:
    """The site's segments: name, condition, how many profiles are in it. Raises RedisError."""
    known = settings.sites.get(site)
    if known is None or not known.segments:
        return []
    fields = [f"{contract_keys.segment_gauge(s.name)}|{site}" for s in known.segments]
    pipe = redis.pipeline(transaction=False)
    for partition in range(settings.partitions):
        pipe.hmget(f"{contract_keys.profiles_tag(partition)}:g", fields)
    sums = [sum(int(n or 0) for n in parts) for parts in zip(*await pipe.execute(), strict=True)]
    return [
        {"name": s.name, "members": n, "when": msgspec.to_builtins(s.when)}
        for s, n in zip(known.segments, sums, strict=True)
    ]


def router(current: Callable[[], Settings], redis: Redis, keys: Keys, guard: Guard) -> APIRouter:
    """`current`: the settings as they are now; sites change while it runs."""

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
        by: Annotated[str, Query(description=_one_of(GROUPS))] = "event",
        window: Window = "1h",
        limit: MostGroups = str(DEFAULT_LIMIT),
    ) -> dict[str, Any]:
        """Counts of a rolling window, largest first; `other` is the count of the groups beyond the limit."""
        _check("by", by, GROUPS)
        _check("window", window, WINDOWS)
        most = _limit(limit, MAX_LIMIT)
        return await _answer(read_counters(redis, current(), site, by, window, _now_ms(), most))

    @routes.get("/visitors")
    async def visitors(site: str, window: Window = "24h") -> dict[str, Any]:
        """How many visitors (profiles) a rolling window has, and how many of them came by each channel."""
        _check("window", window, WINDOWS)
        return await _answer(read_visitors(redis, current(), site, window, _now_ms()))

    @routes.get("/ranking")
    async def ranking(
        site: str,
        limit: Annotated[str, Query(description=f"Most visitors, 1 to {MAX_RANKING}")] = str(DEFAULT_RANKING),
        at_least: Annotated[str, Query(description="Only scores from here on")] = "",
    ) -> dict[str, Any]:
        """The most engaged visitors now, and how many are active."""
        most = _limit(limit, MAX_RANKING)
        least = _positive(at_least) if at_least else None
        return await _answer(read_ranking(redis, current(), site, most, least, _now_ms()))

    @routes.get("/engagement")
    async def engagement(site: str, window: Window = "7d") -> dict[str, Any]:
        """How many of the known profiles were engaged in a rolling window, and the mean score of all of them."""
        _check("window", window, WINDOWS)
        return await _answer(read_engagement(redis, current(), site, window, _now_ms()))

    @routes.get("/carts")
    async def carts(
        site: str,
        window: Window = "7d",
        basis: Annotated[str, Query(description=f"Of abandonment_rate. {_one_of(BASES)}")] = "resolved",
        by: Annotated[str | None, Query(description=f"Also in groups. {_one_of(CARTS_BY)}")] = None,
        limit: MostGroups = str(DEFAULT_LIMIT),
    ) -> dict[str, Any]:
        """What became of the carts that were opened in a rolling window, and the rates of it (null: of none)."""
        _check("window", window, WINDOWS)
        _check("basis", basis, BASES)
        if by is not None:
            _check("by", by, CARTS_BY)
        most = _limit(limit, MAX_LIMIT)
        return await _answer(read_carts(redis, current(), site, window, basis, _now_ms(), by, most))

    @routes.get("/messages")
    async def messages(
        site: str,
        by: Annotated[str, Query(description=_one_of(MESSAGES_BY))] = "channel",
        window: Window = "7d",
        limit: MostGroups = str(DEFAULT_LIMIT),
    ) -> dict[str, Any]:
        """What became of the messages of a rolling window, who unsubscribed, and why."""
        _check("by", by, MESSAGES_BY)
        _check("window", window, WINDOWS)
        most = _limit(limit, MAX_LIMIT)
        return await _answer(read_messages(redis, current(), site, by, window, most, _now_ms()))

    @routes.get("/retention")
    async def retention(
        site: str,
        weeks: Annotated[str, Query(description=f"Cohorts, 1 to {MAX_COHORTS}")] = str(DEFAULT_WEEKS),
    ) -> dict[str, Any]:
        """Of those who were first active in a week, how many are active, and how many leave, in the weeks after it."""
        return await _answer(read_retention(redis, current(), site, _limit(weeks, MAX_COHORTS, "weeks"), _now_ms()))

    @routes.get("/sales")
    async def sales(site: str, window: Window = "30d") -> dict[str, Any]:
        """Renewals of subscriptions of a rolling window, and orders of a new category or a higher tier."""
        _check("window", window, WINDOWS)
        return await _answer(read_sales(redis, current(), site, window, _now_ms()))

    @routes.get("/steps")
    async def steps(site: str, window: Window = "30d") -> dict[str, Any]:
        """How many went from which step of their journey to which in a rolling window, and how long it took them."""
        _check("window", window, WINDOWS)
        return await _answer(read_steps(redis, current(), site, window, _now_ms()))

    @routes.get("/usage")
    async def usage(
        site: str, window: Annotated[str, Query(description=f"Of active_minutes. {_one_of(WINDOWS)}")] = "24h"
    ) -> dict[str, Any]:
        """Who uses what the site offers: daily, weekly and monthly users, stickiness, active minutes."""
        _check("window", window, WINDOWS)
        return await _answer(read_usage(redis, current(), site, window, _now_ms()))

    @routes.get("/feedback")
    async def feedback(
        site: str,
        by: Annotated[str, Query(description=_one_of(FEEDBACK_BY))] = "channel",
        window: Window = "30d",
        limit: MostGroups = str(DEFAULT_LIMIT),
    ) -> dict[str, Any]:
        """NPS, CSAT, CES, ratings, reviews and support times of a rolling window, and the reasons that people give."""
        _check("by", by, FEEDBACK_BY)
        _check("window", window, WINDOWS)
        most = _limit(limit, MAX_LIMIT)
        return await _answer(read_feedback(redis, current(), site, by, window, most, _now_ms()))

    @routes.get("/segments")
    async def segments(site: str) -> dict[str, Any]:
        """The segments of tracker.toml, and how many profiles are in each."""
        return {"segments": await _answer(read_segments(redis, current(), site))}

    @routes.get("/profiles/{id_type}/{value:path}")
    async def profile(
        site: str,
        id_type: str,
        value: str,
        explain: Annotated[
            str, Query(description=f"With every signal in words, and what comes next. {_one_of(EXPLAIN)}")
        ] = "0",
    ) -> dict[str, Any]:
        """One profile: its ids and traits, the state of every signal, and its engagement score as it is now."""
        if id_type not in ID_KINDS:
            raise ApiError(400, "bad_id_type", "Unknown kind of id.", f"Use one of: {', '.join(ID_KINDS)}.")
        if len(value) > MAX_ID_CHARS:
            raise ApiError(400, "bad_id", "The id is too long.", f"Ids have at most {MAX_ID_CHARS} characters.")
        _check("explain", explain, EXPLAIN)
        try:
            found = await read_profile(redis, current(), site, id_type, value, _now_ms(), explained=EXPLAIN[explain])
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


def _check(name: str, value: str, allowed: Iterable[str]) -> None:
    if value not in allowed:
        raise ApiError(400, f"bad_{name}", f"`{name}` has an unknown value.", f"Use one of: {', '.join(allowed)}.")


def _limit(text: str, most: int, name: str = "limit") -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 9 and 1 <= int(text) <= most):
        raise ApiError(400, f"bad_{name}", f"`{name}` is no such number.", f"Use 1 to {most}.")
    return int(text)


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < 1e12:
        raise ApiError(400, "bad_at_least", "`at_least` is no such number.", "Use a number above 0.")
    return number


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


async def _answer(reading: Awaitable[T]) -> T:
    """What is read of Redis. Raises ApiError when it does not answer."""
    try:
        return await reading
    except RedisError as e:
        raise _unavailable(e) from None


def _unavailable(error: RedisError) -> ApiError:
    metrics.REDIS_ERRORS.inc()
    return ApiError(503, "redis_unavailable", "Redis does not answer.", f"Try again later ({type(error).__name__}).")
